"""The transposed convolution is not the inverse: a blurred photograph, and what each operator makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike

from jaxconv.linear import ConvOperator

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def deconvolution(
    operator: ConvOperator, image: ArrayLike, blurred: ArrayLike, restored: dict[str, ArrayLike]
) -> Figure:
    """Show an image, its blurred observation, C^T applied to it, and restorations, each with its PSNR.

    Args:
        operator: the blur C, from one channel to one.
        image: the original (height, width) or (height, width, 1), values in 0..1.
        blurred: the observation y = C x + noise, of the operator's output shape.
        restored: {title: restored image}, such as {"pseudo-inverse": ..., "Tikhonov": ...}.

    Returns:
        matplotlib Figure; C^T y is scaled to the range of the image (its best least-squares fit) before its PSNR is
        taken.

    Raises:
        ValueError: images whose sizes do not fit.

    Example:
        >>> import jax.numpy as jnp, jaxconv as jc
        >>> A = jc.ConvOperator(jnp.ones((3, 3, 1, 1)) / 9, (16, 16), padding=1)
        >>> x = jnp.linspace(0, 1, 256).reshape(16, 16, 1)
        >>> len(deconvolution(A, x, A @ x, {"least squares": x}).axes)
        4
    """
    from matplotlib.figure import Figure

    image = _plane(image)
    back = _plane(operator.transpose_mv(blurred))
    if image.shape != back.shape:
        raise ValueError(f"image has size {image.shape}, but the operator's input has {back.shape}")
    scale = float(np.vdot(back, image) / np.vdot(back, back))
    panels = {
        "original x": image,
        "blurred  y = C x + noise": _plane(blurred),
        "transposed convolution  Cᵀy": scale * back,
    }
    panels |= {title: _plane(value) for title, value in restored.items()}
    figure = Figure(figsize=(3.3 * len(panels), 3.9), layout="constrained")
    for ax, (title, shown) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        ax.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        known = title != "original x" and shown.shape == image.shape
        ax.set_title(title + (f"\n{psnr(image, shown):.1f} dB" if known else "\n"), fontsize=11)
        ax.axis("off")
    return figure


def psnr(image: ArrayLike, estimate: ArrayLike) -> float:
    """Peak signal-to-noise ratio in dB of an estimate, clipped to 0..1: ``-10 log10(mean((x - estimate)^2))``.

    Args:
        image: the original, values in 0..1.
        estimate: array of the same shape.

    Returns:
        The ratio in dB; inf where the two are equal.
    """
    error = np.mean((np.asarray(image, np.float64) - np.clip(np.asarray(estimate, np.float64), 0, 1)) ** 2)
    return float("inf") if error == 0 else float(-10 * np.log10(error))


def _plane(a: ArrayLike) -> np.ndarray:
    a = np.asarray(a)
    return a[..., 0] if a.ndim == 3 else a
