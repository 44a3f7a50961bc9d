"""What is compiled for an accelerator, as functions and the shapes of their operands: layers by task, networks by step,
and the neighbours of convolutions (pooling, unpooling, resizing, windows, shuffles) with their gradients.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from jaxconv import trilinear
from jaxconv._accelerate import accelerate
from jaxconv.benchmark import backends, networks
from jaxconv.benchmark.cases import Layer
from jaxconv.benchmark.contenders import WANTED, gradients_of, lax_forward, plain_kernel
from jaxconv.resampling.pooling import avg_pool, max_pool, max_unpool
from jaxconv.resampling.resample import fold, pixel_shuffle, resize, unfold

CONTENDERS = ("jaxconv", "accelerate", "lax")
FACES = ("forward", "data gradient", "kernel gradient")


@dataclasses.dataclass(frozen=True)
class Program:
    """One function to compile.

    Attributes:
        what: the layer, network or operation.
        task: which part of it: a face's task, a step, or "forward" and "gradient".
        contender: whose: jaxconv, accelerate or lax (for the neighbours: jax's own).
        function: what is jitted.
        operands: a tree of `jax.ShapeDtypeStruct`.
        multiply_adds: nominal work of the task; 0 where it has no such number.
        bytes: of the tensors that the task must read and write; 0 where that is not known.
    """

    what: str
    task: str
    contender: str
    function: Callable[..., Any]
    operands: tuple[Any, ...]
    multiply_adds: int = 0
    bytes: int = 0

    @property
    def row(self) -> tuple[str, str]:
        """What contenders share."""
        return self.what, self.task

    def lower(self, sharding: Any = None) -> Any:
        """The lowered program, its operands on the devices of a sharding."""
        operands = self.operands
        if sharding is not None:
            operands = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), operands)
        return jax.jit(self.function).lower(*operands)


def _struct(shape: Sequence[int], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype))


def of_layer(layer: Layer, task: str, contender: str, dtype: str, inner: bool = False) -> Program:
    """One task of a layer: "forward", "gradients", "data gradient" or "kernel gradient", gradients alone.

    With `inner` the image and the cotangent are products of two arrays each, as between a network's layers: an operand
    that is an argument can be moved by what a compiler gives no estimate for, before anything is counted.
    """
    shapes = layer.shapes
    data, ct = ("y", "x") if layer.transposed else ("x", "y")
    if contender == "jaxconv":
        face = trilinear.adjoint if layer.transposed else trilinear.apply
        forward: Callable = functools.partial(face, geometry=layer.geometry)
        kernel = shapes["w"]
    else:
        forward = lax_forward(layer)
        kernel = plain_kernel(layer, np.broadcast_to(np.float32(0), shapes["w"])).shape
    function = forward if task == "forward" else gradients_of(forward, WANTED[task])
    if contender == "accelerate":
        function = accelerate(function)
    names = [shapes[data], kernel] if task == "forward" else [shapes[data], kernel, shapes[ct]]
    operands: tuple[Any, ...] = tuple(_struct(shape, dtype) for shape in names)
    if inner:
        places = (0, 2)[: 1 + (task != "forward")]
        function = _of_products(function, places)
        operands = (tuple(operands[i] for i in places), *operands)
    both, size = task == "gradients", jnp.dtype(dtype).itemsize
    moved = layer.elements * 2 - math.prod(shapes[layer.result]) if both else layer.elements
    return Program(layer.name, task, contender, function, operands, layer.multiply_adds * (1 + both), moved * size)


def _of_products(function: Callable, places: Sequence[int]) -> Callable:
    def inner(factors: tuple[Array, ...], *operands: Array) -> Any:
        held = list(operands)
        for place, factor in zip(places, factors, strict=True):
            held[place] = held[place] * factor
        return function(*held)

    return inner


def of_network(net: networks.Network, task: str, contender: str, dtype: str) -> Program:
    """A training step or an inference."""
    function = backends.function(net, contender, task, dtype)
    return Program(net.name, task, contender, function, backends.operands(net, task, dtype))


# --------------------------------------------------------------------------------------------------------- neighbours
@dataclasses.dataclass(frozen=True)
class Neighbour:
    """An operation beside the convolutions, and what jax users would write instead.

    Attributes:
        name: what it is.
        ours: of the operands.
        peer: the same in jax's own functions, or None where jax has none.
        shapes: of the operands; a second operand holds positions of a 2-fold max pooling.
        linear: whether its gradient needs no image.
    """

    name: str
    ours: Callable[..., Any]
    peer: Callable[..., Any] | None
    shapes: tuple[tuple[int, ...], ...]
    linear: bool = True


def _reduced(kind: Callable, start: float, k: int, s: int, pad: int) -> Callable[[Array], Array]:
    pads = [(0, 0), (pad, pad), (pad, pad), (0, 0)]
    return lambda x: lax.reduce_window(x, x.dtype.type(start), kind, (1, k, k, 1), (1, s, s, 1), pads)


def _unpooled(y: Array, at: Array) -> Array:
    """Values back to the positions of the maxima, as a scatter over the flat image."""
    n, h, w, c = y.shape
    flat = jnp.zeros((n, 4 * h * w, c), y.dtype)
    batch, channel = jnp.arange(n)[:, None, None], jnp.arange(c)[None, None, :]
    return flat.at[batch, at.reshape(n, -1, c), channel].set(y.reshape(n, -1, c)).reshape(n, 2 * h, 2 * w, c)


def _shuffled(x: Array) -> Array:
    n, h, w, c = x.shape
    return x.reshape(n, h, w, c // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(n, 2 * h, 2 * w, c // 4)


def _patches(k: int, s: int, padding: Any) -> Callable[[Array], Array]:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lambda x: lax.conv_general_dilated_patches(x, (k, k), (s, s), padding, dimension_numbers=numbers)


def neighbours(batch: int = 16, size: int = 128, channels: int = 64) -> tuple[Neighbour, ...]:
    """The operations on images (batch, size, size, channels), or from half that size up to it."""
    half = size // 2
    full, low = (batch, size, size, channels), (batch, half, half, channels)
    side = max(size * 7 // 4 // 16 * 16, 16)
    photo = (max(batch // 2, 1), side, side, 3)

    def resized(method: str, shape: tuple[int, ...], image: tuple[int, ...], antialias: bool = False) -> Neighbour:
        n, name = shape[1], f"resize {method}, x{shape[1] / image[1]:g}{', antialias' * antialias}"
        peer = functools.partial(jax.image.resize, shape=shape, method=method, antialias=antialias)
        ours = functools.partial(resize, size=(n, n), method=method, antialias=antialias)
        return Neighbour(name, ours, peer, (image,))

    max_3 = functools.partial(max_pool, window=3, stride=2, padding=1)
    mean = _reduced(lax.add, 0.0, 2, 2, 0)
    return (
        Neighbour("max_pool 2", lambda x: max_pool(x, 2), _reduced(lax.max, -np.inf, 2, 2, 0), (full,), False),
        Neighbour("max_pool 3 s2", max_3, _reduced(lax.max, -np.inf, 3, 2, 1), (full,), False),
        Neighbour("max_pool 2, indices", lambda x: max_pool(x, 2, return_indices=True), None, (full,), False),
        Neighbour("max_pool 3 s2, indices", functools.partial(max_3, return_indices=True), None, (full,), False),
        Neighbour("max_unpool", lambda x, at: max_unpool(x, at, (size, size)), _unpooled, (low, low)),
        Neighbour("avg_pool 2", lambda x: avg_pool(x, 2), lambda x: mean(x) / jnp.asarray(4, x.dtype), (full,)),
        resized("nearest", full, low),
        resized("linear", full, low),
        resized("cubic", full, low),
        resized("linear", low, full, True),
        Neighbour("pixel_shuffle 2", lambda x: pixel_shuffle(x, 2), _shuffled, (low,)),
        Neighbour("unfold 3", lambda x: unfold(x, (3, 3), padding=1), _patches(3, 1, "SAME"), (low,)),
        Neighbour("unfold 16 s16", lambda x: unfold(x, (16, 16), stride=16), _patches(16, 16, "VALID"), (photo,)),
        Neighbour(
            "fold 3", lambda c: fold(c, (half, half), (3, 3), padding=1), _folded(low), ((*low[:-1], 9 * channels),)
        ),
    )


def _folded(image: tuple[int, ...]) -> Callable[[Array], Array]:
    """The transpose of lax's patches, whose columns have the channel first."""
    take = _patches(3, 1, "SAME")
    return lambda columns: jax.linear_transpose(take, jax.ShapeDtypeStruct(image, columns.dtype))(columns)[0]


def of_neighbour(operation: Neighbour, task: str, contender: str, dtype: str) -> Program | None:
    """The operation ("forward") or the pull of its first operand ("gradient"); None where the contender has none."""
    f = operation.ours if contender == "jaxconv" else operation.peer
    if f is None or contender == "accelerate":
        return None
    image, *rest = operation.shapes
    operands = [_struct(image, dtype), *(_struct(shape, jnp.int32) for shape in rest)]
    out = jax.eval_shape(f, *operands)
    held = [*operands, *jax.tree.leaves(out)]
    if task == "gradient":
        value = out[0] if isinstance(out, tuple) else out
        # The cotangent in, the gradient out; the image too where the operation chooses by its values.
        held = [value, *operands, *([] if operation.linear else operands[:1])]
        operands.append(_struct(value.shape, dtype))
    moved = sum(a.size * a.dtype.itemsize for a in held)
    return Program(operation.name, task, contender, f if task == "forward" else _pull(f), tuple(operands), bytes=moved)


def _pull(f: Callable) -> Callable:
    def value(x, rest):
        out = f(x, *rest)
        return out[0] if isinstance(out, tuple) else out

    return lambda x, *rest: jax.vjp(lambda v: value(v, rest[:-1]), x)[1](rest[-1])[0]


def _kept(made: Iterator[Program | None]) -> list[Program]:
    return [program for program in made if program is not None]


def layer_programs(
    layers: Sequence[Layer], dtype: str, tasks: Sequence[str] = FACES, contenders: Sequence[str] = CONTENDERS
) -> list[Program]:
    """All tasks of layers for all contenders, layer by layer."""
    return [of_layer(layer, task, who, dtype) for layer in layers for task in tasks for who in contenders]


def network_programs(
    nets: Sequence[networks.Network], dtype: str, contenders: Sequence[str] = CONTENDERS
) -> list[Program]:
    """Both steps of networks for all contenders, network by network."""
    return [of_network(net, task, who, dtype) for net in nets for task in backends.TASKS for who in contenders]


def neighbour_programs(operations: Sequence[Neighbour], dtype: str) -> list[Program]:
    """The neighbours and their gradients, ours and jax's own."""
    return _kept(
        of_neighbour(operation, task, who, dtype)
        for operation in operations
        for task in ("forward", "gradient")
        for who in ("jaxconv", "lax")
    )
