"""Linear operators on arrays, and what can be made of them: transposes, sums, multiples and products.

Every operator is a pytree whose leaves are the arrays that it depends on, so that it passes through jit, grad and vmap
as an argument. Products act on the last axes; any axes before them are batch axes.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxconv._extras import need
from jaxconv.linear.maps import MAX_BYTES, LinearMap
from jaxconv.linear.solve import least_squares
from jaxconv.linear.spectrum import operator_norm, singular_values


class LinearOperator(LinearMap):
    """A linear map from arrays of `in_shape` to arrays of `out_shape`.

    ``A.mv(x)`` is the product, ``A.T`` the transpose (an operator again, no conjugate), ``A.H`` the conjugate
    transpose. Operators add, subtract, scale by numbers and compose with ``@``; ``A @ x`` with an array is ``A.mv(x)``.
    """

    def computable(self) -> LinearOperator:
        """This operator, in float32 where it is of half precision: nothing decomposes less."""
        if not jnp.issubdtype(self.dtype, jnp.floating) or jnp.finfo(self.dtype).bits >= 32:
            return self

        def widened(leaf):
            if isinstance(leaf, Identity):
                return Identity(leaf.array_shape, np.dtype("float32"))
            return leaf.astype(jnp.float32) if hasattr(leaf, "astype") else leaf

        return jax.tree.map(widened, self, is_leaf=lambda leaf: isinstance(leaf, Identity))

    # ------------------------------------------------------------------ algebra

    @property
    def T(self) -> LinearOperator:  # noqa: N802 - the name that every array library uses
        """The transpose."""
        return Transposed(self)

    @property
    def H(self) -> LinearOperator:  # noqa: N802
        """The conjugate transpose; the transpose where the entries are real."""
        return Conjugated(self.T) if jnp.issubdtype(self.dtype, jnp.complexfloating) else self.T

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, LinearOperator):
            return Composition(self, other)
        return self.mv(other)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        return Sum(self, other) if isinstance(other, LinearOperator) else NotImplemented

    def __sub__(self, other: LinearOperator) -> LinearOperator:
        return Sum(self, -other) if isinstance(other, LinearOperator) else NotImplemented

    def __neg__(self) -> LinearOperator:
        return Scaled(self, -1)

    def __mul__(self, factor: ArrayLike) -> LinearOperator:
        if isinstance(factor, LinearOperator) or jnp.ndim(factor) != 0:
            raise TypeError(
                "an operator is multiplied by a number; compose operators, and apply them to arrays, with @"
            )
        return Scaled(self, factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: ArrayLike) -> LinearOperator:
        return self * (1 / divisor)

    # ------------------------------------------------------------------ checks and uses

    def dot_test(self, key: Array) -> Array:
        """How far the transpose is from being one: the relative mismatch of the two sides of ``<A x, y> = <x, A^T y>``.

        ``|sum(A x * y) - sum(x * A^T y)| / (|A x| |y|)`` for random x and y: rounding error, a few times the unit
        roundoff, for a correct pair.

        Args:
            key: random key that x and y are drawn with.

        Returns:
            The mismatch, a real scalar; can be computed under jit.

        Example:
            >>> import jax, jax.numpy as jnp, jaxconv as jc
            >>> bool(jc.ConvOperator(jnp.ones((3, 3, 2, 4)), (8, 8), stride=2).dot_test(jax.random.key(0)) < 1e-6)
            True

        Source: Claerbout 1992, Earth Soundings Analysis, the dot-product test.
        """
        keys = jax.random.split(key)
        x = jax.random.normal(keys[0], self.in_shape, self.dtype)
        y = jax.random.normal(keys[1], self.out_shape, self.dtype)
        forward, backward = self.mv(x), self.transpose_mv(y)
        mismatch = jnp.abs(jnp.sum(forward * y) - jnp.sum(x * backward))
        size = jnp.linalg.norm(forward.ravel()) * jnp.linalg.norm(y.ravel())
        return mismatch / jnp.where(size > 0, size, 1)

    def as_lineax(self) -> Any:
        """This operator for lineax: a `lineax.FunctionLinearOperator` on arrays of `in_shape` (needs lineax)."""
        need("as_lineax", "lineax")
        import lineax

        return lineax.FunctionLinearOperator(self.mv, self.in_structure())

    def as_scipy(self) -> Any:
        """This operator for scipy.sparse.linalg: a `LinearOperator` on flat NumPy vectors (needs scipy)."""
        from scipy.sparse.linalg import LinearOperator as ScipyOperator

        forward, backward = jax.jit(self.mv), jax.jit(self.H.mv)
        return ScipyOperator(
            self.shape,
            matvec=lambda x: np.asarray(forward(x.reshape(self.in_shape).astype(self.dtype))).ravel(),
            rmatvec=lambda y: np.asarray(backward(y.reshape(self.out_shape).astype(self.dtype))).ravel(),
            dtype=self.dtype,
        )

    # ------------------------------------------------------------------ spectra and solves

    norm = operator_norm
    singular_values = singular_values
    lstsq = least_squares

    def pinv(self, **options: Any) -> LinearOperator:
        """Pseudo-inverse as an operator; see [`PseudoInverse`][jaxconv.linear.PseudoInverse]."""
        return PseudoInverse(self, **options)


# ---------------------------------------------------------------------- what operators are made into


@dataclass_transform(frozen_default=True)
def _pytree(cls: type) -> Any:
    """A frozen dataclass as a pytree; fields are children unless their metadata says `static`."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True, eq=False)(cls))


