"""The operator norm and the singular values of a linear operator."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxconv.linear.circulant import is_circulant_convolution, symbol
from jaxconv.linear.maps import LinearMap

# Up to this smaller side the dense SVD is taken: 2048 x 2048 float32 values take about 6 s on two cores.
DENSE_LIMIT = 2048
# Elements that the two Lanczos bases may hold together, and the most vectors in each.
_BASIS_ELEMENTS, _BASIS_VECTORS = 2**26, 24


def operator_norm(
    operator: LinearMap, *, tol: float = 1e-4, max_restarts: int = 200, key: Array | None = None
) -> Array:
    """The operator norm: the largest singular value, by restarted Golub-Kahan-Lanczos bidiagonalisation.

    ``norm(A) = max over x of |A x| / |x|``

    Every step costs one product with A and one with its conjugate transpose. A cycle of up to 24 steps restarts from
    its best vector v and stops when ``|A^H u - sigma v| <= tol * sigma``: sigma is then within ``tol * sigma`` of a
    singular value, and the usual error, which is quadratic in that residual, is far smaller. It is the largest one
    unless the random start had no part in it.

    Args:
        operator: the operator; floating or complex dtype.
        tol: relative residual at which to stop; below about 1e-5 rounding stops float32 first.
        max_restarts: cycles after which to stop in any case.
        key: random key of the starting vector; a fixed one by default, so that the result is reproducible.

    Returns:
        sigma, a real scalar, of the operator's precision (half precision is computed in float32). It can be computed
        under jit and is differentiable with respect to the operator's leaves, ``d sigma = Re(u^H dA v)``. Second
        derivatives solve for those of u and v. Their error grows as tol over the relative gap between sigma and the
        singular value next to it; where the two are equal there is in general no second derivative, and where the
        solution is not found they are NaN.

    Raises:
        TypeError: an operator of integer dtype.

    Example:
        >>> import jax.numpy as jnp, jaxconv as jc
        >>> A = jc.ConvOperator(jnp.ones((3, 1, 1)), 32, padding=1, padding_mode="circular")
        >>> round(float(A.norm()), 3)  # the constant signal is tripled
        3.0

    Source: Golub and Kahan 1965; Demmel et al., Templates for the Solution of Algebraic Eigenvalue Problems, 6.3.3.
    """
    _require_inexact(operator, "norm")
    key = jax.random.key(0) if key is None else key
    return _norm(operator.computable(), key, tol, max_restarts).astype(jnp.finfo(operator.dtype).dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _norm(operator: LinearMap, key: Array, tol: float, max_restarts: int) -> Array:
    u, v = _pair(operator, key, tol, max_restarts)
    return jnp.real(jnp.vdot(u, operator.mv(v)))


@_norm.defjvp
def _norm_jvp(tol: float, max_restarts: int, primals, tangents):
    (operator, key), (change, _) = primals, tangents
    u, v = _pair(operator, key, tol, max_restarts)
    image, moved = jax.jvp(lambda a: a.mv(v), (operator,), (change,))
    return jnp.real(jnp.vdot(u, image)), jnp.real(jnp.vdot(u, moved))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _pair(operator: LinearMap, key: Array, tol: float, max_restarts: int) -> tuple[Array, Array]:
    return singular_pair(operator, key, tol=tol, max_restarts=max_restarts)


@_pair.defjvp
def _pair_jvp(tol: float, max_restarts: int, primals, tangents):
    """``(sigma^2 - A^H A) dv = sigma dA^H u + A^H dA v`` off v, and ``sigma du = dA v + A dv - d(sigma) u``."""
    (operator, key), (change, _) = primals, tangents
    u, v = _pair(operator, key, tol, max_restarts)
    image, moved = jax.jvp(lambda a: a.mv(v), (operator,), (change,))
    sigma = jnp.real(jnp.vdot(u, image)).astype(v.dtype)
    moved_back = jax.jvp(lambda a: a.H.mv(u), (operator,), (change,))[1]

    def off(x, direction):
        return x - jnp.vdot(direction, x) * direction

    def shifted(z):  # positive definite where sigma is the only singular value of its size
        return sigma**2 * z - off(operator.H.mv(operator.mv(off(z, v))), v)

    def solve(matrix, b):
        z, _ = jax.scipy.sparse.linalg.cg(
            matrix, b, tol=10 * float(jnp.finfo(b.dtype).eps), maxiter=min(20 * max(operator.shape), 10_000)
        )
        found = jnp.linalg.norm((matrix(z) - b).ravel()) <= 1e-3 * jnp.linalg.norm(b.ravel())
        return jnp.where(found, z, jnp.nan)

    right = off(sigma * moved_back + operator.H.mv(moved), v)
    real = not jnp.issubdtype(v.dtype, jnp.complexfloating)
    dv = off(lax.custom_linear_solve(shifted, right, solve, transpose_solve=solve, symmetric=real), v)
    du = moved + operator.mv(dv)  # a turn of u against v in the complex plane is a part of the change
    du = (du - jnp.real(jnp.vdot(u, du)).astype(u.dtype) * u) / jnp.where(sigma == 0, 1, sigma)
    return (u, v), (du, dv)


@functools.partial(jax.jit, static_argnames=("tol", "max_restarts"))
def singular_pair(
    operator: LinearMap, key: Array, *, tol: float = 1e-4, max_restarts: int = 200
) -> tuple[Array, Array]:
    """Left and right singular vectors of the largest singular value, of unit length; see `operator_norm`."""
    rows, columns = operator.shape
    steps = min(rows, columns, _BASIS_VECTORS, max(_BASIS_ELEMENTS // (rows + columns), 4))
    start = jax.random.normal(key, (columns,), operator.dtype)

    def cycle(state):
        v, _, _, _, count = state
        u, v, sigma, residual = _golub_kahan(operator, v, steps)
        return v, u, sigma, residual, count + 1

    def unfinished(state):
        _, _, sigma, residual, count = state
        return (residual > tol * sigma) & (count < max_restarts)

    real = jnp.finfo(operator.dtype).dtype
    state = (_unit(start)[0], jnp.zeros((rows,), operator.dtype), jnp.zeros((), real), jnp.full((), np.inf, real), 0)
    v, u, *_ = lax.while_loop(unfinished, cycle, state)
    return u.reshape(operator.out_shape), v.reshape(operator.in_shape)


def _golub_kahan(operator: LinearMap, v: Array, steps: int) -> tuple[Array, Array, Array, Array]:
    """Best singular triplet in the Krylov space of v: A V = U B with B upper bidiagonal, A^H U = V B^T + beta v e^T."""

    def forward(x):
        return operator.mv(x.reshape(operator.in_shape)).ravel()

    def backward(y):
        return operator.H.mv(y.reshape(operator.out_shape)).ravel()

    real = jnp.finfo(operator.dtype).dtype

    def step(j, state):
        left, right, alphas, betas, v = state
        right = right.at[j].set(v)
        u, alpha = _new_direction(forward(v), left)
        left = left.at[j].set(u)
        v, beta = _new_direction(backward(u), right)
        return left, right, alphas.at[j].set(alpha), betas.at[j].set(beta), v

    rows, columns = operator.shape
    state = (
        jnp.zeros((steps, rows), operator.dtype),
        jnp.zeros((steps, columns), operator.dtype),
        jnp.zeros((steps,), real),
        jnp.zeros((steps,), real),
        v,
    )
    left, right, alphas, betas, _ = lax.fori_loop(0, steps, step, state)
    small = jnp.diag(alphas) + (jnp.diag(betas[:-1], 1) if steps > 1 else 0)
    p, sigmas, qh = jnp.linalg.svd(small)
    u, v = p[:, 0].astype(left.dtype) @ left, qh[0].astype(right.dtype) @ right
    return _unit(u)[0], _unit(v)[0], sigmas[0], betas[-1] * jnp.abs(p[-1, 0])


def _new_direction(x: Array, basis: Array) -> tuple[Array, Array]:
    """The part of x outside the rows of basis, of unit length, and its length; zero where only rounding is left.

    Where the Krylov space is exhausted, rounding scaled up to unit length would be a direction that is in the basis.
    """
    before = jnp.linalg.norm(x)
    for _ in range(2):  # one pass leaves rounding behind (Giraud et al. 2005)
        x = x - (basis.conj() @ x) @ basis
    fresh = jnp.linalg.norm(x) > 50 * jnp.finfo(x.dtype).eps * before
    return _unit(jnp.where(fresh, x, 0))


def _unit(x: Array) -> tuple[Array, Array]:
    length = jnp.linalg.norm(x)
    return x / jnp.where(length > 0, length, 1).astype(x.dtype), length


# ---------------------------------------------------------------------- singular values


def singular_values(operator: LinearMap, k: int | None = None, *, method: str = "auto") -> Array:
    """Singular values, in descending order.

    Args:
        operator: the operator; floating or complex dtype.
        k: how many of the largest; all of them by default, which "lanczos" cannot give.
        method: "fft": exact, from one small SVD per frequency, where the convolution is block-circulant (circular
            padding with ``n = m*s``; any stride, dilation, groups and channels); runs under jit and is differentiable.
            "dense": SVD of the matrix, in memory and time of its side cubed. "lanczos": the k largest by ARPACK
            (scipy.sparse.linalg.svds), outside jit. "auto": fft where it applies, else dense up to a smaller side of
            2048, else lanczos.

    Returns:
        The min(shape) singular values, or the first k, of the operator's precision (half precision is computed in
        float32).

    Raises:
        ValueError: a k outside 1..min(shape); "fft" for an operator that is not block-circulant; "lanczos" without k,
            or with k = min(shape).
        TypeError: an operator of integer dtype.

    Example:
        >>> import jax.numpy as jnp, jaxconv as jc
        >>> A = jc.ConvOperator(jnp.ones((2, 1, 1)), 4, padding=((0, 1),), padding_mode="circular")
        >>> [round(float(s), 3) for s in A.singular_values()]
        [2.0, 1.414, 1.414, 0.0]

    Source: Sedghi, Gupta and Long 2019 (arXiv:1805.10408) for stride 1; here for every stride by splitting the input
        into residues.
    """
    _require_inexact(operator, "singular_values")
    dtype, operator = jnp.finfo(operator.dtype).dtype, operator.computable()
    smaller = min(operator.shape)
    if k is not None and not 1 <= k <= smaller:
        raise ValueError(
            f"k={k} must be in 1..{smaller}, the smaller side of the {operator.shape[0]} x {operator.shape[1]} operator"
        )
    base = operator.untransposed
    circulant = is_circulant_convolution(base)
    if method == "auto":
        method = "fft" if circulant else "dense" if smaller <= DENSE_LIMIT else "lanczos"
    if method == "fft":
        if not circulant:
            raise ValueError(
                "method='fft' needs one convolution with circular padding whose input is a multiple of its stride and "
                f"whose output is input_size / stride; this is {operator!r}"
            )
        return _by_frequency(base)[:k].astype(dtype)
    if method == "dense":
        return jnp.linalg.svd(operator.as_matrix("dense"), compute_uv=False)[:k].astype(dtype)
    if method == "lanczos":
        return _by_arpack(operator, k, smaller).astype(dtype)
    raise ValueError(f"method={method!r} is not one of 'auto', 'fft', 'dense', 'lanczos'")


def _by_frequency(conv: Any) -> Array:
    values = jnp.linalg.svd(symbol(conv.w, conv.geometry), compute_uv=False).ravel()
    return jnp.sort(values, descending=True)


def _by_arpack(operator: LinearMap, k: int | None, smaller: int) -> Array:
    from scipy.sparse.linalg import svds

    if k is None or k >= smaller:
        raise ValueError(
            f"method='lanczos' finds the k largest for k < {smaller} (the smaller side of the {operator.shape[0]} x "
            f"{operator.shape[1]} operator), got k={k}; all of them take method='dense'"
        )
    start = np.random.default_rng(0).standard_normal(smaller).astype(operator.dtype)
    values = svds(operator.as_scipy(), k=k, v0=start, return_singular_vectors=False)
    return jnp.asarray(np.sort(values)[::-1].copy())


def reshaped_kernel_norm(w: Array) -> Array:
    """Largest singular value of the kernel as a matrix (out, prod(kernel_size) * in).

    Spectral normalisation usually divides by it. It is not the operator's norm, nor a bound on it from above: with
    one group, the norm at stride 1 lies between it (where a whole window fits inside the input) and
    ``sqrt(prod(kernel_size))`` times it.

    Args:
        w: kernel (*kernel_size, in // groups, out).

    Returns:
        A scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(reshaped_kernel_norm(jnp.ones((3, 1, 1)))), 3)  # the operator's norm is 3
        1.732

    Source: Miyato et al. 2018 (arXiv:1802.05957), section 2.1; the bound: Gouk et al. 2021 (arXiv:1804.04368).
    """
    return jnp.linalg.norm(w.reshape(-1, w.shape[-1]), 2)


def _require_inexact(operator: LinearMap, what: str) -> None:
    if not jnp.issubdtype(operator.dtype, jnp.inexact):
        raise TypeError(
            f"{what} needs an operator of floating or complex dtype, got {operator.dtype} (shape {operator.shape})"
        )
