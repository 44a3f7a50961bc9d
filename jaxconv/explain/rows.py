"""The per-layer table as plain strings, the same for terminal and page."""

from dataclasses import dataclass

from jaxconv.analysis.dilation.gridding import LayerGridding
from jaxconv.analysis.upsampling.checkerboard import LayerOverlap
from jaxconv.explain.collect import Explanation
from jaxconv.explain.findings import by, percent

HEADS = ("#", "layer", "operation", "output", "step", "field", "seen", "used", "evenness", "holes", "checkerboard")
MEANINGS = {
    "output": "spatial size of the layer's output",
    "step": "input pixels that one step of the output is worth",
    "field": "nominal receptive field, as if the image had no borders",
    "seen": "box of input pixels that the output in the middle reads in this image",
    "used": "share of that box that is read at all",
    "evenness": "(sum of counts)² / (n × sum of squares): 1 where all pixels are used equally often",
    "holes": "whether the layer opens or closes holes, and the period of the grid that is used",
    "checkerboard": "unevenness of the taps over the phases of an upsampling, then what the layer itself adds to it on "
    "flat images with the weights as they are; ∇ that of the gradient",
}
NAMES = {"conv": "conv", "conv_transpose": "transposed", "pool": "pool", "unpool": "unpool", "output": ""}


@dataclass(frozen=True)
class Row:
    """One line: the texts in the order of `HEADS`, and numbers to sort by."""

    texts: tuple[str, ...]
    keys: tuple[float | str, ...]
    marks: frozenset[str]


def rows(found: Explanation) -> list[Row]:
    """The table of a network; empty where its layers could not be read.

    >>> import jax, jax.numpy as jnp, jaxconv as jc
    >>> from jaxconv.explain.collect import explain
    >>> from jaxconv.explain.target import Target
    >>> net = lambda x: jc.conv(x, jnp.ones((3, 3, 1, 1)), padding=1, stride=2)
    >>> made = rows(explain(Target("net", net, (jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32),)), draws=1))
    >>> made[0].texts[2:5]
    ('conv 3×3 stride 2', '4×4', '2×2')
    """
    if found.gridding is None:
        return []
    overlaps = found.overlaps
    made = [_row(str(n + 1), row, overlaps.get(n)) for n, row in enumerate(found.gridding.layers)]
    return [*made, _row("", found.gridding.output, None)]


def operation(row: LayerGridding) -> str:
    """conv 3×3 rate 2."""
    words = [NAMES.get(row.kind, row.kind.replace("_", " "))]
    if row.kernel:
        words[0] += f" {by(row.kernel)}"
    for name, values in (("stride", row.stride), ("up", row.base), ("rate", row.dilation)):
        if any(v != 1 for v in values):
            words.append(f"{name} {values[0] if len(set(values)) == 1 else by(values)}")
    return " ".join(words)


def _row(number: str, row: LayerGridding, overlap: LayerOverlap | None) -> Row:
    holes = "opens" if row.opens else "closes" if row.closes else "open" if row.coverage < 1 else ""
    if holes in ("opens", "open") and max(row.period, default=1) > 1:
        holes += f" ({by(row.period)})"
    board, score = "", 0.0
    if overlap is not None:
        parts = [f"{overlap.counts:.2g}" if overlap.counts else ""]
        parts.append(f"flat {overlap.added:.2g}" if overlap.added > 1e-6 and _upsamples(overlap) else "")
        parts.append(f"∇ {overlap.gradient:.2g}" if overlap.gradient else "")
        board, score = ", ".join(p for p in parts if p), max(overlap.counts, overlap.gradient)
    texts = (
        number,
        row.place or row.name,
        operation(row),
        by(row.output_size),
        by(row.jump),
        by(row.nominal_size),
        by(row.size),
        percent(row.coverage),
        f"{row.evenness:.2f}",
        holes,
        board,
    )
    sizes = [float(max(v, default=0)) for v in (row.output_size, row.jump, row.nominal_size, row.size)]
    keys: tuple[float | str, ...]
    keys = (int(number or 10**9), texts[1], texts[2], *sizes, row.coverage, row.evenness, holes, score)
    marks = {"opens"} if row.opens else {"closes"} if row.closes else set()
    marks |= {"board"} if overlap is not None and overlap.counts else set()
    return Row(texts, keys, frozenset(marks | ({"output"} if not number else set())))


def _upsamples(overlap: LayerOverlap) -> bool:
    return overlap.name in ("transposed convolution", "pixel shuffle", "max_unpool")
