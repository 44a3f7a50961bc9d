"""The patches of images that a channel answers to most, cut out by the exact receptive field of each unit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv._text import brief
from jaxconv.jaxprs.modules import with_state

from ..field.receptive import receptive_field
from ..graph.trace import spatial_axes_of


@dataclass(frozen=True)
class Patch:
    """What one unit sees: `image` is the number in the batch, `unit` the index in the output, `value` what it gave.

    `box` holds a slice per spatial axis of the input, the receptive field cut at the borders; `pixels` is what lies
    in it.
    """

    image: int
    unit: tuple[int, ...]
    value: float
    box: tuple[slice, ...]
    pixels: np.ndarray

    __repr__ = brief


def strongest_patches(
    fn: Callable[..., Any],
    images: Any,
    *args: Any,
    channel: int,
    count: int = 9,
    per_image: int = 1,
    channel_axis: int = -1,
    spatial_axes: Sequence[int] | None = None,
) -> list[Patch]:
    """Cut out the patches that a channel answers to most strongly.

    The units y[image, position, channel] in order of their value; each is shown by its receptive field, which
    `receptive_field` derives from the function. A unit whose field overlaps by more than half with that of a stronger
    one of the same image is passed over.

    Args:
        fn: a traceable function or a flax NNX module of a batch of images.
        images: (images, *spatial, channels).
        args: further arguments.
        channel: channel of the output.
        count: number of patches.
        per_image: how many patches at most from one image.
        channel_axis: axis of the output that `channel` counts along.
        spatial_axes: spatial axes of the images; all but the first and the last by default.

    Returns:
        At most `count` `Patch`es, the strongest first.

    Raises:
        ValueError: where the channel or the output does not fit.

    >>> import jax.numpy as jnp, jaxconv as jc
    >>> x = jnp.zeros((2, 9, 1)).at[0, 2].set(1.0).at[1, 6].set(3.0)
    >>> best, other = strongest_patches(lambda x: jc.conv(x, jnp.ones((3, 1, 1)), padding=1), x, channel=0)
    >>> best.image, best.value, best.box, best.pixels.ravel().tolist()
    (1, 3.0, (slice(4, 7, None),), [0.0, 0.0, 3.0])

    Source: Zeiler and Fergus 2014, figure 2.
    """
    axes = spatial_axes_of(images, spatial_axes)
    field = receptive_field(fn, images, *args, spatial_axes=axes)
    pure, args = with_state(fn, (images, *args))
    y = np.asarray(jnp.moveaxis(jax.jit(pure)(*args), channel_axis, -1))
    expected = (images.shape[0], *field.output_size)
    if y.shape[:-1] != expected:
        raise ValueError(
            f"the output must have axes (image, *spatial, channel), got {y.shape} for {expected} positions"
        )
    if not -y.shape[-1] <= channel < y.shape[-1]:
        raise ValueError(f"channel={channel} is outside of the output's {y.shape[-1]} channels")
    if count < 1 or per_image < 1:
        raise ValueError(f"count={count} and per_image={per_image} must be at least 1")
    found: list[Patch] = []
    taken: dict[int, list[tuple[slice, ...]]] = {}
    plane = y[..., channel]
    boxes: dict[tuple[int, ...], tuple[slice, ...]] = {}
    for flat in np.argsort(-plane, axis=None, kind="stable"):
        number, *position = (int(i) for i in np.unravel_index(flat, plane.shape))
        mine = taken.setdefault(number, [])
        if len(mine) == per_image:
            continue
        if tuple(position) not in boxes:
            boxes[tuple(position)] = field.box(position)
        box = boxes[tuple(position)]
        if any(_overlap(box, other) > 0.5 for other in mine):
            continue
        mine.append(box)
        where: list[Any] = [slice(None)] * images.ndim
        where[0] = number
        for axis, part in zip(axes, box, strict=True):
            where[axis] = part
        value = float(plane[(number, *position)])
        found.append(Patch(number, (number, *position, channel), value, box, np.asarray(images[tuple(where)])))
        if len(found) == count:
            break
    return found


def _overlap(a: tuple[slice, ...], b: tuple[slice, ...]) -> float:
    """The share of the smaller box that both have in common."""
    common = [max(min(s.stop, t.stop) - max(s.start, t.start), 0) for s, t in zip(a, b, strict=True)]
    smaller = min(np.prod([s.stop - s.start for s in box]) for box in (a, b))
    return float(np.prod(common) / max(smaller, 1))
