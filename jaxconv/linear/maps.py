"""What spectra and solves ask of a linear map on arrays, whatever it is made of."""

from __future__ import annotations

import abc
import math
from typing import Any

import jax
from jax import Array
from jax.typing import ArrayLike

MAX_BYTES = 4 * 2**30


class LinearMap(abc.ABC):
    """A linear map from arrays of `in_shape` to arrays of `out_shape`; `LinearOperator` adds the algebra."""

    # ------------------------------------------------------------------ what a subclass says

    @property
    @abc.abstractmethod
    def in_shape(self) -> tuple[int, ...]:
        """Shape of one input, without batch axes."""

    @property
    @abc.abstractmethod
    def out_shape(self) -> tuple[int, ...]:
        """Shape of one output, without batch axes."""

    @property
    @abc.abstractmethod
    def dtype(self) -> Any:
        """dtype of the operator's entries."""

    @abc.abstractmethod
    def mv(self, x: ArrayLike) -> Array:
        """A x for x (*batch, *in_shape); the result has shape (*batch, *out_shape)."""

    @abc.abstractmethod
    def transpose_mv(self, y: ArrayLike) -> Array:
        """A^T y for y (*batch, *out_shape); the result has shape (*batch, *in_shape)."""

    @abc.abstractmethod
    def as_matrix(self, format: str = "dense", max_bytes: int = MAX_BYTES) -> Any:
        """The matrix of the operator: the explicit, and often the expensive, form.

        Args:
            format: "dense", "bcoo", "bcsr" or "scipy".
            max_bytes: refuse to build anything larger than this, in bytes.

        Returns:
            Matrix of shape (prod(out_shape), prod(in_shape)); entry (a, b) is the weight of input element b in output
            element a, both counted in row-major order.

        Raises:
            ValueError: an unknown format, or a matrix that would be too large.
        """

    @abc.abstractmethod
    def computable(self) -> LinearMap:
        """This operator, in float32 where it is of half precision: nothing decomposes less."""

    @property
    @abc.abstractmethod
    def H(self) -> LinearMap:  # noqa: N802 - the name that every array library uses
        """The conjugate transpose; the transpose where the entries are real."""

    @abc.abstractmethod
    def as_scipy(self) -> Any:
        """This operator for scipy.sparse.linalg: a `LinearOperator` on flat NumPy vectors (needs scipy)."""

    # ------------------------------------------------------------------ structure

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one input."""
        return jax.ShapeDtypeStruct(self.in_shape, self.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one output."""
        return jax.ShapeDtypeStruct(self.out_shape, self.dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the matrix."""
        return math.prod(self.out_shape), math.prod(self.in_shape)

    @property
    def untransposed(self) -> LinearMap:
        """The operator that this one is the transpose or the conjugate of: it has the same singular values."""
        return self
