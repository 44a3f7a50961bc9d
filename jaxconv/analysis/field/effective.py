"""The effective receptive field: where the gradient of an output really is, measured over random inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxconv._text import brief

from ..graph.trace import spatial_axes_of
from .gradient import GradientField, Pullback, numbers_for
from .inputs import Inputs, inputs_for
from .receptive import ReceptiveField, receptive_field


@dataclass(frozen=True)
class EffectiveField:
    """Gradient energy per input position, beside the theoretical field; made by `effective_receptive_field`.

    `energy` has the input's spatial shape and sums to one. `box` is the theoretical field at `index` (None where the
    analysis does not understand the function, or only operations over the whole image read anything). `radius` is per
    axis the standard deviation of the energy in pixels. `probed` says where the values of the inputs are from.
    """

    energy: np.ndarray
    index: tuple[int, ...]
    box: tuple[slice, ...] | None
    radius: tuple[float, ...]
    probed: str = "a standard normal distribution"

    __repr__ = brief

    def area(self, share: float = 0.9545) -> int:
        """The number of pixels that together hold this share of the energy, the strongest first."""
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}")
        ordered = np.sort(self.energy.ravel())[::-1].cumsum()
        return int(np.searchsorted(ordered, share - 1e-12) + 1)

    @property
    def ratio(self) -> float | None:
        """That area for 95.45 % of the energy (two standard deviations) relative to the theoretical field's."""
        if self.box is None:
            return None
        return self.area() / int(np.prod([s.stop - s.start for s in self.box]))


def effective_receptive_field(
    fn: Callable[..., Any],
    *args: Any,
    index: int | Sequence[int] | None = None,
    spatial_axes: Sequence[int] | None = None,
    output: int | None = None,
    draws: int = 20,
    seed: int = 0,
    input_range: tuple[Any, Any] | None = None,
    images: Any = None,
) -> EffectiveField:
    """Measure which part of its receptive field a network really uses.

    energy[p] = mean over random inputs and random channel cotangents of |d y[index] / d x[p]|^2, normalised to one.

    Args:
        fn: the function, as for `receptive_field`.
        args: its arguments; the image (array or shape) first. An array that is not the same everywhere is used itself.
        index: spatial index of the output; the middle by default.
        spatial_axes: spatial axes of the image; all but the first and the last by default.
        output: which output is meant, where there are several.
        draws: number of random inputs.
        seed: seed of the inputs.
        input_range: (lowest, highest) value of the random inputs, as for `checkerboard`.
        images: images to use in place of random ones.

    Returns:
        An `EffectiveField`: `.energy`, `.radius`, `.area(share)`, `.ratio`, `.box`.

    Raises:
        ValueError: where index or output do not exist, or the gradient vanishes everywhere.

    >>> import jax, jax.numpy as jnp
    >>> def net(x):
    ...     for _ in range(4):
    ...         x = jax.lax.conv_general_dilated(x, jnp.ones((3, 1, 1)), (1,), "SAME",
    ...                                          dimension_numbers=("NWC", "WIO", "NWC"))
    ...     return x
    >>> field = effective_receptive_field(net, jnp.zeros((1, 32, 1)))
    >>> field.box, field.area(0.9)
    ((slice(12, 21, None),), 5)

    Source: Luo et al., "Understanding the effective receptive field in deep convolutional neural networks" (2016).
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    axes = spatial_axes_of(args[0], spatial_axes)
    theory = receptive_field(fn, *args, spatial_axes=axes, output=output)
    inputs = inputs_for(args[0], axes, input_range, images)
    return measured(theory, Pullback(fn, args, output), axes, index, draws, seed, inputs)


def measured(
    theory: ReceptiveField | GradientField,
    pullback: Pullback,
    axes: tuple[int, ...],
    index: int | Sequence[int] | None = None,
    draws: int = 20,
    seed: int = 0,
    inputs: Inputs | None = None,
) -> EffectiveField:
    """`effective_receptive_field` with the theoretical field and the gradient that somebody has already."""
    image, result = pullback.args[0], pullback.result
    if not pullback.differentiable:
        raise ValueError(f"there is no gradient of an output of {result.dtype} to an image of {image.dtype}")
    inputs = inputs or inputs_for(image, axes)
    at = theory.central_index if index is None else (index,) if isinstance(index, int) else tuple(index)
    box: Any = theory.box(at)
    if any(s.stop <= s.start for s in box):
        box = None  # nothing but operations over the whole image reads anything
    at = tuple(i % n for i, n in zip(at, theory.output_size, strict=True))
    where: list[Any] = [slice(None)] * len(result.shape)
    for axis, i in zip(theory.result_axes, at, strict=True):
        where[axis] = i
    others = tuple(a for a in range(len(image.shape)) if a not in axes)
    total = np.zeros([image.shape[a] for a in axes])
    for draw in range(draws):
        _, *rest = numbers_for(pullback.args, seed + draw)
        x = inputs.noise(seed + draw)
        hot = np.zeros(result.shape, np.int8)
        hot[tuple(where)] = np.random.default_rng((seed + draw, 1)).choice((-1, 1), hot[tuple(where)].shape)
        total += (np.abs(pullback(x, rest, hot)).astype(np.float64) ** 2).sum(axis=others)
    if not np.isfinite(total).all() or total.sum() <= 0:
        raise ValueError(
            f"the gradient of the output at {at} vanishes or is not finite for all of {draws} random inputs"
        )
    total /= total.sum()
    radius = []
    for a in range(total.ndim):
        line = total.sum(axis=tuple(b for b in range(total.ndim) if b != a))
        place = np.arange(len(line))
        mean = (line * place).sum()
        radius.append(float(np.sqrt((line * (place - mean) ** 2).sum())))
    return EffectiveField(total, at, box if theory.method == "jaxpr" else None, tuple(radius), inputs.said)
