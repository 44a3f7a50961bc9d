"""Who is measured: jaxconv, lax, flax, equinox and PyTorch, each computing a layer's forward pass and its gradients
alone.

A contender prepares a layer once and returns a ready call without arguments, which ends when its result is there. One
that is not installed, or cannot compute a layer, says so and is named as absent.

- jaxconv: the faces, as `jaxconv.conv` and `jaxconv.conv_transpose` call them.
- lax: `lax.conv_general_dilated` alone, a transposed kernel flipped outside, gradients by jax's own rules.
- flax: `flax.nnx.Conv` and `ConvTranspose`. Under jit nothing of the module is left, so this is lax's program.
- equinox: `equinox.nn.Conv` and `ConvTranspose`, channels first and vmapped over the batch: lax in another layout.
- torch: PyTorch's operators, in the better of contiguous and channels-last.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv import lowering, trilinear
from jaxconv.benchmark.cases import Layer

# Both gradients together, as training needs them, and each alone; none of them computes the forward pass.
TASKS = ("forward", "gradients", "data gradient", "kernel gradient")
# Which of the two gradients a task wants.
WANTED = {"gradients": (0, 1), "data gradient": (0,), "kernel gradient": (1,)}
# Calls go through several sets of operands in turn, as long as these sets stay this small together.
SETS, SETS_BYTES = 4, 64e6
# A compilation is timed this often, and the quickest counts.
COMPILATIONS = 2
SPATIAL = {1: "W", 2: "HW", 3: "DHW"}


class Absent(Exception):
    """A contender that is not installed or cannot compute a layer; the message says why."""


@dataclasses.dataclass
class Prepared:
    """A ready call and what it costs beside its time.

    Attributes:
        call: computes and waits for the result.
        compile: seconds to trace, lower and compile, from empty caches.
        first_call: the same and the first run.
        temporary_bytes: beside operands and results, as the compiler says; libraries' own scratch is not in it.
        operand_bytes: of one set of operands.
    """

    call: Callable[[], object]
    compile: float | None = None
    first_call: float | None = None
    temporary_bytes: int | None = None
    operand_bytes: int = 0


def arrays(layer: Layer, seed: int = 0) -> dict[str, np.ndarray]:
    """Random x, w, y of the form; never zeros, which some libraries treat specially."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in layer.shapes.items()}


def fresh_caches() -> None:
    """Forget every trace, program and choice, so that a first call is one; what is compiled and held stays usable."""
    jax.clear_caches()
    for function in (lowering.choose,):
        getattr(function, "cache_clear", lambda: None)()


def _varied(args: Sequence[Any], count: int) -> list[tuple[Any, ...]]:
    """Sets of operands of the same values in other places."""
    plain = [np.asarray(a) for a in args]  # rolled by numpy, which compiles nothing
    return [tuple(args), *(tuple(jnp.asarray(np.roll(a, i, -1)) for a in plain) for i in range(1, count))]


