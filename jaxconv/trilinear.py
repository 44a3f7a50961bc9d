"""The trilinear form and its three faces as JAX primitives.

    T(x, w, y) = sum over batch, q, t, i, o of  x[u, i] w[t, i, o] y[q, o]     where b*u + lo = s*q + d*t

=================  =========  ==================================================================
face               open slot  is
=================  =========  ==================================================================
apply(x, w)        y          the convolution
adjoint(y, w)      x          the transposed convolution, the gradient with respect to the input
kernel(x, y)       w          the gradient with respect to the kernel
=================  =========  ==================================================================

Each face is bilinear and its two derivatives are the other two faces, so the three primitives are closed under any mix
of forward and reverse differentiation. Operands are channels-last with any number of leading batch axes: x (*batch, *n,
I), w (*k, I/groups, O), y (*batch, *m, O); the geometry's padding mode is "zeros". Callers want
[`jaxconv.ops`][jaxconv.ops]; these functions check nothing that a user could get wrong.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, partial_eval

from jaxconv import _compat
from jaxconv.geometry import ConvGeometry
from jaxconv.lowering import Call, Epilogue, run as run_lowering, run_then
from jaxconv.lowering.call import SLOTS as SLOTS_OF

apply_p = Primitive("conv_apply")
adjoint_p = Primitive("conv_adjoint")
kernel_p = Primitive("conv_kernel")

# Which slots of the form the two operands of a face fill, and which one is open.
FACES = {apply_p: "apply", adjoint_p: "adjoint", kernel_p: "kernel"}
SLOTS = {prim: SLOTS_OF[face] for prim, face in FACES.items()}


def apply(x: Array, w: Array, geometry: ConvGeometry, **params: Any) -> Array:
    """y[q] = sum over t of x[u] w[t], with ``b*u + lo = s*q + d*t``."""
    return _bind(apply_p, x, w, geometry, **params)


def adjoint(y: Array, w: Array, geometry: ConvGeometry, **params: Any) -> Array:
    """x[u] = sum over t of y[q] w[t], with ``b*u + lo = s*q + d*t``."""
    return _bind(adjoint_p, y, w, geometry, **params)


def kernel(x: Array, y: Array, geometry: ConvGeometry, **params: Any) -> Array:
    """w[t] = sum over batch and q of x[u] y[q], with ``b*u + lo = s*q + d*t``."""
    return _bind(kernel_p, x, y, geometry, **params)


def _bind(prim, a, b, geometry: ConvGeometry, *, out_dtype=None, precision=None, method: str = "auto") -> Array:
    """One dtype for both operands is the caller's part: `jaxconv.ops` promotes as jax.numpy does, once."""
    a, b = _compat.match_varying(a, b)
    out_dtype = jnp.dtype(a.dtype if out_dtype is None else out_dtype)
    if (jet := sys.modules.get("jax.experimental.jet")) is not None and prim not in jet.jet_rules:
        # Its rule for lax's convolution is the one for any bilinear primitive. An import of jet would cost every user.
        bilinear = jet.jet_rules[lax.conv_general_dilated_p].func
        jet.jet_rules.update({face: functools.partial(bilinear, face) for face in FACES})
    return prim.bind(a, b, geometry=geometry, out_dtype=out_dtype, precision=precision, method=method)


# ---------------------------------------------------------------------- abstract evaluation


def _abstract(prim, a, b, *, geometry: ConvGeometry, out_dtype, **_):
    slots = dict(zip(SLOTS[prim], (a, b), strict=False))
    shape = _shape(SLOTS[prim][2], slots, geometry)
    return _compat.with_type(a, shape, out_dtype, _spec(prim, slots, geometry))


