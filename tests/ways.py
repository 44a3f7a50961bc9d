"""Every way to compute a face, behind one interface: the properties in test_core_faces.py are asked of each.

A way is a name, three functions (x, w) -> y, (y, w) -> x, (x, y) -> w that take the case they are for, and a predicate
that says which
cases it serves.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

import jaxconv as jc
from jaxconv import lowering
from jaxconv.geometry import ConvGeometry


@dataclasses.dataclass(frozen=True)
class Way:
    name: str
    apply: Callable
    adjoint: Callable
    kernel: Callable
    serves: Callable = lambda case, face: True


def _ops(method):
    return Way(
        f"ops[{method}]",
        lambda x, w, case: jc.conv(x, w, **case.params, method=method),
        lambda y, w, case: jc.conv_transpose(y, w, **case.params, output_size=case.n, method=method),
        lambda x, y, case: jc.conv_kernel(x, y, case.k, **case.params, method=method),
        lambda case, face: method == "auto" or lowering.METHODS[method].serves(call(case, face)),
    )


def geometry(case):
    """The geometry that reaches the lowering: padding modes other than zeros have become an input that is padded
    already."""
    resolved = ConvGeometry.resolve(input_size=case.n, kernel_size=case.k, **case.params)
    return resolved if case.mode == "zeros" else resolved.unpadded()


def call(case, face):
    """The case's call, where every lowering that may serve it does: on one CPU device of this process."""
    i, o = (c * case.groups for c in case.channels)
    dtype = np.dtype("float64")
    return lowering.Call(face, geometry(case), 1, i, o, dtype, dtype, None, "cpu", True)


WAYS = [_ops("auto")] + [_ops(method) for method in lowering.METHODS]
