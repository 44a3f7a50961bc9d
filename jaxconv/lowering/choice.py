"""Which lowering serves a call: a table of the lowerings, and for each platform the rules that choose among them.

A lowering is a module: ``serves(call)`` says which calls it can compute, and where (the platform is part of the call);
``apply``, ``adjoint`` and ``kernel`` compute them. A new one is its file and its line in `METHODS`; a rule of a
platform that is to prefer it is a line in `RULES`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from types import ModuleType

import jax.numpy as jnp
from jax import Array

from jaxconv.lowering import blocks, costs, cpu, fft, fold, im2col, integers, lax, phases, rules, space_to_batch, taps
from jaxconv.lowering.call import Call, Epilogue
from jaxconv.lowering.cpu import faces as cpu_faces


@dataclasses.dataclass(frozen=True)
class Lowering:
    """One way to compute the faces.

    Attributes:
        module: where ``serves(call)`` and the three faces ``face(a, b, call)`` stand.
        leaves_a_call: whether it turns a call into a simpler one, which goes through the choice again; its faces then
            take ``run(inner call, a, b)`` as their last argument.
        takes_half: which half-precision calls it computes on CPUs from operands that nobody has widened.
    """

    module: ModuleType
    leaves_a_call: bool = False
    takes_half: Callable[[Call], bool] = lambda call: False

    def serves(self, call: Call) -> bool:
        """Whether this very call can be computed: its face, geometry, channels and dtypes, on its platform."""
        return self.module.serves(_widened(call))

    def __call__(self, call: Call, a: Array, b: Array) -> Array:
        """The face of `call` on its two operands."""
        further = (functools.partial(run, "auto"),) if self.leaves_a_call else ()
        return getattr(self.module, call.face)(a, b, call, *further)


METHODS = {
    "lax": Lowering(lax),
    "taps": Lowering(taps),
    "im2col": Lowering(im2col),
    "phases": Lowering(phases, leaves_a_call=True),
    "fold": Lowering(fold, leaves_a_call=True),
    "space_to_batch": Lowering(space_to_batch, leaves_a_call=True),
    "blocks": Lowering(blocks, leaves_a_call=True),
    "fft": Lowering(fft),
    "integers": Lowering(integers, leaves_a_call=True),
    "cpu_kernels": Lowering(cpu_faces, takes_half=cpu_faces.takes_half),
}

# Names that `method=` took in jaxconv 0.1.
FORMER_NAMES = {"window": "lax", "patches": "im2col", "native": "cpu_kernels"}

Rule = Callable[[Call, list[str]], str | None]


def _wherever_it_serves(method: str) -> Rule:
    return lambda call, served: method if method in served else None


def _cheapest(call: Call, served: list[str]) -> str:
    return costs.cheapest(call, served, choose)


# The first rule that names a lowering decides; "lax" where none does.
# CPU: transforms for kernels of hundreds of taps. Beside them the compiled kernels, with AVX2, were the model's choice
# in all 222 calls of the record, so where they can run they do. Other instruction sets take the same rules until a
# measurement asks for one in front of them.
RULES: dict[str | None, tuple[Rule, ...]] = {
    "cpu": (rules.cpu, rules.integers, _wherever_it_serves("cpu_kernels"), _cheapest),
    "cuda": (rules.gpu,),
    "rocm": (rules.gpu,),
    "tpu": (rules.tpu,),
    None: (_cheapest,),
}


@functools.lru_cache(maxsize=65536)
def choose(call: Call) -> str:
    """Name of the lowering that serves `call` best, from the call alone: no timing, no state.

    On CPUs transforms for very large kernels, the compiled kernels where they can run, else the cheapest by the
    fitted cost model ([`costs`][jaxconv.lowering.costs]); on GPUs and TPUs by rules read off recorded measurements
    and compilers' estimates ([`rules`][jaxconv.lowering.rules]).

    Example:
        >>> import numpy as np
        >>> from jaxconv import ConvGeometry
        >>> g = ConvGeometry.resolve(input_size=(56, 56), kernel_size=(3, 3), padding=1, groups=128)
        >>> choose(Call("apply", g, 2, 128, 128, np.dtype("float32"), np.dtype("float32"), None, "cpu"))
        'taps'
    """
    served = [name for name, lowering in METHODS.items() if lowering.serves(call)]
    return next(filter(None, (rule(call, served) for rule in RULES.get(call.platform, ()))), "lax")


def run(method: str, call: Call, a: Array, b: Array) -> Array:
    """Evaluate one face with the named lowering; "auto" asks [`choose`][jaxconv.lowering.choose].

    A derivative carries its function's `method` along; where that cannot serve the other face, the choice does.
    """
    wide = _widened(call)
    name = method if method != "auto" and METHODS[method].serves(wide) else choose(wide)
    if wide.dtype == call.dtype or METHODS[name].takes_half(call):
        return METHODS[name](call, a, b)
    return METHODS[name](wide, a.astype(wide.dtype), b.astype(wide.dtype))


def run_then(method: str, call: Call, epilogue: Epilogue, a: Array, b: Array) -> Array | None:
    """One face and what follows it in one pass; None where the lowering that serves the face does not do that."""
    wide = _widened(call)
    name = method if method != "auto" and METHODS[method].serves(wide) else choose(wide)
    as_it_is = wide.dtype == call.dtype == call.out_dtype or cpu_faces.takes_half(call)
    return cpu_faces.then(a, b, call, epilogue) if METHODS[name].module is cpu_faces and as_it_is else None


def _widened(call: Call) -> Call:
    """On CPUs XLA has no half-precision products worth their conversions, and lacks some of them: widen once."""
    half = jnp.issubdtype(call.dtype, jnp.floating) and jnp.finfo(call.dtype).bits < 32
    return dataclasses.replace(call, dtype=jnp.dtype(jnp.float32)) if half and call.platform in ("cpu", None) else call


# ---------------------------------------------------------------------- what users ask for


def named(method: str) -> str:
    """The name in `METHODS` of what a user calls `method`, or "auto".

    Example:
        >>> named("patches")
        'im2col'
    """
    name = FORMER_NAMES.get(method, method)
    if name != "auto" and name not in METHODS:
        raise ValueError(f"method={method!r} is not one of 'auto', {', '.join(map(repr, METHODS))}")
    return name


def check(method: str, call: Call) -> None:
    """Refuse a named `method` that can compute `call` on no platform."""
    if _somewhere(name := named(method), call):
        return
    g = call.geometry
    able = [other for other in METHODS if _somewhere(other, call)]
    why = f"; the compiled kernels are {cpu.status()}" if name == "cpu_kernels" and not cpu.available() else ""
    raise ValueError(
        f"method={method!r} cannot compute this {call.face} face (stride={g.stride}, dilation={g.dilation}, "
        f"groups={g.groups}, kernel_size={g.kernel_size}, dtype {jnp.dtype(call.dtype).name}); these can: 'auto', "
        f"{', '.join(map(repr, able))}{why}"
    )


def _somewhere(method: str, call: Call) -> bool:
    """Whether the lowering can compute the call on some platform: which one it will be is not known yet."""
    asked = dataclasses.replace(call, batch=1, runs_here=True)
    return any(METHODS[method].serves(dataclasses.replace(asked, platform=platform)) for platform in RULES)