def _shape(open_slot: str, slots: dict[str, Any], g: ConvGeometry) -> tuple[int, ...]:
    if open_slot == "w":
        return (*g.kernel_size, slots["x"].shape[-1] // g.groups, slots["y"].shape[-1])
    if open_slot == "y":
        return (*slots["x"].shape[: -g.rank - 1], *g.output_size, slots["w"].shape[-1])
    return (*slots["y"].shape[: -g.rank - 1], *g.input_size, slots["w"].shape[-2] * g.groups)


def _spec(prim, slots: dict[str, Any], g: ConvGeometry) -> tuple[Any, ...] | None:
    """How the result is laid out on an Explicit mesh: batch as the data, channels as the operand that brings them.

    A contracted axis may be sharded if both operands are sharded alike; the result is then summed over its mesh axis.
    """
    specs = {name: _compat.partition_of(aval) for name, aval in slots.items()}
    if all(spec is None for spec in specs.values()):
        return None
    full = {name: spec or (None,) * slots[name].ndim for name, spec in specs.items()}
    x, w, y = (full.get(name) for name in "xwy")
    data = x if x is not None else y
    assert data is not None  # every face has x or y
    batch = data[: -g.rank - 1]
    space = _space_spec(data[-g.rank - 1 : -1], g)
    if w is None:
        assert x is not None and y is not None
        _same("batch", batch, y[: -g.rank - 1], full)
        spec = ((None,) * g.rank) + (x[-1], y[-1])
    else:
        if any(w[: g.rank]):
            raise ValueError(f"the taps of a kernel cannot be sharded: {_show(full)}")
        if y is None:
            assert x is not None
            _same("input channels", x[-1:], w[-2:-1], full)
            spec = (*batch, *space, w[-1])
        else:
            _same("output channels", y[-1:], w[-1:], full)
            spec = (*batch, *space, w[-2])
    if g.groups > 1 and (any(s is not None for s in spec[-1:]) or any(full[n][-1] is not None for n in full)):
        raise ValueError(f"channels of a grouped convolution cannot be sharded: {_show(full)}")
    names = [n for s in spec if s is not None for n in (s if isinstance(s, tuple) else (s,))]
    if len(names) != len(set(names)):
        raise ValueError(
            f"one mesh axis would shard two axes of the result {spec}: reshard an operand first ({_show(full)})"
        )
    return spec


def _space_spec(space: tuple[Any, ...], g: ConvGeometry) -> tuple[Any, ...]:
    for axis, entry in enumerate(space):
        if entry is not None and g.input_size[axis] != g.output_size[axis]:
            raise ValueError(
                f"spatial axis {axis} is sharded over mesh axis {entry!r} and changes its size between "
                f"{g.input_size[axis]} and "
                f"{g.output_size[axis]}; on an Explicit mesh only axes that keep their size can be sharded: reshard "
                "first, or use Auto axes"
            )
    return space


def _same(what: str, a, b, full) -> None:
    if a != b:
        raise ValueError(f"{what} must be sharded alike in both operands of a convolution: {_show(full)}")


def _show(full: dict[str, Any]) -> str:
    return ", ".join(f"{name}: P{spec}" for name, spec in full.items())


# ---------------------------------------------------------------------- derivatives


def _derivative(face, a, b, like, geometry, out_dtype, **params):
    """`face` with a cotangent among its operands, of the dtype of the operand that it is the cotangent of.

    The operands' dtypes differ where the user asked for a result of another one than the operands': an explicit wish,
    not a promotion to be strict about. 8-bit floats promote with nothing, and are taken as the wider one.
    """
    if a.dtype != b.dtype:
        try:
            with jax.numpy_dtype_promotion("standard"):
                dtype = jnp.promote_types(a.dtype, b.dtype)
        except ValueError:
            dtype = max(a.dtype, b.dtype, key=lambda d: jnp.finfo(d).bits)
        a, b = lax.convert_element_type(a, dtype), lax.convert_element_type(b, dtype)
    return face(a, b, geometry, out_dtype=like.aval.dtype, **params)


def _apply_x(ct, x, w, **params):
    return _derivative(adjoint, ct, w, x, **params)


def _apply_w(ct, x, w, **params):
    return _derivative(kernel, x, ct, w, **params)


def _adjoint_y(ct, y, w, **params):
    return _derivative(apply, ct, w, y, **params)


def _adjoint_w(ct, y, w, **params):
    return _derivative(kernel, ct, y, w, **params)


def _kernel_x(ct, x, y, **params):
    return _derivative(adjoint, y, ct, x, **params)


def _kernel_y(ct, x, y, **params):
    return _derivative(apply, x, ct, y, **params)


# ---------------------------------------------------------------------- batching


def _batch(prim, args, dims, *, geometry: ConvGeometry, **params):
    """vmap: the mapped axis becomes a batch axis, or rides on the channels (as more of them, or as more groups)."""
    slots = dict(zip(SLOTS[prim], args, strict=False))
    mapped = {name: d for name, d in zip(SLOTS[prim], dims, strict=False) if d is not None}
    open_slot = SLOTS[prim][2]
    g = geometry.groups
    size = next(slots[name].shape[d] for name, d in mapped.items())
    if size == 0 and (open_slot == "w" or "w" in mapped):  # no channels and no groups are left to ride on
        one = {name: _without_axis(slots[name], mapped.get(name)) for name in slots}
        return jnp.zeros((0, *_shape(open_slot, one, geometry)), params["out_dtype"]), 0

    if "w" not in mapped and open_slot != "w":  # only the data is mapped: one more batch axis
        (name,) = mapped
        slots[name] = jnp.moveaxis(slots[name], mapped[name], 0)
        return _rebind(prim, slots, geometry, params), 0

    if len(mapped) == 2:  # both: the mapped axis multiplies the groups
        for name, d in mapped.items():
            slots[name] = (
                _merge(slots[name], d, g, before_groups=True)
                if name != "w"
                else _merge_kernel(slots[name], d, g, "group")
            )
        new = _with_groups(geometry, g * size)
        out = _rebind(prim, slots, new, params)
        return _split(out, size, g, before_groups=True) if open_slot != "w" else _split_kernel(out, size, g, "group"), 0

    # One operand is mapped and its channels of kind I or O stay open: the mapped axis multiplies these channels.
    ((name, d),) = mapped.items()
    if name == "w":
        which = "out" if open_slot == "y" else "in"
        slots["w"] = _merge_kernel(slots["w"], d, g, which)
        out = _rebind(prim, slots, geometry, params)
        return _split(out, size, g, before_groups=False), 0
    slots[name] = _merge(slots[name], d, g, before_groups=False)
    out = _rebind(prim, slots, geometry, params)
    return _split_kernel(out, size, g, "in" if name == "x" else "out"), 0


def _without_axis(a: Array, d: int | None) -> jax.ShapeDtypeStruct:
    """Shape and dtype of `a` without mapped axis d."""
    return jax.ShapeDtypeStruct(a.shape if d is None else a.shape[:d] + a.shape[d + 1 :], a.dtype)


def _rebind(prim, slots, geometry, params):
    a, b = (slots[name] for name in SLOTS[prim][:2])
    a, b = _compat.match_varying(a, b)
    return prim.bind(a, b, geometry=geometry, **params)


def _with_groups(geometry: ConvGeometry, groups: int) -> ConvGeometry:
    return dataclasses.replace(geometry, groups=groups)


def _merge(a: Array, d: int, groups: int, *, before_groups: bool) -> Array:
    """Fold mapped axis d into the channels, in front of the groups or right behind them."""
    a = jnp.moveaxis(a, d, -2)
    *lead, size, channels = a.shape
    if not before_groups and groups > 1:
        a = jnp.swapaxes(a.reshape(*lead, size, groups, channels // groups), -3, -2)
    return a.reshape(*lead, size * channels)


def _split(out: Array, size: int, groups: int, *, before_groups: bool) -> Array:
    *lead, channels = out.shape
    if before_groups or groups == 1:
        out = out.reshape(*lead, size, channels // size)
    else:
        out = out.reshape(*lead, groups, size, channels // size // groups)
        out = jnp.swapaxes(out, -3, -2).reshape(*lead, size, channels // size)
    return jnp.moveaxis(out, -2, 0)


def _merge_kernel(w: Array, d: int, groups: int, which: str) -> Array:
    """Fold mapped axis d of a kernel into its input channels, its output channels, or the groups."""
    w = jnp.moveaxis(w, d, -3)
    *taps, size, per_group, out = w.shape
    if which == "in":
        return w.reshape(*taps, size * per_group, out)
    if which == "group" or groups == 1:
        return jnp.swapaxes(w, -3, -2).reshape(*taps, per_group, size * out)
    w = w.reshape(*taps, size, per_group, groups, out // groups)
    w = jnp.moveaxis(w, -4, -2)  # (*taps, per_group, groups, size, out/groups)
    return w.reshape(*taps, per_group, size * out)


def _split_kernel(w: Array, size: int, groups: int, which: str) -> Array:
    *taps, per_group, out = w.shape
    if which == "in":
        w = w.reshape(*taps, size, per_group // size, out)
        return jnp.moveaxis(w, -3, 0)
    if which == "group" or groups == 1:
        return jnp.moveaxis(w.reshape(*taps, per_group, size, out // size), -2, 0)
    w = w.reshape(*taps, per_group, groups, size, out // size // groups)
    return jnp.moveaxis(w, -2, 0).reshape(size, *taps, per_group, out // size)


# ---------------------------------------------------------------------- lowering


def evaluate_then(prim, epilogue: Epilogue, a: Array, b: Array, **params: Any) -> Array | None:
    """A face and what follows it in one pass on a CPU that runs this program; None where nothing does that."""
    return _evaluate(prim, a, b, platform="cpu", runs_here=True, epilogue=epilogue, **params)


def _evaluate(
    prim, a: Array, b: Array, *, geometry, out_dtype, precision, method, platform, runs_here, epilogue=None
) -> Any:
    slots = dict(zip(SLOTS[prim], (a, b), strict=False))
    call = Call.of(
        FACES[prim],
        geometry,
        a,
        b,
        out_dtype=out_dtype,
        precision=precision,
        platform=platform,
        runs_here=runs_here,
        chip=_compat.chip(platform) if runs_here else None,
    )
    # Lowerings know one batch axis; here shardings are no longer types, so merging axes is only a change of view.
    flat = {
        name: v if name == "w" else v.reshape(math.prod(v.shape[: -geometry.rank - 1]), *v.shape[-geometry.rank - 1 :])
        for name, v in slots.items()
    }
    shape = _shape(SLOTS[prim][2], slots, geometry)
    operands = [flat[name] for name in SLOTS[prim][:2]]
    if epilogue is None:
        return run_lowering(method, call, *operands).reshape(shape)
    out = run_then(method, call, epilogue, *operands)
    return None if out is None else out.reshape(shape)


def _lowering_rule(prim, platform: str | None):
    def rule(ctx, *args, **params):
        runs_here = _compat.runs_here_on_one_device(ctx)
        evaluate = functools.partial(_evaluate, prim, platform=platform, runs_here=runs_here, **params)
        return _compat.lower_untyped(evaluate, ctx, *args)

    return rule


@functools.lru_cache(maxsize=4096)
def _compiled(prim, **params):
    def face(a: Array, b: Array) -> Array:
        if _compat.nothing_is_traced():  # jax_debug_nans: jax calls it once more to find the operation that made a NaN
            return _evaluate(prim, a, b, platform=None, runs_here=False, **params)
        return prim.bind(a, b, **params)

    return jax.jit(face)


def _impl(prim, a, b, **params):
    with jax.disable_jit(False):  # under disable_jit the compiled program would come straight back here
        return _compiled(prim, **params)(a, b)


def _partial_eval(saveable, unknown, instantiated, eqn):
    """What `jax.checkpoint` keeps: the faces count as the convolutions that they are.

    jax's policies know its own primitives, so they are asked about lax's convolution, too. Returns, as the interpreter
    of checkpointed functions wants it: the equation to run forward, the one to run again, which results are unknown,
    which are at hand again, and the operands to keep for it.
    """
    missing = [x for x, at_hand in zip(eqn.invars, instantiated, strict=True) if not at_hand]
    if any(unknown):
        return None, eqn, [True], [True], missing
    avals = [x.aval for x in eqn.invars]
    if any(_keeps(saveable(prim, *avals, **eqn.params)) for prim in (eqn.primitive, lax.conv_general_dilated_p)):
        return eqn, None, [False], [False], []
    return eqn, eqn, [False], [True], missing


def _keeps(verdict: Any) -> bool:
    """Whether a checkpoint policy's answer, a bool or one of jax's own markers, says to keep the value.

    What a policy would move to the host is kept where it is: it is not made again either way.
    """
    return verdict if isinstance(verdict, bool) else type(verdict).__name__ != "RecomputeType"


def _register(prim, lhs_rule, rhs_rule) -> None:
    prim.def_impl(functools.partial(_impl, prim))
    prim.def_abstract_eval(functools.partial(_abstract, prim))
    ad.defbilinear(prim, lhs_rule, rhs_rule)
    batching.primitive_batchers[prim] = functools.partial(_batch, prim)
    partial_eval.partial_eval_jaxpr_custom_rules[prim] = _partial_eval
    mlir.register_lowering(prim, _lowering_rule(prim, None))
    for platform in ("cpu", "cuda", "rocm", "tpu"):
        mlir.register_lowering(prim, _lowering_rule(prim, platform), platform=platform)


_register(apply_p, _apply_x, _apply_w)
_register(adjoint_p, _adjoint_y, _adjoint_w)
_register(kernel_p, _kernel_x, _kernel_y)
