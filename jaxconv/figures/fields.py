"""What one output sees of an image: exact mask, nominal box, and where its gradient really is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from jaxconv._text import place_and_whole
from jaxconv.analysis import (
    EffectiveField,
    GradientField,
    ReceptiveField,
    effective_receptive_field as measure,
    receptive_field as find_field,
)
from jaxconv.figures.grid import CURRENT, INK
from jaxconv.figures.maps import by, style
from jaxconv.figures.volumes import energy_planes, field_planes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MASK = "#00798c"
NOMINAL = "#edae49"
EFFECTIVE = "#d1495b"
SHARE = 0.9545


def receptive_field(
    what: Any,
    *args: Any,
    image: ArrayLike | None = None,
    index: int | Sequence[int] | None = None,
    effective: EffectiveField | bool = False,
) -> Figure:
    """Draw the receptive field of one output on an image: the pixels it reads, the nominal box, the effective field.

    Args:
        what: a result of `analysis.receptive_field`, or a function, whose arguments follow.
        *args: the function's arguments, the image (or its shape) first.
        image: what to draw on, (height, width) or (height, width, channels), of the analysed size; by default the
            function's first argument where that is an array, else a plain ground.
        index: spatial index of the output; in the middle by default.
        effective: an `analysis.effective_receptive_field` of the same output, or True to measure it (functions only).

    Returns:
        matplotlib Figure: what is not read is faded; the solid line is the box of what is read, the dashed one the
        nominal box as if the image went on, the dotted one two standard deviations of the gradient energy. Over three
        axes the planes through the middle of what is read are drawn, without the image.

    Raises:
        ValueError: an image of another size, or a network over more than three axes.

    Example:
        >>> import jax, jax.numpy as jnp, jaxconv as jc
        >>> def net(x):
        ...     return jc.conv(x, jnp.ones((3, 3, 1, 1)), padding=2, dilation=2)
        >>> receptive_field(net, jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32)).axes[0].get_title()
        'output (8, 8) reads 9 of the 25 pixels of its 5×5 box'
    """
    from matplotlib.figure import Figure

    own = isinstance(what, (ReceptiveField, GradientField))
    if effective is True and own:
        raise ValueError("effective=True measures a function; pass the function, or an effective_receptive_field")
    field = what if own else find_field(what, *args)
    if image is None and not own and args:
        image = _first_image(args[0], field.input_size)
    at = _place(field, index)
    mask, box = field.mask(at), field.box(at)
    if mask.ndim > 3:
        raise ValueError(f"a receptive field is drawn over one, two or three axes, this one has {mask.ndim}")
    if mask.ndim == 3:
        return field_planes(field, at, mask, box, _sentence(at, mask, box))
    if effective is True:
        effective = measure(what, *args, index=at)
    if mask.ndim == 1:
        return _on_line(field, at, mask, box, image, effective or None)
    high, wide = mask.shape
    shape = min(max(high / wide, 0.4), 1.6)
    narrow = all(2.5 * (s.stop - s.start) <= n for s, n in zip(box, mask.shape, strict=True)) and mask.any()
    figure = Figure(figsize=(10.6 if narrow else 6.4, (5.2 if narrow else 6.4) * shape + 1.2), layout="constrained")
    axes = figure.subplots(1, 2 if narrow else 1, squeeze=False)[0]
    for ax in axes:
        handles = _draw(ax, field, at, mask, box, image, effective or None)
        ax.set(xticks=[0, wide], yticks=[0, high], aspect="equal")
        for side in ax.spines.values():
            side.set_visible(False)
    if narrow:
        spans = [(s.start, s.stop) for s in box]
        if isinstance(field, ReceptiveField):
            both = zip(spans, field.extent(at), strict=True)
            spans = [(min(a, c), max(b, d)) for (a, b), (c, d) in both]
        rows, columns = (_around(slice(*span), 0.3) for span in spans)
        axes[1].set(xlim=columns, ylim=rows[::-1], xticks=[], yticks=[])
        axes[1].set_title("the same, larger", fontsize=11.5)
    axes[0].set_title(_sentence(at, mask, box), fontsize=11.5)
    figure.legend(handles=handles, loc="outside lower center", ncols=1 + narrow, frameon=False, fontsize=9.5)
    return figure


def _around(span: slice, margin: float) -> tuple[float, float]:
    more = max(margin * (span.stop - span.start), 2)
    return span.start - more, span.stop + more


def _draw(
    ax: Axes,
    field: ReceptiveField | GradientField,
    at: Sequence[int],
    mask: np.ndarray,
    box: Sequence[slice],
    image: ArrayLike | None,
    effective: EffectiveField | None,
) -> list[Any]:
    """The image, what is read of it, and the outlines; returns what the legend names."""
    from matplotlib.patches import Ellipse, Rectangle

    high, wide = mask.shape
    ground = _ground(image, field.input_size)
    veil = ground if image is None else np.where(mask[..., None], ground, 0.4 * ground + 0.6)
    ax.imshow(veil, interpolation="nearest", extent=(0, wide, high, 0))
    tint = np.zeros((*mask.shape, 4))
    tint[mask] = (*_rgb(MASK), 0.38 if image is not None else 0.75)
    ax.imshow(tint, interpolation="nearest", extent=(0, wide, high, 0))
    handles: list[Any] = []

    def outline(rows: tuple[float, float], columns: tuple[float, float], **look: Any) -> None:
        corner = (columns[0], rows[0])
        patch = Rectangle(corner, columns[1] - columns[0], rows[1] - rows[0], fill=False, clip_on=False, **look)
        _with_edge(patch)
        handles.append(ax.add_patch(patch))

    rows, columns = ((float(s.start), float(s.stop)) for s in box)
    seen = [s.stop - s.start for s in box]
    outline(rows, columns, edgecolor=MASK, linewidth=2.2, label=f"read: {by(seen)} box, {int(mask.sum())} pixels")
    if isinstance(field, ReceptiveField):
        spans = [(float(low), float(high)) for low, high in field.extent(at)]
        label = f"nominal, without borders: {by(high - low for low, high in field.extent(at))}"
        outline(*spans, edgecolor=NOMINAL, linewidth=2, linestyle="--", label=label)
        handles[-1].set_clip_on(True)
        # A field much larger than the image would leave a stamp of it: then its outline is out of view.
        most = 0.35 * max(high, wide)
        near = all(low >= -most and up <= n + most for (low, up), n in zip(spans, mask.shape, strict=True))
        margin = 0.02 * max(high, wide)
        (top, bottom), (left, right) = spans if near else ((0, high), (0, wide))
        ax.set_xlim(min(left, 0) - margin, max(right, wide) + margin)
        ax.set_ylim(max(bottom, high) + margin, min(top, 0) - margin)
    if effective is not None:
        mean = [
            float((effective.energy.sum(axis=1 - a) * (np.arange(n) + 0.5)).sum()) for a, n in enumerate(mask.shape)
        ]
        ring = Ellipse(
            (mean[1], mean[0]), 4 * effective.radius[1], 4 * effective.radius[0], fill=False, edgecolor=EFFECTIVE,
            linewidth=2.2, linestyle=":", label=f"effective: two standard deviations of the gradient energy, 95 % in "
            f"{effective.area(SHARE)} pixels",
        )  # fmt: skip
        _with_edge(ring)
        handles.append(ax.add_patch(ring))
    centre = _centre(field, at)
    (handle,) = ax.plot([centre[1]], [centre[0]], "+", color=CURRENT, markersize=13, markeredgewidth=2.4)
    handle.set_label("under the output")
    handles.append(handle)
    return handles


def _sentence(at: Sequence[int], mask: np.ndarray, box: Sequence[slice]) -> str:
    sides = [s.stop - s.start for s in box]
    total, used = int(np.prod(sides)), int(mask.sum())
    index = f"({', '.join(str(i) for i in at)})"
    place, _ = place_and_whole(mask.ndim)
    share = f"all {total}" if used == total else f"{used} of the {total}"
    return f"output {index} reads {share} {place}s of its {by(sides)} box"


def _place(field: ReceptiveField | GradientField, index: Any) -> tuple[int, ...]:
    if index is None:
        return tuple(field.central_index)
    given = (index,) if isinstance(index, (int, np.integer)) else tuple(index)
    return tuple(int(i) % n for i, n in zip(given, field.output_size, strict=True))


def _centre(field: ReceptiveField | GradientField, at: Sequence[int]) -> list[float]:
    """The input position that the output stands for, as a point of the picture."""
    if isinstance(field, ReceptiveField):
        return [(low + high) / 2 for low, high in field.extent(at)]
    return [float(s) * (i + 0.5) for s, i in zip(field.stride, at, strict=True)]


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)


def _with_edge(artist: Any) -> None:
    """A thin white rim, so that a line is seen on any image."""
    from matplotlib.patheffects import withStroke

    artist.set_path_effects([withStroke(linewidth=artist.get_linewidth() + 1.6, foreground="white")])


def _first_image(value: Any, size: Sequence[int]) -> np.ndarray | None:
    import jax

    if isinstance(value, jax.ShapeDtypeStruct) or not hasattr(value, "shape") or len(value.shape) != len(size) + 2:
        return None
    return np.asarray(value)[0]


def _ground(image: ArrayLike | None, size: Sequence[int]) -> np.ndarray:
    """The image as colours in 0..1; a light grey where there is none."""
    if image is None:
        return np.full((*size, 3), 0.93)
    picture = np.asarray(image)
    if picture.shape[: len(size)] != tuple(size) or picture.ndim not in (len(size), len(size) + 1):
        raise ValueError(f"image has shape {picture.shape}, the analysed input has spatial size {tuple(size)}")
    picture = picture.astype(np.float64)
    if picture.ndim == 2:
        picture = picture[..., None]
    if picture.shape[-1] not in (3, 4):
        picture = picture.mean(axis=-1, keepdims=True)
    picture = np.broadcast_to(picture[..., :3], (*size, 3))
    low, high = float(picture.min()), float(picture.max())
    if low >= 0 and high <= 1:
        return picture
    if low >= 0 and high <= 255 and np.issubdtype(np.asarray(image).dtype, np.integer):
        return picture / 255
    return (picture - low) / max(high - low, 1e-12)


def _on_line(
    field: ReceptiveField | GradientField,
    at: Any,
    mask: np.ndarray,
    box: Any,
    image: Any,
    effective: EffectiveField | None,
) -> Figure:
    """The same for signals: what is read as a band below the signal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    ax = figure.subplots()
    place = np.arange(mask.size)
    if image is not None:
        signal = np.asarray(image, np.float64).reshape(mask.size, -1).mean(axis=1)
        ax.plot(place, signal, color=INK, linewidth=1)
    bottom, top = ax.get_ylim()
    ax.fill_between(place, bottom, top, where=mask, step="mid", color=MASK, alpha=0.3, label=f"read: {int(mask.sum())}")
    if isinstance(field, ReceptiveField):
        ((low, high),) = field.extent(at)
        ax.plot([low - 0.5, high - 0.5], [bottom, bottom], color=NOMINAL, linewidth=4, label=f"nominal: {high - low}")
    if effective is not None:
        scaled = effective.energy / effective.energy.max() * (top - bottom) + bottom
        ax.plot(
            place, scaled, color=EFFECTIVE, linestyle=":", label=f"gradient energy (95 % in {effective.area(SHARE)})"
        )
    ax.axvline(_centre(field, at)[0] - 0.5, color=CURRENT, linewidth=1.6, label="under the output")
    ax.set(xlabel="input position")
    left, right = _around(box[0], 1.0)
    if right - left < 0.5 * mask.size:  # the rest of a long signal would leave a line of it
        ax.set(xlim=(max(left, 0), min(right, mask.size)))
    ax.set_title(_sentence(at, mask, box), fontsize=11.5)
    style(ax)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