@dataclasses.dataclass(frozen=True, eq=False)
class _Derived(LinearOperator):
    """What is made of one operator; shapes and dtype are its own unless a subclass says otherwise."""

    operator: LinearOperator

    in_shape = property(lambda self: self.operator.in_shape)
    out_shape = property(lambda self: self.operator.out_shape)
    dtype = property(lambda self: self.operator.dtype)


@_pytree
class Transposed(_Derived):
    """A^T."""

    in_shape = property(lambda self: self.operator.out_shape)
    out_shape = property(lambda self: self.operator.in_shape)
    T = property(lambda self: self.operator)
    untransposed = property(lambda self: self.operator.untransposed)

    def mv(self, x: ArrayLike) -> Array:
        return self.operator.transpose_mv(x)

    def transpose_mv(self, y: ArrayLike) -> Array:
        return self.operator.mv(y)

    def as_matrix(self, format: str = "dense", max_bytes: int = MAX_BYTES) -> Any:
        if format == "dense":
            return self.operator.as_matrix(format, max_bytes).T
        if format == "scipy":
            return self.operator.as_matrix(format, max_bytes).T.tocsr()
        matrix = self.operator.as_matrix("bcoo", max_bytes).T.sort_indices()
        return matrix if format == "bcoo" else _from_bcoo(matrix, format)


@_pytree
class Conjugated(_Derived):
    """The operator with conjugated entries: ``x -> conj(A conj(x))``."""

    untransposed = property(lambda self: self.operator.untransposed)

    def mv(self, x: ArrayLike) -> Array:
        return jnp.conj(self.operator.mv(jnp.conj(x)))

    def transpose_mv(self, y: ArrayLike) -> Array:
        return jnp.conj(self.operator.transpose_mv(jnp.conj(y)))

    def as_matrix(self, format: str = "dense", max_bytes: int = MAX_BYTES) -> Any:
        matrix = self.operator.as_matrix(format, max_bytes)
        return matrix.conj() if format in ("dense", "scipy") else jax.tree.map(_conjugate_values, matrix)


