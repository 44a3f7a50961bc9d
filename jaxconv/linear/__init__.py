"""The convolution as a linear map: its sparse matrix, and an operator with transpose, algebra, norm, singular values
and least squares."""

from jaxconv.linear.algebra import (
    Composition,
    Conjugated,
    Identity,
    LinearOperator,
    PseudoInverse,
    Scaled,
    Sum,
    Transposed,
)
from jaxconv.linear.matrix import conv_matrix
from jaxconv.linear.operator import ConvOperator
from jaxconv.linear.solve import LeastSquares

__all__ = [
    "Composition",
    "Conjugated",
    "ConvOperator",
    "Identity",
    "LeastSquares",
    "LinearOperator",
    "PseudoInverse",
    "Scaled",
    "Sum",
    "Transposed",
    "conv_matrix",
]
