"""The corners of jax that move between versions, kept in one place.

Everything here uses public names only. What is not public in some supported version (the varying manual axes of
`shard_map`) is reached through attributes of public objects.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import get_opaque_trace_state
from jax.interpreters import mlir
from jax.sharding import AbstractMesh, PartitionSpec, auto_axes
from jax.typing import DTypeLike


def nothing_is_traced() -> bool:
    """Whether operations run at once: outside of every transformation, or where one computes at compile time."""
    return get_opaque_trace_state() == _EAGER_STATE


# Taken while this is imported: inside of a trace the state would be another one, and the first call may be there.
with jax.ensure_compile_time_eval():
    _EAGER_STATE = get_opaque_trace_state()


def varying_axes(x: Any) -> frozenset[str]:
    """Mesh axes over which an array (or its abstract value) varies inside `shard_map`; empty elsewhere."""
    aval = x if isinstance(x, jax.core.ShapedArray) else jax.typeof(x)
    manual = getattr(aval, "manual_axis_type", None)  # jax 0.10 on; `vma` before
    return frozenset(getattr(manual, "varying", None) or getattr(aval, "vma", None) or ())


def match_varying(*operands: Any) -> tuple[Any, ...]:
    """Bring operands to the same varying manual axes, as jax's own binary operations do before they bind."""
    axes = [varying_axes(x) for x in operands]
    union = frozenset().union(*axes)
    if not union:
        return operands
    return tuple(
        jax.lax.pcast(x, tuple(sorted(union - own)), to="varying") if union - own else x
        for x, own in zip(operands, axes, strict=True)
    )


def partition_of(aval: Any) -> tuple[Any, ...] | None:
    """The partition spec of an abstract value, one entry per axis, or None where no mesh is in its type."""
    sharding = getattr(aval, "sharding", None)
    if sharding is None or sharding.mesh.empty:
        return None
    spec = tuple(sharding.spec)
    return spec + (None,) * (aval.ndim - len(spec))


def with_type(like: Any, shape: tuple[int, ...], dtype: DTypeLike, spec: tuple[Any, ...] | None) -> Any:
    """An abstract array of another shape that keeps the mesh, varying axes and memory space of `like`."""
    if spec is None:
        # Without a mesh in the type the sharding entry is only a rank: let jax make it anew.
        return like.update(shape=shape, dtype=dtype, sharding=None, weak_type=False)
    sharding = like.sharding.update(spec=PartitionSpec(*spec))
    return like.update(shape=shape, dtype=dtype, sharding=sharding, weak_type=False)


def without_type(aval: Any) -> Any:
    """Shape and dtype alone: what a lowering sees where shardings are no longer types."""
    return jax.core.ShapedArray(aval.shape, aval.dtype)


def left_to_the_partitioner(function: Callable[..., Any], *operands: Any) -> Any:
    """`function(*operands)` where the operands' types do not say how they are sharded.

    For what jax has no rule for on Explicit meshes. The results, of the first operand's rank, are sharded as that
    operand is, but for axes whose new size the mesh does not divide.
    """
    types = [jax.typeof(x) for x in operands]
    mesh = next((t.sharding.mesh for t in types if partition_of(t) is not None), None)
    # Every explicit axis, not only those in the types: the one that vmap maps over does not show there.
    axes = () if mesh is None else mesh.explicit_axes
    if not axes:
        return function(*operands)
    with no_mesh():
        results = jax.eval_shape(function, *(jax.ShapeDtypeStruct(t.shape, t.dtype) for t in types))
    spec, parts = partition_of(types[0]) or (None,) * types[0].ndim, _parts(types[0])

    def as_the_operand(result: Any) -> PartitionSpec:
        return PartitionSpec(*(e if n % p == 0 else None for e, n, p in zip(spec, result.shape, parts, strict=True)))

    return auto_axes(function, axes=axes, out_sharding=jax.tree.map(as_the_operand, results))(*operands)


def sharded_from(x: Any, first: int, stop: int | None = None) -> bool:
    """Whether the type of `x` says that one of its axes [first:stop] is sharded."""
    return any(part > 1 for part in _parts(jax.typeof(x))[first:stop])


def mesh_divides(x: Any, shape: Sequence[int]) -> bool:
    """Whether an array of this shape, of the rank of `x`, can be sharded as the type of `x` says."""
    return all(n % part == 0 for n, part in zip(shape, _parts(jax.typeof(x)), strict=True))


def _parts(aval: Any) -> tuple[int, ...]:
    """Into how many parts the type says that each axis is split."""
    spec = partition_of(aval) or (None,) * aval.ndim
    return tuple(math.prod(aval.sharding.mesh.shape[name] for name in _mesh_axes(entry)) for entry in spec)


def _mesh_axes(entry: Any) -> tuple[str, ...]:
    """The mesh axes in one entry of a partition spec."""
    return () if entry is None else entry if isinstance(entry, tuple) else (entry,)


def lower_untyped(function: Callable[..., Any], ctx: Any, *args: Any) -> Any:
    """A lowering rule's result: `function(*args)`, traced where shardings are no longer types."""
    lower = mlir.lower_fun(function, multiple_results=False)
    untyped = {key: [without_type(aval) for aval in getattr(ctx, key)] for key in ("avals_in", "avals_out")}
    with no_mesh():
        return lower(ctx.replace(**untyped), *args)


@contextlib.contextmanager
def no_mesh():
    """Trace without any mesh in the types; the partitioner still sees the operands' shardings."""
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
        yield


_chip_meant: str | None = None


def compile_for_chip(kind: str | None) -> None:
    """Say which kind of TPU this process compiles for, by jax's name, where that is not the one it has."""
    global _chip_meant
    _chip_meant = kind


def chip(platform: str | None) -> str | None:
    """What jax calls this process's TPUs ("TPU v6 lite"), or those that it compiles for; None on other platforms."""
    if platform != "tpu":
        return None
    if _chip_meant is None and jax.default_backend() == "tpu":
        return jax.devices()[0].device_kind
    return _chip_meant


def in_row_major_order(a: Any) -> Any:
    """`a`, whose last axis the compiler has to keep innermost."""
    from jax.experimental.layout import Layout, with_layout_constraint

    return with_layout_constraint(a, Layout(major_to_minor=tuple(range(a.ndim))))


def runs_here_on_one_device(ctx: Any) -> bool:
    """Whether a lowering rule's program runs in this process with whole arrays on one device.

    Custom calls cannot be partitioned by XLA, nor travel in an exported program. False where jax does not say.
    """
    module = getattr(ctx, "module_context", None)
    parameters = getattr(module, "lowering_parameters", None)
    axes = getattr(module, "axis_context", None)
    if parameters is None or axes is None or getattr(parameters, "for_export", True):
        return False
    devices = getattr(axes, "num_devices", None)
    if devices is not None:
        return devices == 1
    mesh, manual = getattr(axes, "mesh", None), getattr(axes, "manual_axes", None)
    if mesh is not None and manual is not None:  # inside shard_map, where every axis is manual: one device's share
        return frozenset(manual) == frozenset(mesh.axis_names)
    return False
