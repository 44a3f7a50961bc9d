"""The explanation in the terminal."""

import re
from typing import Any

from jaxconv._text import printable
from jaxconv.explain.collect import Explanation
from jaxconv.explain.findings import FINE, NOTE, PROBLEM, by, findings
from jaxconv.explain.rows import HEADS, rows

# After which character a text of a column may be broken; the others are numbers.
BREAKS = {"layer": "/", "operation": " ", "holes": " ", "checkerboard": " "}
SIGNS = {PROBLEM: ("✗", "bold red"), NOTE: ("•", "yellow"), FINE: ("✓", "green")}


def show(found: Explanation, console: Any) -> None:
    """Print the table and the findings."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape as escape_markup
    from rich.padding import Padding
    from rich.table import Table

    def escape(text: str) -> str:
        return escape_markup(printable(text))

    size = f"{by(found.field.input_size)} → {by(found.field.output_size)}"
    made = rows(found)
    if made:
        title = f"{escape(found.target.name)}: {size}"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        columns = {head: [printable(row.texts[i]) for row in made] for i, head in enumerate(HEADS)}
        widths = fitted(columns, console.width)
        for head, width in widths.items():
            table.add_column(head, justify="left" if head in BREAKS else "right", width=width, no_wrap=True)
        for number, row in enumerate(made):
            look = "bold" if "output" in row.marks else "red" if row.marks & {"opens", "board"} else None
            if "closes" in row.marks and look is None:
                look = "green"
            texts = (broken(columns[head][number], head, width) for head, width in widths.items())
            table.add_row(*map(escape_markup, texts), style=look)
        console.print(table)
    else:
        console.print(f"{printable(found.target.name)}: {size}", markup=False)
    for remark in found.target.remarks:
        console.print(f"assumed: {printable(remark)}", markup=False, highlight=False)
    for finding in findings(found):
        sign, look = SIGNS[finding.kind]
        console.print(f"[{look}]{sign} {escape(finding.title)}[/]", highlight=False)
        console.print(Padding(escape(finding.text), (0, 0, 0, 2)), highlight=False)
        for fix, code in zip(finding.fixes, finding.code, strict=True):
            console.print(Padding(f"→ {escape(fix)}", (0, 0, 0, 2)), highlight=False)
            console.print(Padding(escape(code), (0, 0, 0, 6)), highlight=False)
    for step, why in found.failed.items():
        if step.startswith("a drawing"):
            console.print(f"[yellow]warning[/] {escape(step)} failed: {escape(why)}", highlight=False)
    if found.tiling is not None:
        console.print(f"[bold]Tiles[/] {escape(tiling_sentence(found))}", highlight=False)
    elif "tiling" in found.failed:
        console.print(f"[bold]Tiles[/] {escape(found.failed['tiling'])}", highlight=False)


def fitted(columns: dict[str, list[str]], width: int) -> dict[str, int]:
    """The columns that fit on a screen, and their widths: no name or number is broken but after its breaking character.

    >>> fitted({"#": ["1"], "layer": ["encoder/0/conv"], "output": ["256×256"]}, 26)
    {'#': 1, 'layer': 11, 'output': 7}
    """
    least = {h: max(len(part) for text in [h, *texts] for part in _parts(text, h)) for h, texts in columns.items()}
    whole = {h: max(map(len, [h, *texts])) for h, texts in columns.items()}
    empty = [h for h in ("checkerboard", "holes") if not any(columns.get(h, ()))]
    # The first make room for whole names, the others only for what cannot be broken.
    for head in (*empty, "step", "seen", "evenness", "output", "#"):
        needed = least if head in ("output", "#") else {h: whole[h] for h in least}
        if sum(needed.values()) + 2 * len(needed) + 1 > width:
            least.pop(head, None)
    spare = width - sum(least.values()) - 2 * len(least) - 1  # between two columns are two spaces
    for head in least:
        more = min(whole[head] - least[head], max(spare, 0))
        least[head] += more
        spare -= more
    return least


def broken(text: str, head: str, width: int) -> str:
    """A text in lines of at most a width, where it can be broken.

    >>> broken("encoder/level2/0/conv", "layer", 15)
    'encoder/level2/\\n0/conv'
    """
    lines = [""]
    for part in _parts(text, head):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part + (" " if BREAKS.get(head) == " " else "")
    return "\n".join(line.rstrip() for line in lines)


def _parts(text: str, head: str) -> list[str]:
    match BREAKS.get(head):
        case None:
            return [text]
        case " ":
            return text.split() or [""]
        case mark:
            return [part for part in re.split(f"(?<={mark})", text) if part] or [""]


def tiling_sentence(found: Explanation) -> str:
    """Halo, alignment and cost in one sentence."""
    advice = found.tiling
    assert advice is not None
    parts = zip(advice.before, advice.keep, advice.after, advice.crop, strict=True)
    sums = {f"{before} + {keep} + {after} = {crop}" for before, keep, after, crop in parts}
    aligned = f", and crops start at multiples of {by(advice.align)}" if max(advice.align) > 1 else ""
    return (
        f"Large {found.whole}s can be cut exactly: a crop of {by(advice.crop)} input {found.place}s gives the right "
        f"outputs for the {by(advice.keep)} in its middle ({' and '.join(sorted(sums))}){aligned}. "
        f"jc.analysis.tiled(fn, {advice.tile}) does that, with at least {advice.tile} kept of each crop: in all "
        f"{_more(advice.work, found.whole)}."
    )


def _more(work: float, whole: str) -> str:
    if work < 2:
        return f"{100 * (work - 1):.2g} % more work than for the {whole} in one piece"
    return f"{work:.2g} times the work of the {whole} in one piece; larger tiles waste less"