# ------------------------------------------------------------------------------------------- effective receptive field
def effective_receptive_field(what: Any, *args: Any, decades: float = 4.0, **options: Any) -> Figure:
    """Draw where the gradient energy of an output lies, as a heat map with its profiles and the theoretical box.

    Args:
        what: a result of `analysis.effective_receptive_field`, or a function, whose arguments follow.
        *args: the function's arguments, the image (or its shape) first.
        decades: how many powers of ten below the strongest pixel the colours reach.
        **options: index, draws, seed, ... of `analysis.effective_receptive_field`, for a function.

    Returns:
        matplotlib Figure: the energy on a logarithmic scale, and its sums over columns and rows; over three axes, its
        sums along each of them.

    Raises:
        ValueError: a network over more than three axes.

    Example:
        >>> import jax, jax.numpy as jnp, jaxconv as jc
        >>> def net(x):
        ...     return jc.conv(x, jnp.ones((3, 3, 1, 1)), padding=1)
        >>> figure = effective_receptive_field(net, jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32), draws=2)
        >>> figure.get_suptitle()
        '95 % of the gradient energy lies in 9 pixels, 100 % of the theoretical field'

    Source: Luo et al., "Understanding the effective receptive field in deep convolutional neural networks" (2016).
    """
    from matplotlib.figure import Figure

    found = what if isinstance(what, EffectiveField) else measure(what, *args, **options)
    energy = found.energy
    if energy.ndim > 3:
        raise ValueError(f"an effective field is drawn over one, two or three axes, this one has {energy.ndim}")
    place, _ = place_and_whole(energy.ndim)
    title = f"95 % of the gradient energy lies in {found.area(SHARE)} {place}s"
    if found.ratio is not None:
        title += f", {_percent(found.ratio)} of the theoretical field"
    if energy.ndim == 3:
        return energy_planes(energy, found.box, decades, title)
    if energy.ndim == 1:
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        _profile(figure.subplots(), energy, found, 0)
        figure.axes[0].set_title(title, fontsize=11.5)
        figure.axes[0].legend(frameon=False, fontsize=9)
        return figure
    figure = Figure(figsize=(9.6, 5.2), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.5, 1))
    ax = figure.add_subplot(grid[:, 0])
    _heat(ax, found, decades, figure)
    figure.suptitle(title, fontsize=12)
    for axis, name in ((1, "columns"), (0, "rows")):
        side = figure.add_subplot(grid[1 - axis, 1])
        _profile(side, energy.sum(axis=1 - axis), found, axis)
        side.set_title(f"along the {name}: standard deviation {found.radius[axis]:.1f}", fontsize=10)
    return figure


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"


