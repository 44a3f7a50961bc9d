"""The figures of the page, as images that are part of it, each with the sentence that a screen reader says."""

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jaxconv import figures
from jaxconv.analysis import GradientField
from jaxconv.analysis.upsampling.checkerboard import LayerOverlap
from jaxconv.explain.collect import Explanation
from jaxconv.explain.findings import by, overlap_name, pattern, percent

SVG_UP_TO = 150_000  # bytes; beyond that pixels are smaller
TEXTS_UP_TO = 250  # in a figure: each is drawn as a path, and more of them than this are seldom smaller than pixels
DPI = 144  # twice what they are shown at


@dataclass(frozen=True)
class Picture:
    """A drawing as a data address, its size on the page in CSS pixels, alternative text, and a caption."""

    data: str
    width: int
    height: int
    alt: str
    caption: str


def embed(figure: Any, alt: str, caption: str = "") -> Picture:
    """A matplotlib figure as SVG where that is small, else as PNG.

    >>> from jaxconv import figures
    >>> embed(figures.overlap((3,), stride=(2,)), "bars").data[:26]
    'data:image/svg+xml;base64,'
    """
    import matplotlib.text

    wide, high = figure.get_size_inches()
    engine = figure.get_layout_engine()
    # The same figure gives the same bytes: no date, and the same names for its parts.
    with matplotlib.rc_context(
        {"svg.hashsalt": "jaxconv", "figure.autolayout": False, "figure.constrained_layout.use": False}
    ):
        if engine is not None:  # places everything once and not before each drawing: it takes as long as the drawing
            engine.execute(figure)
            figure.set_layout_engine(None)
        raw = b""
        if len(figure.findobj(matplotlib.text.Text)) <= TEXTS_UP_TO:
            svg = io.BytesIO()
            figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None}, dpi=DPI)
            kind, raw = "svg+xml", svg.getvalue()
        if not raw or len(raw) > SVG_UP_TO:
            png = io.BytesIO()
            figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
            kind, raw = "png", png.getvalue()
    data = f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"
    return Picture(data, round(72 * wide), round(72 * high), alt, caption)


def pictures(found: Explanation) -> dict[str, list[Picture]]:
    """The figures of each section; what cannot be drawn (four axes, no counts) is left out."""
    made: dict[str, list[Picture]] = {}
    if len(found.field.input_size) > 3:
        return made
    for section, draw in _figures(found):
        try:
            made.setdefault(section, []).append(draw())
        except Exception as error:  # the numbers are worth having without it
            found.failed[f"a drawing of {section}"] = f"{type(error).__name__}: {error}"
    return made


def _figures(found: Explanation) -> Iterator[tuple[str, Callable[[], Picture]]]:
    field, gridding = found.field, found.gridding
    flat = len(field.input_size) < 3  # the others are drawn over a plane
    alike = len(field.output_size) == len(field.input_size)
    yield "field", lambda: _field(found)
    if found.effective is not None:
        yield "effective", lambda: _effective(found)
    if gridding is not None and not isinstance(field, GradientField):
        yield "counts", lambda: _counts(found)
        if gridding.layers:
            yield "gridding", lambda: _layers(found)
            if flat:
                yield "gridding", lambda: _along(found)
        board = found.board
        known = (None, None) if board is None else (board.counts, board.gradient_counts)
        for direction, uneven in zip(("forward", "backward"), known, strict=True):
            if flat and alike and (uneven is None or uneven > 1e-9):  # where all is even there is nothing to see
                yield "overlap", lambda way=direction: _paths(found, way)  # type: ignore[misc]
    if found.board is not None:
        if flat and found.board.score > 1e-6:
            yield "overlap", lambda: _flat(found)
        drawn = set()
        for layer in found.board.layers:
            window = (layer.kernel, layer.stride)
            if flat and layer.name == "transposed convolution" and window not in drawn:
                drawn.add(window)
                yield "upsamplers", lambda one=layer: _upsampler(found, one)  # type: ignore[misc]


def _field(found: Explanation) -> Picture:
    figure = figures.receptive_field(found.field, image=found.target.picture, effective=found.effective or False)
    title = figure.get_suptitle() or figure.axes[0].get_title()
    alt = f"Receptive field on the image: {title}; nominally {by(found.field.size)}."
    return embed(figure, alt, f"What one output in the middle reads: {found.place}s that are not read are faded.")


def _counts(found: Explanation) -> Picture:
    figure = figures.usage_counts(found.field)
    title = figure.get_suptitle() or figure.axes[0].get_title()
    alt = f"Map of how many paths lead from each {found.place} to the output in the middle: {title}."
    return embed(figure, alt, f"How often the output in the middle uses each {found.place}: the number of paths to it.")


def _layers(found: Explanation) -> Picture:
    figure = figures.layers(found.gridding)
    alt = f"Receptive field by layer: {figure.axes[0].get_title()}."
    return embed(figure, alt, "Size, coverage and evenness after every layer.")


def _along(found: Explanation) -> Picture:
    gridding = found.gridding
    assert gridding is not None
    figure = figures.gridding(gridding, labels=["the network"], columns=4)
    titles = [ax.get_title().replace("\n", ", ") for ax in figure.axes if ax.get_title()]
    alt = f"Maps of what is used after single layers: {'; '.join(titles)}."
    return embed(figure, alt, f"What a position in the middle uses of the {found.whole} after some of the layers.")


def _paths(found: Explanation, direction: str) -> Picture:
    figure = figures.overlap(found.field, direction=direction)
    title = figure.get_suptitle()
    way = (
        f"Forward: paths from all {found.place}s into each output. What is uneven here is uneven for every "
        "choice of weights."
        if direction == "forward"
        else f"Backward: paths from each {found.place} to all outputs, what its gradient adds up."
    )
    return embed(figure, f"Overlap in the middle, {title}.", way)


def _flat(found: Explanation) -> Picture:
    board = found.board
    assert board is not None
    alt = f"The pattern that flat {found.whole}s come out with: {pattern(board)}, period {by(board.period)}."
    caption = f"What the weights as they are make of {found.whole}s that are the same everywhere."
    return embed(figures.overlap(board), alt, caption)


def _upsampler(found: Explanation, layer: LayerOverlap) -> Picture:
    board = found.board
    assert board is not None
    alike = [o for o in board.layers if (o.kernel, o.stride) == (layer.kernel, layer.stride)]
    same = [overlap_name(found, o) for o in alike if o.name == layer.name]
    figure = figures.overlap(layer)
    alt = f"Overlap of a kernel of {by(layer.kernel)} at stride {by(layer.stride)}: {figure.axes[1].get_title()}."
    return embed(figure, alt, ", ".join(same))


def _effective(found: Explanation) -> Picture:
    effective = found.effective
    assert effective is not None
    figure = figures.effective_receptive_field(effective)
    share = "" if effective.ratio is None else f", {percent(effective.ratio)} of the theoretical field"
    alt = f"Heat map of gradient energy: 95 percent lies in {effective.area()} {found.place}s{share}."
    scale = ", on a logarithmic scale" * (len(found.field.input_size) > 1)
    return embed(figure, alt, f"Gradient energy of the output in the middle on inputs from {effective.probed}{scale}.")
