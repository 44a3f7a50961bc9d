"""Least squares, Tikhonov regularisation and the pseudo-inverse of a linear operator."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxconv._extras import need
from jaxconv.linear.circulant import (
    from_frequencies_in,
    is_circulant_convolution,
    symbol,
    to_frequencies_out,
)
from jaxconv.linear.maps import LinearMap

METHODS = ("auto", "fft", "lsmr", "cg")


class LeastSquares(NamedTuple):
    """A least-squares solution: x, the iterations it took, and ``|A x - y| / |y|``."""

    x: Array
    steps: Array
    residual: Array


def least_squares(
    operator: LinearMap,
    y: ArrayLike,
    *,
    damp: ArrayLike = 0.0,
    method: str = "auto",
    rtol: float = 1e-6,
    max_steps: int = 500,
) -> LeastSquares:
    """Least-squares solution of ``A x = y``, optionally regularised after Tikhonov.

    ``x = argmin |A x - y|^2 + damp^2 |x|^2``; with damp = 0 the solution of least norm, which is the pseudo-inverse
    applied to y.

    Args:
        operator: A.
        y: right-hand side of shape `operator.out_shape`, no batch axes (use vmap).
        damp: weight of the regularisation, in units of A's singular values: parts of x with a singular value well below
            it are given up.
        method: "fft": direct, for a block-circulant convolution; with damp = 0 singular values below ``rtol`` times the
            largest count as zero. "lsmr": lineax's LSMR on A, or on A over ``damp * I``. "cg": lineax's conjugate
            gradients on ``A^H A + damp^2 I``; needs damp > 0 or full column rank. "auto": fft where it applies, else
            lsmr.
        rtol: relative tolerance of the iterations.
        max_steps: iterations after which to stop in any case; compare `steps` with it.

    Returns:
        x, steps and residual. Differentiable with respect to y and to the operator's leaves, any number of times. Half
        precision is computed in float32, and x returned in it.

    Raises:
        ValueError: a y of another shape, or a method that does not apply to this operator.
        ModuleNotFoundError: lineax is missing, for another method than "fft".

    Example:
        >>> import jax.numpy as jnp, jaxconv as jc
        >>> A = jc.ConvOperator(jnp.array([0.25, 0.5, 0.25])[:, None, None], 8, padding=1)
        >>> x = jnp.arange(8.0)[:, None]
        >>> bool(jnp.allclose(A.lstsq(A @ x).x, x, atol=1e-3))
        True

    Source: Fong and Saunders 2011 (LSMR); Hestenes and Stiefel 1952 (conjugate gradients).
    """
    y = jnp.asarray(y)
    if y.shape != operator.out_shape:
        raise ValueError(
            f"y has shape {y.shape}, but the operator maps {operator.in_shape} to {operator.out_shape}; "
            "use vmap for batches"
        )
    direct = is_circulant_convolution(operator)
    if method == "auto":
        method = "fft" if direct else "lsmr"
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not one of {', '.join(map(repr, METHODS))}")
    if method == "fft" and not direct:
        raise ValueError(
            f"method='fft' needs a convolution with circular borders and n = m*s on every axis; this is {operator!r}"
        )
    if method != "fft":
        need(f"least squares by method={method!r}", "lineax")
    dtype = jnp.promote_types(y.dtype, operator.dtype)
    with jax.numpy_dtype_promotion("standard"):  # the types to compute in are not the user's
        wide = jnp.promote_types(dtype, jnp.float32)
    operator, y = operator.computable(), y.astype(wide)
    x, steps = _solve(operator, y, jnp.asarray(damp), method, rtol, max_steps)
    scale = jnp.linalg.norm(y.ravel())
    residual = jnp.linalg.norm((operator.mv(x) - y).ravel()) / jnp.where(scale > 0, scale, 1)
    return LeastSquares(x.astype(dtype if jnp.issubdtype(dtype, jnp.inexact) else wide), steps, residual)


@functools.partial(jax.jit, static_argnames=("method", "rtol", "max_steps"))
def _solve(operator: Any, y: Array, damp: Array, method: str, rtol: float, max_steps: int) -> tuple[Array, Array]:
    if method == "fft":
        return _direct(operator, y, damp, rtol), jnp.zeros((), int)
    import lineax as lx

    damp = damp.astype(jnp.finfo(y.dtype).dtype)
    if method == "lsmr":
        solver = lx.LSMR(rtol=rtol, atol=0.0, max_steps=max_steps, conlim=float("inf"))
        stacked = lx.FunctionLinearOperator(lambda x: (operator.mv(x), damp * x), operator.in_structure())
        target = (y, jnp.zeros(operator.in_shape, y.dtype))
        solution = lx.linear_solve(stacked, target, solver, throw=False)
        return solution.value, solution.stats["num_steps"]
    right = operator.H.mv(y)
    structure = jax.ShapeDtypeStruct(right.shape, right.dtype)
    # lineax's CG gives up where p^H N p / p^H p falls below 100 * eps * size, as a well-posed float32 system of the
    # size of a photograph can. Multiplying both sides by a constant that lifts damp^2 above that changes nothing else.
    scale = jnp.where(damp > 0, 200 * jnp.finfo(damp.dtype).eps * right.size / jnp.where(damp > 0, damp, 1) ** 2, 1)
    scale = jnp.maximum(scale, 1).astype(damp.dtype)
    normal = lx.FunctionLinearOperator(
        lambda x: scale * (operator.H.mv(operator.mv(x)) + damp**2 * x), structure, lx.positive_semidefinite_tag
    )
    # The tolerance is on the whole residual: an element of y that happens to be zero must not ask for an exact zero.
    solver = lx.CG(rtol=0.0, atol=lax.stop_gradient(rtol * _rms(scale * right)), norm=_rms, max_steps=max_steps)
    solution = lx.linear_solve(normal, scale * right, solver, throw=False)
    return solution.value, solution.stats["num_steps"]


def _rms(tree: Any) -> Array:
    (leaf,) = jax.tree.leaves(tree)
    return jnp.sqrt(jnp.mean(jnp.abs(leaf) ** 2))


def _direct(operator: Any, y: Array, damp: Array, rcond: float) -> Array:
    """x(f) = pinv([B(f); damp I]) [y(f); 0] at every frequency f."""
    blocks = symbol(operator.w, operator.geometry)
    rows, columns = blocks.shape[-2:]
    damping = damp.astype(blocks.dtype) * jnp.eye(columns, dtype=blocks.dtype)
    damping = jnp.broadcast_to(damping, (*blocks.shape[:-2], columns, columns))
    inverse = _pseudo_inverses(jnp.concatenate([blocks, damping], axis=-2), rcond)[..., :rows]
    spectrum = jnp.einsum("...io,...o->...i", inverse, to_frequencies_out(y, operator.geometry))
    return _real_like(from_frequencies_in(spectrum, operator.geometry), y)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _pseudo_inverses(a: Array, rcond: float) -> Array:
    """pinv of each matrix (..., p, q), with one cutoff for all: rcond times the largest singular value among them.

    The derivative, of every order, is that of the pseudo-inverse at constant rank, which unlike that of singular
    vectors has no trouble with equal singular values (Golub and Pereyra 1973, theorem 4.3).
    """
    u, s, vh = jnp.linalg.svd(a, full_matrices=False)
    kept = s > rcond * jnp.max(s)
    weights = jnp.where(kept, 1 / jnp.where(kept, s, 1), 0)
    return jnp.einsum("...ri,...r,...or->...io", vh.conj(), weights.astype(a.dtype), u.conj())


@_pseudo_inverses.defjvp
def _pseudo_inverses_jvp(rcond: float, primals, tangents):
    (a,), (change,) = primals, tangents
    p = _pseudo_inverses(a, rcond)
    back, ph = _hermitian(change), _hermitian(p)
    outside = jnp.eye(a.shape[-2], dtype=a.dtype) - a @ p
    unseen = jnp.eye(a.shape[-1], dtype=a.dtype) - p @ a
    return p, p @ ph @ back @ outside + unseen @ back @ ph @ p - p @ change @ p


def _hermitian(a: Array) -> Array:
    return jnp.swapaxes(a, -1, -2).conj()


def _real_like(value: Array, like: Array) -> Array:
    return value.astype(like.dtype) if jnp.iscomplexobj(like) else value.real.astype(like.dtype)