@_pytree
class Sum(LinearOperator):
    """A + B."""

    left: LinearOperator
    right: LinearOperator

    def __post_init__(self):
        _both("+", self.left, self.right, "in_shape", "in_shape")
        _both("+", self.left, self.right, "out_shape", "out_shape")

    in_shape = property(lambda self: self.left.in_shape)
    out_shape = property(lambda self: self.left.out_shape)
    dtype = property(lambda self: jnp.promote_types(self.left.dtype, self.right.dtype))

    def mv(self, x: ArrayLike) -> Array:
        return self.left.mv(x) + self.right.mv(x)

    def transpose_mv(self, y: ArrayLike) -> Array:
        return self.left.transpose_mv(y) + self.right.transpose_mv(y)

    def as_matrix(self, format: str = "dense", max_bytes: int = MAX_BYTES) -> Any:
        kind = "dense" if format == "dense" else "scipy"
        return _from_scipy(self.left.as_matrix(kind, max_bytes) + self.right.as_matrix(kind, max_bytes), format)


@_pytree
class Composition(LinearOperator):
    """A B: first B, then A."""

    outer: LinearOperator
    inner: LinearOperator

    def __post_init__(self):
        _both("@", self.outer, self.inner, "in_shape", "out_shape")

    in_shape = property(lambda self: self.inner.in_shape)
    out_shape = property(lambda self: self.outer.out_shape)
    dtype = property(lambda self: jnp.promote_types(self.outer.dtype, self.inner.dtype))

    def mv(self, x: ArrayLike) -> Array:
        return self.outer.mv(self.inner.mv(x))

    def transpose_mv(self, y: ArrayLike) -> Array:
        return self.inner.transpose_mv(self.outer.transpose_mv(y))

    def as_matrix(self, format: str = "dense", max_bytes: int = MAX_BYTES) -> Any:
        kind = "dense" if format == "dense" else "scipy"
        return _from_scipy(self.outer.as_matrix(kind, max_bytes) @ self.inner.as_matrix(kind, max_bytes), format)


@_pytree
class Scaled(_Derived):
    """c A for a number c."""

    factor: ArrayLike

    dtype = property(lambda self: jnp.result_type(self.operator.dtype, self.factor))

    def mv(self, x: ArrayLike) -> Array:
        return jnp.asarray(self.factor) * self.operator.mv(x)

    def transpose_mv(self, y: ArrayLike) -> Array:
        return jnp.asarray(self.factor) * self.operator.transpose_mv(y)

    def as_matrix(self, format: str = "dense", max_bytes: int = MAX_BYTES) -> Any:
        factor = np.asarray(self.factor)[()] if format == "scipy" else self.factor
        return self.operator.as_matrix(format, max_bytes) * factor


@functools.partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["array_shape", "entry_dtype"])
@dataclasses.dataclass(frozen=True)
class Identity(LinearOperator):
    """The identity on arrays of one shape."""

    array_shape: tuple[int, ...]
    entry_dtype: Any = np.dtype("float32")

    in_shape = property(lambda self: self.array_shape)
    out_shape = property(lambda self: self.array_shape)
    dtype = property(lambda self: self.entry_dtype)
    T = property(lambda self: self)

    def mv(self, x: ArrayLike) -> Array:
        return jnp.asarray(x)

    def transpose_mv(self, y: ArrayLike) -> Array:
        return jnp.asarray(y)

    def as_matrix(self, format: str = "dense", max_bytes: int = MAX_BYTES) -> Any:
        if format == "dense":
            return jnp.eye(self.shape[0], dtype=self.dtype)
        from scipy.sparse import eye_array

        return _from_scipy(eye_array(self.shape[0], dtype=self.dtype, format="csr"), format)


