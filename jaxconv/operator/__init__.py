"""The convolution as a linear operator: products, transpose, algebra, norm, singular values, least squares."""

from jaxconv.operator.algebra import (
    Composition,
    Conjugated,
    Identity,
    LinearOperator,
    Scaled,
    Sum,
    Transposed,
)
from jaxconv.operator.conv import ConvOperator
from jaxconv.operator.solve import LeastSquares, PseudoInverse

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
]
