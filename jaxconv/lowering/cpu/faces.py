"""The compiled CPU kernels as a lowering: one custom call, no copies beside what the kernels pack for themselves.

Source: the kernels gather as in Zhang et al. 2018 ("High performance zero-memory overhead direct convolutions",
arXiv:1809.10170), with the register tile of Goto and van de Geijn 2008 ("Anatomy of high-performance matrix
multiplication"); short kernels at step 1 are filtered minimally (Winograd 1980; Lavin and Gray 2016, arXiv:1509.09308).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxconv.lowering import cpu
from jaxconv.lowering.call import Call, Epilogue


def serves(call: Call) -> bool:
    """On one CPU device of this process, where the kernels were built: base dilation 1, at most three axes, a float
    of 16, 32 or 64 bits, and something to do."""
    g = call.geometry
    return (
        call.platform == "cpu"
        and call.runs_here
        and g.rank <= cpu.MOST_AXES
        and all(b == 1 for b in g.base_dilation)
        and np.dtype(call.dtype).name in cpu.DTYPES
        and _dtype(call).name in cpu.DTYPES
        and min(call.batch, call.channels_in, call.channels_out, *g.input_size, *g.output_size) > 0
        and max(map(abs, (*g.stride, *g.dilation, *g.offsets))) <= cpu.LARGEST
        and cpu.available()
    )


def plain(call: Call) -> bool:
    """Whether every result is to be the sum of its own products: the kernels may otherwise filter minimally."""
    asked = call.precision if isinstance(call.precision, tuple) else (call.precision,)
    return any(one in (lax.Precision.HIGHEST, "highest", "float32") for one in asked)


def takes_half(call: Call) -> bool:
    """Whether the kernels read and write the call's half-precision numbers: nobody has to widen them before."""
    return np.dtype(call.dtype).name in cpu.HALVES and call.out_dtype == call.dtype


def apply(x: Array, w: Array, call: Call) -> Array:
    """y[q] = sum over t of x[s*q + d*t - lo] w[t]."""
    return _call("apply", x, w, call, (call.batch, *call.geometry.output_size, call.channels_out))


def adjoint(y: Array, w: Array, call: Call) -> Array:
    """x[u] = sum over t of y[(u + lo - d*t)/s] w[t]."""
    return _call("adjoint", y, w, call, (call.batch, *call.geometry.input_size, call.channels_in))


def kernel(x: Array, y: Array, call: Call) -> Array:
    """w[t] = sum over q of x[s*q + d*t - lo] y[q]."""
    g = call.geometry
    return _call("kernel", x, y, call, (*g.kernel_size, call.channels_in // g.groups, call.channels_out))


def then(a: Array, b: Array, call: Call, epilogue: Epilogue) -> Array:
    """`apply` or `adjoint` and what follows it: done to results before they are written, or while they are in a cache.

    Half precision may be rounded once, at the end.
    """
    g, real = call.geometry, jnp.promote_types(_dtype(call), jnp.float32)
    forward = call.face == "apply"
    channels = call.channels_out if forward else call.channels_in
    shape = (call.batch, *(g.output_size if forward else g.input_size), channels)

    # What is not there is empty, and each is an operand of its own: XLA would split a loop over all of them between
    # threads, which takes longer than a small convolution.
    vectors = (epilogue.scale, epilogue.bias, epilogue.slope)
    more = [np.zeros(0, real) if v is None else v.astype(real) for v in vectors]
    more.append(np.zeros(0, _dtype(call)) if epilogue.residual is None else epilogue.residual.astype(_dtype(call)))
    attributes = {"rectify": np.int64(epilogue.rectified), "most": np.float64(epilogue.most)}
    return _call(f"{call.face}_then", a, b, call, shape, *more, **attributes)


def _call(face: str, a: Array, b: Array, call: Call, shape: tuple[int, ...], *more: Any, **attributes: Any) -> Array:
    g = call.geometry
    dtype = _dtype(call)
    spare = cpu.MOST_AXES - g.rank
    sizes = [
        *(1,) * spare, *g.input_size, *(1,) * spare, *g.kernel_size, *(1,) * spare, *g.output_size,
        *(1,) * spare, *g.stride, *(1,) * spare, *g.dilation, *(0,) * spare, *g.offsets,
        g.groups, call.channels_in // g.groups, call.channels_out // g.groups, call.batch, plain(call),
    ]  # fmt: skip
    result = jax.ShapeDtypeStruct(shape, dtype)
    out = jax.ffi.ffi_call(cpu.target(face, dtype.name), result)(
        a.astype(dtype), b.astype(dtype), *more, sizes=np.array(sizes, np.int64), **attributes
    )
    return out.astype(call.out_dtype)


def _dtype(call: Call) -> np.dtype:
    """What the kernels are given: the operands' dtype, or the wider one that the result is summed in."""
    if takes_half(call):
        return np.dtype(call.dtype)
    return jnp.promote_types(call.dtype, call.accumulator)
