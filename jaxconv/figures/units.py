"""What a unit sees: projections back to pixels beside the image, and the patches that a channel answers to most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxconv.analysis import Patch, Visualisation
from jaxconv.figures.grid import CURRENT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = {"exact": "exact adjoint", "deconvnet": "deconvnet", "guided": "guided backpropagation"}


def visualisation(
    seen: Visualisation | Sequence[Visualisation] | Mapping[str, Visualisation],
    *,
    number: int = 0,
    box: tuple[slice, slice] | None = None,
    margin: int = 4,
) -> Figure:
    """Show an image beside what reaches its pixels from one unit, by one or several methods.

    Zero is mid-grey; every projection is scaled by its own 99.8th percentile of absolute values.

    Args:
        seen: one `Visualisation` of an image (batch, height, width, channels of 1 or 3), several, or {title: one}.
        number: which image of the batch.
        box: the unit's receptive field, as `receptive_field(...).box(index)` gives it: drawn on the image, and the
            projections are cut out around it.
        margin: pixels around the box that are shown too.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: for other than two spatial axes, a number that is not in the batch, or projections of different
            images.

    Example:
        >>> import jax, jax.numpy as jnp, jaxconv as jc
        >>> x = jnp.linspace(0, 1, 64).reshape(1, 8, 8, 1)
        >>> net = lambda x: jax.nn.relu(jc.conv(x, jnp.ones((3, 3, 1, 2)), padding=1))
        >>> methods = ("exact", "deconvnet", "guided")
        >>> len(visualisation([jc.analysis.visualise(net, x, channel=0, method=m) for m in methods]).axes)
        4
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    if isinstance(seen, Visualisation):
        seen = [seen]
    panels = list(seen.items()) if isinstance(seen, Mapping) else [(_TITLES[v.method], v) for v in seen]
    images = [np.asarray(v.input) for _, v in panels]
    if not images or any(i.shape != images[0].shape or (i != images[0]).any() for i in images):
        raise ValueError("give one or more visualisations of the same image")
    image = _picture(images[0], number)
    window: tuple[slice, ...] = (slice(None), slice(None))
    if box is not None:
        window = tuple(
            slice(max(s.start - margin, 0), min(s.stop + margin, n)) for s, n in zip(box, image.shape[:2], strict=True)
        )
    tallest = max(shape[0] / shape[1] for shape in (image.shape, image[window].shape))
    figure = Figure(figsize=(3.4 * (1 + len(panels)), 3.3 * tallest + 0.9), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(panels))
    first.imshow(_shown(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    first.set_title("input", fontsize=11)
    if box is not None:
        rows, columns = box
        frame = Rectangle((columns.start - 0.5, rows.start - 0.5), columns.stop - columns.start, rows.stop - rows.start)
        frame.set(fill=False, edgecolor=CURRENT, linewidth=2)
        first.add_patch(frame)
    for ax, (title, one) in zip(others, panels, strict=True):
        ax.imshow(_signed(_picture(np.asarray(one.image), number)[window]), cmap="gray", vmin=0, vmax=1)
        count = sum(p.times for p in one.relus)
        rule = "derivative" if one.method == "exact" else "rule"
        ax.set_title(f"{title}\n{rule} at {count} ReLU{'' if count == 1 else 's'}", fontsize=11)
    for ax in (first, *others):
        ax.axis("off")
    return figure


def patches(found: Sequence[Patch], projections: Sequence[Visualisation] | None = None, *, columns: int = 9) -> Figure:
    """Show the patches that a channel answers to most, and below each what of it the channel answers to.

    Args:
        found: patches of two spatial axes and 1 or 3 channels, as `strongest_patches` gives them.
        projections: for each patch the `Visualisation` of its unit, of the whole batch or of the patch's image alone.
        columns: patches in one row.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: without patches, or where the numbers of patches and projections differ.

    Example:
        >>> import jax.numpy as jnp, jaxconv as jc
        >>> x = jnp.linspace(0, 1, 128).reshape(2, 8, 8, 1)
        >>> found = jc.analysis.strongest_patches(lambda x: jc.conv(x, jnp.ones((3, 3, 1, 1))), x, channel=0)
        >>> len(patches(found).axes)
        2
    """
    from matplotlib.figure import Figure

    if not found:
        raise ValueError("there are no patches to show")
    if projections is not None and len(projections) != len(found):
        raise ValueError(f"{len(found)} patches and {len(projections)} projections: give one for each")
    columns = min(columns, len(found))
    kinds = 1 if projections is None else 2
    rows = -(-len(found) // columns) * kinds
    figure = Figure(figsize=(1.45 * columns + 0.2, 1.55 * rows + 0.35), layout="constrained")
    grid = np.asarray(figure.subplots(rows, columns, squeeze=False))
    for i, patch in enumerate(found):
        top = grid[i // columns * kinds, i % columns]
        top.imshow(_shown(_picture(patch.pixels[None], 0)), cmap="gray", vmin=0, vmax=1)
        top.set_title(f"{patch.value:.3g}", fontsize=9)
        if projections is not None:
            seen = np.asarray(projections[i].image)
            whole = _picture(seen, patch.image if seen.shape[0] > 1 else 0)
            below = grid[i // columns * kinds + 1, i % columns]
            below.imshow(_signed(whole[patch.box]), cmap="gray", vmin=0, vmax=1)
    for number, ax in enumerate(grid.ravel()):
        ax.axis("off")
        if (number // columns // kinds) * columns + number % columns >= len(found):
            ax.remove()
    return figure


def _picture(images: np.ndarray, number: int) -> np.ndarray:
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"images must be (batch, height, width, 1 or 3), got shape {images.shape}")
    if not -len(images) <= number < len(images):
        raise ValueError(f"number={number} is outside of the batch of {len(images)}")
    picture = images[number].astype(np.float64)
    return picture[..., 0] if picture.shape[-1] == 1 else picture


def _shown(picture: np.ndarray) -> np.ndarray:
    """Values as grey levels or colours: as they are within 0..1, else stretched to it."""
    low, high = float(picture.min()), float(picture.max())
    return picture if low >= 0 and high <= 1 else (picture - low) / max(high - low, 1e-30)


def _signed(values: np.ndarray) -> np.ndarray:
    """Zero as mid-grey."""
    size = np.abs(values)
    peak = float(np.quantile(size, 0.998)) or float(size.max()) or 1.0
    return np.clip(0.5 + values / (2 * peak), 0, 1)
