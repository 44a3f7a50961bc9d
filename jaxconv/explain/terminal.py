"""The explanation in the terminal."""

from typing import Any

from jaxconv._text import printable
from jaxconv.explain.collect import Explanation
from jaxconv.explain.findings import FINE, NOTE, PROBLEM, by, findings
from jaxconv.explain.rows import HEADS, rows

SIGNS = {PROBLEM: ("✗", "bold red"), NOTE: ("•", "yellow"), FINE: ("✓", "green")}


def show(found: Explanation, console: Any) -> None:
    """Print the table and the findings."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape as escape_markup
    from rich.table import Table

    def escape(text: str) -> str:
        return escape_markup(printable(text))

    size = f"{by(found.field.input_size)} → {by(found.field.output_size)}"
    made = rows(found)
    if made:
        title = f"{escape(found.target.name)}: {size}"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        narrow = console.width < 132
        heads = [h for h in HEADS if not narrow or h not in ("step", "seen", "evenness")]
        for head in heads:
            text = head in ("layer", "operation", "holes", "checkerboard")
            table.add_column(head, justify="left" if text else "right", overflow="fold", no_wrap=not text)
        for row in made:
            texts = [t for h, t in zip(HEADS, row.texts, strict=True) if h in heads]
            look = "bold" if "output" in row.marks else "red" if row.marks & {"opens", "board"} else None
            if "closes" in row.marks and look is None:
                look = "green"
            table.add_row(*map(escape, texts), style=look)
        console.print(table)
    else:
        console.print(f"{printable(found.target.name)}: {size}", markup=False)
    for remark in found.target.remarks:
        console.print(f"assumed: {printable(remark)}", markup=False, highlight=False)
    for finding in findings(found):
        sign, look = SIGNS[finding.kind]
        console.print(f"[{look}]{sign} {escape(finding.title)}[/]", highlight=False)
        console.print(f"  {escape(finding.text)}", highlight=False)
        for fix in finding.fixes:
            console.print(f"  → {escape(fix)}", highlight=False)
    for step, why in found.failed.items():
        if step.startswith("a drawing"):
            console.print(f"[yellow]warning[/] {escape(step)} failed: {escape(why)}", highlight=False)
    if found.tiling is not None:
        console.print(f"[bold]Tiles[/] {escape(tiling_sentence(found))}", highlight=False)
    elif "tiling" in found.failed:
        console.print(f"[bold]Tiles[/] {escape(found.failed['tiling'])}", highlight=False)


def tiling_sentence(found: Explanation) -> str:
    """Halo, alignment and cost in one sentence."""
    advice = found.tiling
    assert advice is not None
    return (
        f"Large images can be cut exactly: of each crop the outputs of the first {by(advice.before)} and the last "
        f"{by(advice.after)} input pixels are dropped, and crops start at multiples of {by(advice.align)}. Tiles of "
        f"{advice.tile} are crops of {by(advice.crop)}, in all {_more(advice.work)}: "
        f"jc.analysis.tiled(fn, {advice.tile})."
    )


def _more(work: float) -> str:
    if work < 2:
        return f"{100 * (work - 1):.2g} % more work than for the image as a whole"
    return f"{work:.2g} times the work of the image as a whole; larger tiles waste less"