@_pytree
class PseudoInverse(_Derived):
    """The (regularised) pseudo-inverse as an operator: every product is a least-squares solve.

    ``A^+ y = argmin |A x - y|^2 + damp^2 |x|^2``. Its transpose is the pseudo-inverse of the transpose. This is what
    "deconvolution" asks for, and the transposed convolution is not.

    Args:
        operator: A.
        damp: weight of the regularisation, as in `least_squares`.
        method: as in `least_squares`.
        rtol: relative tolerance of each solve.
        max_steps: iterations after which a solve stops in any case.

    Example:
        >>> import jax.numpy as jnp, jaxconv as jc
        >>> A = jc.ConvOperator(jnp.array([0.25, 0.5, 0.25])[:, None, None], 8, padding=1)
        >>> round_trip = A.pinv() @ A
        >>> bool(jnp.allclose(round_trip.mv(jnp.ones((8, 1))), 1, atol=1e-3))
        True

    Source: Penrose 1955; Tikhonov 1963.
    """

    damp: ArrayLike = 0.0
    method: str = dataclasses.field(default="auto", metadata={"static": True})
    rtol: float = dataclasses.field(default=1e-6, metadata={"static": True})
    max_steps: int = dataclasses.field(default=500, metadata={"static": True})

    in_shape = property(lambda self: self.operator.out_shape)
    out_shape = property(lambda self: self.operator.in_shape)

    def mv(self, x: ArrayLike) -> Array:
        """The least-squares solution for each right-hand side (*batch, *in_shape)."""
        return self._apply(self.operator, self.method, x)

    def transpose_mv(self, y: ArrayLike) -> Array:
        """The least-squares solution with A^T, by iteration: "fft" knows convolutions only."""
        method = self.method if self.method in ("cg", "lsmr") else "lsmr"
        return self._apply(self.operator.T, method, y)

    def _apply(self, operator: LinearOperator, method: str, right: ArrayLike) -> Array:
        right = jnp.asarray(right)
        shape = operator.out_shape

        def solve(one):
            return least_squares(
                operator, one, damp=self.damp, method=method, rtol=self.rtol, max_steps=self.max_steps
            ).x

        if right.shape == shape:
            return solve(right)
        if right.shape[-len(shape) :] != shape:
            raise ValueError(
                f"the right-hand side has shape {right.shape}; it must be (*batch, {', '.join(map(str, shape))})"
            )
        batch = right.shape[: -len(shape)]
        solved = jax.vmap(solve)(right.reshape(-1, *shape))
        return solved.reshape(*batch, *operator.in_shape)

    def as_matrix(self, format: str = "dense", max_bytes: int = MAX_BYTES) -> Any:
        """The dense matrix, one solve per column; `jnp.linalg.pinv(A.as_matrix())` is faster where A's matrix fits."""
        rows, columns = self.shape
        needed = rows * columns * jnp.dtype(self.dtype).itemsize
        if format != "dense":
            raise ValueError(f"a pseudo-inverse has no sparse matrix; format must be 'dense', got {format!r}")
        if needed > max_bytes:
            raise ValueError(f"the dense {rows} x {columns} matrix would take {needed} bytes; max_bytes is {max_bytes}")
        units = jnp.eye(columns, dtype=self.dtype).reshape(columns, *self.in_shape)
        return self.mv(units).reshape(columns, rows).T


# ---------------------------------------------------------------------- helpers


def _both(symbol: str, a: LinearOperator, b: LinearOperator, first: str, second: str) -> None:
    # Transformations put stand-ins without shapes into pytrees.
    if not (isinstance(a, LinearOperator) and isinstance(b, LinearOperator)):
        return
    try:
        left, right = getattr(a, first), getattr(b, second)
    except (AttributeError, TypeError):
        return
    if left != right:
        raise ValueError(
            f"A {symbol} B: A has {first} {left}, B has {second} {right}; they must be equal "
            f"(A: {a.in_shape} -> {a.out_shape}, B: {b.in_shape} -> {b.out_shape})"
        )


def _conjugate_values(leaf: Array) -> Array:
    return jnp.conj(leaf) if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else leaf


def _from_bcoo(matrix: Any, format: str) -> Any:
    from jax.experimental import sparse

    if format != "bcsr":
        raise ValueError(f"format={format!r} is not one of 'bcoo', 'bcsr', 'dense', 'scipy'")
    return sparse.BCSR.from_bcoo(matrix)


def _from_scipy(matrix: Any, format: str) -> Any:
    from jax.experimental import sparse

    if format in ("dense", "scipy"):
        return matrix
    coo = sparse.BCOO.from_scipy_sparse(matrix)
    return coo if format == "bcoo" else _from_bcoo(coo.sort_indices(), format)
