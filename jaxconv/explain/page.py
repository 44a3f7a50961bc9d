"""The explanation as one HTML file that needs nothing else, and its numbers as JSON beside it.

What is shown is put together here; how it looks is in `templates/`, whose environment escapes whatever it is given.
"""

import functools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from jaxconv._text import printable
from jaxconv.explain.collect import Explanation
from jaxconv.explain.findings import by, pattern, percent
from jaxconv.explain.pictures import pictures
from jaxconv.explain.record import record
from jaxconv.explain.rows import HEADS, MEANINGS, rows
from jaxconv.explain.terminal import tiling_sentence

CONVENTIONS = {
    "path": "A way from an input pixel to the output through one tap of every layer. Channels are collapsed: a "
    "contraction over channels reads each distinct source once.",
    "pointwise work": "Reads each distinct source once: x · sigmoid(x) is one path, x + conv(x) adds up.",
    "concatenation": "Adds up when the channels are next mixed.",
    "pooling, resize, unpooling": "A pooling reads each position of its window once; a resize the support of its "
    "weights; an unpooling puts a value somewhere in the window that its index came from.",
    "nominal": "As if the image had no borders; seen is cut at the borders of this image.",
    "coverage": "Share of the box of what is seen that is read at all.",
    "evenness": "(Σc)² / (n Σc²) of the counts c over the box: 1 where all are equal.",
    "checkerboard counts": "(max − min) / mean of the paths into the phases of an upsampling, whatever the weights.",
    "pattern on flat images": "Root mean square of what differs between the phases of the output, in the output's own "
    "units, with the weights as they are; beside it the standard deviation of the output over the flat images.",
    "global operations": "What reads a whole axis (norms over space, global pooling, attention) is kept apart.",
}
# Columns of text; the others are numbers.
WORDS = ("layer", "operation", "holes", "checkerboard")


@functools.cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("jaxconv.explain"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined, finalize=lambda value: printable(value) if type(value) is str else value,
    )  # fmt: skip
    environment.filters["by"] = by
    return environment.get_template("page.html")


def write_page(found: Explanation, path: str | Path) -> Path:
    """Write the page, and NAME.json beside it, and rename them, so that neither is ever half-written."""
    from jaxconv.train.files import write_beside

    made = record(found)
    text = page(found, made)
    numbers = json.dumps(made, indent=1, allow_nan=False, ensure_ascii=False)
    write_beside(Path(path).with_suffix(".json"), lambda p: p.write_text(numbers + "\n", encoding="utf-8"))
    return write_beside(path, lambda p: p.write_text(text, encoding="utf-8"))


def page(found: Explanation, made: dict[str, Any] | None = None) -> str:
    """The page as text; ``made`` is the `record` of what was found, where the caller has it.

    >>> import jax, jax.numpy as jnp, jaxconv as jc
    >>> from jaxconv.explain.collect import explain
    >>> from jaxconv.explain.target import Target
    >>> net = lambda x: jc.conv(x, jnp.ones((3, 3, 1, 1)), padding=1)
    >>> text = page(explain(Target("net", net, (jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32),)), draws=1))
    >>> text.startswith("<!doctype html>"), "http" in text
    (True, False)
    """
    drawn = defaultdict(list, pictures(found))
    made, table = made or record(found), rows(found)
    meanings = _in_words_of(found, MEANINGS)
    conventions = (meanings if table else {}) | _in_words_of(found, CONVENTIONS)
    shown = {
        "record": made, "cards": _cards(found, made), "drawn": drawn, "rows": table, "heads": HEADS, "words": WORDS,
        "meanings": meanings, "conventions": conventions, "board": _board(found), "tiles": _tiles(found),
    }  # fmt: skip
    return _template().render(shown).strip() + "\n"


def _cards(found: Explanation, made: dict[str, Any]) -> list[tuple[str, str, str]]:
    field = found.field
    out = f"output {by(field.output_size)}, step {by(field.stride)}"
    cards = [
        ("Receptive field", by(field.size), f"{found.place}s, nominal"),
        (found.whole.capitalize(), by(field.input_size), out),
    ]
    if found.gridding is not None:
        output = found.gridding.output
        seen = "{used} of {total} {place}s".format(place=found.place, **made["output"])
        cards.append(("Used of it", percent(output.coverage), seen))
        cards.append(("Evenness", f"{output.evenness:.2f}", f"1: all {found.place}s equally often"))
    if found.effective is not None:
        ratio = found.effective.ratio
        value = percent(ratio) if ratio is not None else f"{found.effective.area()} {found.place}s"
        cards.append(("Effective field", value, "holds 95 % of the gradient energy"))
    if found.board is not None:
        spread = f"on flat {found.whole}s; the output's spread: {found.board.spread:.2g}"
        cards.append(("Checkerboard pattern", f"{found.board.pattern:.2g}", spread))
    return cards


def _in_words_of(found: Explanation, terms: dict[str, str]) -> dict[str, str]:
    """Terms and meanings as one says them of a signal or a volume."""

    def said(text: str) -> str:
        return text.replace("pixel", found.place).replace("image", found.whole)

    return {said(term): said(meaning) for term, meaning in terms.items()}


def _board(found: Explanation) -> str:
    if found.board is None:
        return ""
    board = found.board
    known = [("counts", board.counts), ("counts of the gradient", board.gradient_counts)]
    known.append(("gradient on flat cotangents", board.gradient_score))
    listed = "; ".join(f"{name} {value:.2g}" for name, value in known if value is not None)
    return (
        f"The pattern on flat {found.whole}s with levels of {board.probed}: {pattern(board)}. "
        f"Unevenness: {listed or 'not known'}."
    )


def _tiles(found: Explanation) -> str:
    if found.tiling is not None:
        return tiling_sentence(found)
    why = found.failed.get("tiling")
    return f"Large {found.whole}s cannot be cut exactly: {why}." if why else ""
