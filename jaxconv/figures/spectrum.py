"""Singular values of a convolution as a plot, and the norm's convergence beside the norm that is usually divided by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.figures.grid import INK
from jaxconv.linear import ConvOperator
from jaxconv.linear.spectrum import reshaped_kernel_norm

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def spectrum_plot(operators: dict[str, ConvOperator] | ConvOperator, *, method: str = "auto") -> Figure:
    """Plot the singular values of one or several convolutions, with the norm of the reshaped kernel as a dashed line.

    Args:
        operators: a convolution, or {label: convolution}.
        method: as in `ConvOperator.singular_values`.

    Returns:
        matplotlib Figure: singular value against rank, on a log axis; what lies near the bottom is lost to any
        inversion.

    Raises:
        ValueError: an operator too large for all its singular values.

    Example:
        >>> import jax.numpy as jnp, jaxconv as jc
        >>> A = jc.ConvOperator(jnp.ones((3, 1, 1)), 16, padding=1, padding_mode="circular")
        >>> len(spectrum_plot({"box": A}).axes[0].lines)
        2
    """
    from matplotlib.figure import Figure

    if isinstance(operators, ConvOperator):
        operators = {"operator": operators}
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    ax = figure.subplots()
    low = np.inf
    for i, (label, operator) in enumerate(operators.items()):
        values = np.asarray(operator.singular_values(method=method))
        floor = values[0] * float(jnp.finfo(operator.dtype).eps)
        shown = np.maximum(values, floor)
        low = min(low, shown[-1])
        place = (np.arange(len(values)) + 0.5) / len(values)
        ax.plot(
            place,
            shown,
            color=f"C{i}",
            linewidth=2.2,
            label=f"{label}: norm {values[0]:.3g}, condition {values[0] / shown[-1]:.2g}",
        )
        usual = float(reshaped_kernel_norm(operator.w))
        ax.axhline(usual, color=f"C{i}", linestyle="--", linewidth=1.2, label=f"reshaped kernel: {usual:.3g}")
    ax.set_yscale("log")
    ax.set(xlabel="rank of the singular value (fraction of all)", ylabel="singular value", xlim=(0, 1))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, fontsize=9)
    return figure


def norm_convergence(operator: ConvOperator, *, steps: int = 40, key: jax.Array | None = None) -> Figure:
    """Plot how power iteration reaches the operator norm, beside the reshaped kernel's norm, which it does not tend to.

    Args:
        operator: the convolution.
        steps: power iterations on ``A^H A``.
        key: random key of the starting vector.

    Returns:
        matplotlib Figure: on the left both estimates by step and the true norm, on the right the relative distance to
        the true norm.

    Example:
        >>> import jax.numpy as jnp, jaxconv as jc
        >>> len(norm_convergence(jc.ConvOperator(jnp.ones((3, 3, 1, 1)), (8, 8), padding=1), steps=5).axes)
        2
    """
    from matplotlib.figure import Figure

    key = jax.random.key(0) if key is None else key
    true = float(operator.norm(tol=1e-6))
    w = operator.w.reshape(-1, operator.w.shape[-1])
    of_operator = _power_iteration(
        operator.mv, operator.H.mv, jax.random.normal(key, operator.in_shape, operator.dtype), steps
    )
    start = jax.random.normal(key, w.shape[1:], w.dtype)
    of_kernel = _power_iteration(lambda v: w @ v, lambda u: w.conj().T @ u, start, steps)
    figure = Figure(figsize=(10.5, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    count = np.arange(1, steps + 1)
    for values, colour, label in ((of_operator, "#2a9d8f", "operator norm"), (of_kernel, "#e63946", "reshaped kernel")):
        left.plot(count, values, color=colour, linewidth=2, marker="o", markersize=3, label=label)
        floor = float(jnp.finfo(operator.dtype).eps)
        right.semilogy(
            count,
            np.maximum(np.abs(values / true - 1), floor),
            color=colour,
            linewidth=2,
            marker="o",
            markersize=3,
            label=label,
        )
    left.axhline(true, color=INK, linestyle="--", linewidth=1.2, label=f"true norm {true:.4g}")
    left.set(xlabel="power iterations", ylabel="estimate", ylim=(0, None))
    right.set(xlabel="power iterations", ylabel="relative distance to the true norm")
    for ax in (left, right):
        ax.grid(alpha=0.3)
    left.legend(frameon=False)
    ratio = of_kernel[-1] / true
    figure.suptitle(f"dividing by the reshaped kernel's norm leaves an operator of norm {1 / ratio:.2f}", fontsize=11)
    return figure


def _power_iteration(forward: Any, backward: Any, v: jax.Array, steps: int) -> np.ndarray:
    def step(v, _):
        v = v / jnp.linalg.norm(v.ravel())
        u = forward(v)
        return backward(u), jnp.linalg.norm(u.ravel())

    return np.asarray(jax.jit(lambda v: jax.lax.scan(step, v, None, length=steps)[1])(v))