def _count(args: Sequence[Any]) -> int:
    return int(max(1, min(SETS, SETS_BYTES // max(sum(a.nbytes for a in args), 1))))


def compiled(f: Callable, *args: Any) -> Prepared:
    """A jax function compiled for operands, its first call measured from empty caches."""
    args = tuple(map(jnp.asarray, args))
    seconds = []
    for _ in range(COMPILATIONS):
        fresh_caches()
        start = time.perf_counter()
        program = jax.jit(lambda *a: f(*a)).lower(*args).compile()
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    jax.block_until_ready(program(*args))
    first = min(seconds) + time.perf_counter() - start
    memory = program.memory_analysis()
    temporary = None if memory is None else int(memory.temp_size_in_bytes)
    sets = itertools.cycle(_varied(args, _count(args)))
    return Prepared(
        lambda: jax.block_until_ready(program(*next(sets))),
        min(seconds),
        first,
        temporary,
        sum(a.nbytes for a in args),
    )


def gradients_of(forward: Callable, wanted: tuple[int, ...] = (0, 1)) -> Callable:
    """Gradients of a bilinear function and nothing else: its value is not computed."""

    def gradients(data, w, ct):
        # The value is dead code: a bilinear function's derivatives do not need it.
        found = jax.vjp(forward, data, w)[1](ct)
        return tuple(found[i] for i in wanted)

    return gradients


def _jax_task(forward: Callable, task: str, data, w, ct) -> Prepared:
    if task == "forward":
        return compiled(forward, data, w)
    return compiled(gradients_of(forward, WANTED[task]), data, w, ct)


def jaxconv_(layer: Layer, task: str, dtype: str, method: str = "auto") -> Prepared:
    """The faces, as `jaxconv.conv` and `jaxconv.conv_transpose` call them."""
    a = {k: jnp.asarray(v, dtype) for k, v in arrays(layer).items()}
    face = trilinear.adjoint if layer.transposed else trilinear.apply
    forward = functools.partial(face, geometry=layer.geometry, method=method)
    data, ct = ("y", "x") if layer.transposed else ("x", "y")
    return _jax_task(forward, task, a[data], a["w"], a[ct])


def lax_forward(layer: Layer) -> Callable:
    """The layer as flax and equinox write it: `lax.conv_general_dilated`, the transposed one by an lhs dilation."""
    g = layer.geometry
    space = SPATIAL[g.rank]
    numbers = (f"N{space}C", f"{space}IO", f"N{space}C")
    if not layer.transposed:
        return lambda x, w: lax.conv_general_dilated(
            x, w, g.stride, g.pads, rhs_dilation=g.dilation, dimension_numbers=numbers, feature_group_count=g.groups
        )
    pads = [
        (e - 1 - lo, n - 1 - (m - 1) * s + lo)
        for e, lo, n, m, s in zip(g.kernel_extent, g.offsets, g.input_size, g.output_size, g.stride, strict=True)
    ]
    return lambda y, w: lax.conv_general_dilated(
        y, w, (1,) * g.rank, pads, lhs_dilation=g.stride, rhs_dilation=g.dilation, dimension_numbers=numbers,
        feature_group_count=g.groups,
    )  # fmt: skip


def plain_kernel(layer: Layer, w: np.ndarray) -> np.ndarray:
    """The kernel that `lax_forward` takes: for a transposed layer flipped, with its channels the other way round,
    group by group."""
    if not layer.transposed:
        return w
    g = layer.geometry
    *k, per_group, o = w.shape
    w = w[(slice(None, None, -1),) * g.rank].reshape(*k, per_group, g.groups, o // g.groups)
    return np.swapaxes(w, -1, -3).reshape(*k, o // g.groups, g.groups * per_group)


def lax_(layer: Layer, task: str, dtype: str) -> Prepared:
    """lax alone, the kernel flipped outside, gradients by jax's own rules."""
    a = arrays(layer)
    data, ct = ("y", "x") if layer.transposed else ("x", "y")
    w = jnp.asarray(plain_kernel(layer, a["w"]), dtype)
    return _jax_task(lax_forward(layer), task, jnp.asarray(a[data], dtype), w, jnp.asarray(a[ct], dtype))


def flax_(layer: Layer, task: str, dtype: str) -> Prepared:
    """flax.nnx.Conv and flax.nnx.ConvTranspose."""
    if importlib.util.find_spec("flax") is None:
        raise Absent("flax is not installed")
    from flax import nnx

    g, a = layer.geometry, arrays(layer)
    common: dict[str, Any] = {
        "kernel_size": g.kernel_size,
        "use_bias": False,
        "rngs": nnx.Rngs(0),
        "dtype": dtype,
        "param_dtype": dtype,
    }
    data, ct = ("y", "x") if layer.transposed else ("x", "y")
    if layer.transposed:
        if g.groups > 1:
            raise Absent("flax's ConvTranspose has no groups")
        pads = [
            (e - 1 - lo, n - 1 - (m - 1) * s + lo)
            for e, lo, n, m, s in zip(g.kernel_extent, g.offsets, g.input_size, g.output_size, g.stride, strict=True)
        ]
        module: Any = nnx.ConvTranspose(
            layer.channels_in, layer.channels_out, strides=g.stride, padding=pads, kernel_dilation=g.dilation, **common
        )
    else:
        module = nnx.Conv(
            layer.channels_in, layer.channels_out, strides=g.stride, padding=g.pads, kernel_dilation=g.dilation,
            feature_group_count=g.groups, **common,
        )  # fmt: skip
    graph, _ = nnx.split(module)

    def forward(x, w):
        return nnx.merge(graph, nnx.State({"kernel": nnx.Param(w)}))(x)

    w = jnp.asarray(plain_kernel(layer, a["w"]), dtype)
    return _jax_task(forward, task, jnp.asarray(a[data], dtype), w, jnp.asarray(a[ct], dtype))


def equinox_(layer: Layer, task: str, dtype: str) -> Prepared:
    """equinox.nn.Conv and equinox.nn.ConvTranspose: channels first, one example, vmapped over the batch."""
    if importlib.util.find_spec("equinox") is None:
        raise Absent("equinox is not installed")
    import equinox as eqx

    g, a = layer.geometry, arrays(layer)
    common: dict[str, Any] = {"dilation": g.dilation, "groups": g.groups, "use_bias": False, "key": jax.random.key(0)}
    data, ct = ("y", "x") if layer.transposed else ("x", "y")
    if layer.transposed:
        module: Any = eqx.nn.ConvTranspose(
            g.rank, layer.channels_in, layer.channels_out, g.kernel_size, g.stride, output_padding=g.output_padding,
            padding=g.pads, **common,
        )  # fmt: skip
    else:
        module = eqx.nn.Conv(
            g.rank, layer.channels_in, layer.channels_out, g.kernel_size, g.stride, padding=g.pads, **common
        )

    def forward(x, w):
        return jax.vmap(eqx.tree_at(lambda m: m.weight, module, w))(x)

    w = np.moveaxis(plain_kernel(layer, a["w"]), (-1, -2), (0, 1))
    first = {k: jnp.asarray(np.moveaxis(a[k], -1, 1), dtype) for k in (data, ct)}
    return _jax_task(forward, task, first[data], jnp.asarray(w, dtype), first[ct])


def torch_operation(layer: Layer, task: str) -> Callable[..., Any]:
    """The task in PyTorch's operators, of (data, kernel), or of (cotangent, data, kernel) for gradients alone.

    Uneven pads are an operation before the forward pass; its gradient takes `torch_operands`' padded data.
    """
    import torch

    g, r = layer.geometry, layer.geometry.rank
    uneven = _uneven(layer)
    padding = [0 if uneven else lo for lo, _ in g.pads]
    pads = _torch_pads(layer)
    extra = list(g.output_padding) if layer.transposed else [0] * r
    tail = (None, list(g.stride), padding, list(g.dilation), layer.transposed, extra, g.groups)
    mask = [i in WANTED.get(task, ()) for i in range(2)] + [False]

    def forward(d, k):
        d = torch.nn.functional.pad(d, pads) if uneven else d
        return torch.ops.aten.convolution(d, k, *tail)

    def backward(c, d, k):
        out = torch.ops.aten.convolution_backward(c, d, k, *tail, mask)
        if uneven and mask[0]:
            for axis, ((lo, _), n) in enumerate(zip(g.pads, g.input_size, strict=True)):
                out = (out[0].narrow(2 + axis, lo, n), *out[1:])
        return out

    return forward if task == "forward" else backward


def _uneven(layer: Layer) -> bool:
    return any(lo != hi for lo, hi in layer.geometry.pads)


def _torch_pads(layer: Layer) -> list[int]:
    return [amount for pair in reversed(layer.geometry.pads) for amount in pair]


def torch_operands(layer: Layer, task: str, x: Any, w: Any, y: Any) -> tuple[Any, ...]:
    """What `torch_operation` takes, from the form's tensors in jaxconv's layout.

    Raises:
        Absent: PyTorch has no such layer.
    """
    import torch

    uneven = _uneven(layer)
    if uneven and layer.transposed:
        raise Absent("PyTorch crops both sides of a transposed convolution alike")
    x, y, w = x.movedim(-1, 1), y.movedim(-1, 1), w.movedim((-1, -2), (0, 1))
    if uneven and task != "forward":
        x = torch.nn.functional.pad(x, _torch_pads(layer))
    data, ct = (y, x) if layer.transposed else (x, y)
    return (data, w) if task == "forward" else (ct, data, w)


def torch_(layer: Layer, task: str, dtype: str) -> Prepared:
    """PyTorch's own operators, contiguous and channels-last, whichever is faster for the layer."""
    if importlib.util.find_spec("torch") is None:
        raise Absent("torch is not installed")
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = {k: torch.from_numpy(v).to(device, getattr(torch, dtype)) for k, v in arrays(layer).items()}
    operands, operation = torch_operands(layer, task, **a), torch_operation(layer, task)
    best: tuple[float, Prepared] | None = None
    for layout in torch_formats(layer.geometry.rank):
        count = int(max(1, min(SETS, SETS_BYTES // sum(t.nbytes for t in operands))))
        sets = [tuple(t.roll(i, 0).contiguous(memory_format=layout) for t in operands) for i in range(count)]
        turns = itertools.cycle(sets)

        def call(turns=turns):
            with torch.no_grad():
                out = operation(*next(turns))
            if device == "cuda":
                torch.cuda.synchronize()
            return out

        times = []
        for _ in range(5):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        ready = Prepared(call, None, times[0], None, sum(t.nbytes for t in operands))
        for _ in range(-len(times) % count):  # so that the next call is that of the first set again
            call()
        if best is None or min(times) < best[0]:
            best = (min(times), ready)
    assert best is not None  # there is at least one format
    return best[1]


def torch_formats(rank: int) -> list[Any]:
    """PyTorch's memory formats for so many spatial axes: contiguous, and channels-last where there is one."""
    import torch

    last = {2: torch.channels_last, 3: torch.channels_last_3d}
    return [torch.contiguous_format] + ([last[rank]] if rank in last else [])


CONTENDERS: dict[str, Callable[..., Prepared]] = {
    "jaxconv": jaxconv_,
    "lax": lax_,
    "flax": flax_,
    "equinox": equinox_,
    "torch": torch_,
}