def _heat(ax: Axes, found: EffectiveField, decades: float, figure: Figure) -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    peak = float(found.energy.max())
    norm = LogNorm(peak * 10**-decades, peak, clip=True)
    image = ax.imshow(np.maximum(found.energy, peak * 10**-decades), norm=norm, cmap="magma", interpolation="nearest")
    figure.colorbar(image, ax=ax, label="share of the gradient energy", shrink=0.8)
    if found.box is not None:
        rows, columns = found.box
        patch = Rectangle(
            (columns.start - 0.5, rows.start - 0.5),
            columns.stop - columns.start,
            rows.stop - rows.start,
            fill=False,
            edgecolor=NOMINAL,
            linewidth=1.8,
            linestyle="--",
            label="theoretical field",
        )
        ax.add_patch(patch)
        ax.legend(handles=[patch], loc="lower right", fontsize=9, framealpha=0.85)
        (top, bottom), (left, right) = (_around(s, 0.25) for s in found.box)
        high, wide = found.energy.shape
        ax.set(xlim=(max(left, 0) - 0.5, min(right, wide) - 0.5))
        ax.set(ylim=(min(bottom, high) - 0.5, max(top, 0) - 0.5))
    ax.set(xticks=[], yticks=[], facecolor="black")


def _profile(ax: Axes, line: np.ndarray, found: EffectiveField, axis: int) -> None:
    place = np.arange(len(line))
    ax.fill_between(place, line, color=EFFECTIVE, alpha=0.35, linewidth=0)
    ax.plot(place, line, color=EFFECTIVE, linewidth=1.6, label="gradient energy")
    if found.box is not None:
        for i, edge in enumerate((found.box[axis].start - 0.5, found.box[axis].stop - 0.5)):
            label = "theoretical field" if i == 0 else None
            ax.axvline(edge, color="#b07c1f", linestyle="--", linewidth=1.6, label=label)
    low, high = (0, len(line)) if found.box is None else _around(found.box[axis], 0.25)
    ax.set(ylim=(0, None), xlim=(max(low, 0) - 0.5, min(high, len(line)) - 0.5))
    style(ax)
