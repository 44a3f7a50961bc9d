"""ONNX operators as functions of NumPy arrays, which are known while tracing, and of JAX arrays, which need not be."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.dialects import onnx as dialect
from jaxconv.dialects._common import standardised, static

# Inputs that decide a shape or a rule, by place.
_STATIC = {
    "Clip": (1, 2), "ConstantOfShape": (0,), "Expand": (1,), "OneHot": (1,), "Pad": (1, 2, 3), "Range": (0, 1, 2),
    "ReduceMean": (1,), "ReduceSum": (1,), "Reshape": (1,), "Resize": (1, 2, 3), "Slice": (1, 2, 3, 4),
    "Split": (1,), "Squeeze": (1,), "Tile": (1,), "Unsqueeze": (1,), "Upsample": (1,),
}  # fmt: skip


@dataclasses.dataclass
class Node:
    """An operator of a graph: its kind, the names of what goes in and out, its attributes."""

    kind: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    opset: int

    def constant(self) -> np.ndarray:
        """The value of a Constant node."""
        ((name, value),) = self.attributes.items()
        kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
        return np.asarray(value, kinds.get(name))

    def static_inputs(self) -> list[str]:
        """Names of the inputs that have to be known while tracing."""
        places = _STATIC.get(self.kind, ())
        return [name for i, name in enumerate(self.inputs) if i in places and name]


Operator = Callable[[Node, dict[str, Any]], Any]
OPERATORS: dict[str, Operator] = {}


def _operator(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function of (xp, *inputs) and of attributes by name; xp is numpy where every input is known, else
    jax.numpy, and `node` the operator itself. What newer operator sets have made an input comes under the same name."""

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        names_of = list(inspect.signature(fn).parameters.values())[1:]
        places = [p.name for p in names_of if p.kind is p.POSITIONAL_OR_KEYWORD]

        def call(node: Node, values: dict[str, Any]) -> Any:
            inputs = [values[name] for name in node.inputs]
            known = all(x is None or isinstance(x, (np.ndarray, np.generic)) for x in inputs)
            wanted = {p.name for p in names_of}.difference(places[: len(inputs)])
            given = {name: v for name, v in {**node.attributes, "node": node}.items() if name in wanted}
            return fn(np if known else jnp, *inputs, **given)

        OPERATORS.update(dict.fromkeys(names, call))
        return fn

    return register


# ------------------------------------------------------------------------------------------- those of the dialect
def _dialect(name: str) -> None:
    fn = getattr(dialect, name)

    @_operator(name)
    def call(xp, *inputs, node):
        attributes = {k: v for k, v in node.attributes.items() if k != "storage_order"}
        if name in ("Resize", "Upsample", "AveragePool"):
            attributes["opset"] = node.opset
        if name == "MaxPool":
            attributes["return_indices"] = len(node.outputs) > 1
        read = [np.asarray if i in _STATIC.get(name, ()) else jnp.asarray for i in range(len(inputs))]
        return fn(*(x if x is None else as_(x) for as_, x in zip(read, inputs)), **attributes)


for _name in dialect.__all__:
    _dialect(_name)


# ------------------------------------------------------------------------------------------- one expression each
def _space(x: Any) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def _per_channel(v: Any, x: Any) -> Any:
    return v.reshape(-1, *(1,) * (x.ndim - 2))


def _from_start(xp: Any, i: Any, n: int) -> Any:
    return xp.where(i < 0, i + n, i)


def _numbers(value: Any, name: str) -> list[int]:
    return [int(v) for v in np.atleast_1d(static(value, name))]


# Those that NumPy and jax.numpy have: by which name.
for _name, _fn in {
    **{n: n.lower() for n in ("Abs", "Exp", "Log", "Sqrt", "Floor", "Ceil", "Sign", "Sin", "Cos", "Tan", "Tanh")},
    "Add": "add", "Sub": "subtract", "Mul": "multiply", "And": "logical_and", "Or": "logical_or", "Xor": "logical_xor",
    "Equal": "equal", "Greater": "greater", "GreaterOrEqual": "greater_equal", "Less": "less", "Not": "logical_not",
    "LessOrEqual": "less_equal", "Neg": "negative", "Where": "where", "Identity": "asarray", "Round": "round",
    "IsNaN": "isnan", "MatMul": "matmul",
}.items():  # fmt: skip
    _operator(_name)(lambda xp, *a, n=_fn: getattr(xp, n)(*a))
for _name, _fn in {"Max": "maximum", "Min": "minimum", "Sum": "add"}.items():
    _operator(_name)(lambda xp, *a, n=_fn: functools.reduce(getattr(xp, n), a))

_SHORT: dict[str, Callable[..., Any]] = {
    "ArgMax": lambda xp, x, axis=0, keepdims=1: xp.argmax(x, axis=axis, keepdims=bool(keepdims)),
    "ArgMin": lambda xp, x, axis=0, keepdims=1: xp.argmin(x, axis=axis, keepdims=bool(keepdims)),
    "Celu": lambda xp, x, alpha=1.0: jax.nn.celu(x, alpha),
    "Concat": lambda xp, *a, axis: xp.concatenate(a, axis=axis),
    "Dropout": lambda xp, x, *_: (x, xp.ones(x.shape, bool)),
    "Einsum": lambda xp, *a, equation: xp.einsum(equation, *a),
    "Elu": lambda xp, x, alpha=1.0: jax.nn.elu(x, alpha),
    "Erf": lambda xp, x: jax.scipy.special.erf(x),
    "Expand": lambda xp, x, n: xp.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(_numbers(n, "shape")))),
    "Flatten": lambda xp, x, axis=1: x.reshape(int(np.prod(x.shape[:axis])), -1),
    "Gather": lambda xp, x, i, axis=0: xp.take(x, _from_start(xp, i, x.shape[axis]), axis=axis),
    "GatherElements": lambda xp, x, i, axis=0: xp.take_along_axis(x, _from_start(xp, i, x.shape[axis]), axis=axis),
    "Gelu": lambda xp, x, approximate="none": jax.nn.gelu(x, approximate=approximate == "tanh"),
    "GlobalAveragePool": lambda xp, x: jnp.mean(x, _space(x), keepdims=True),
    "GlobalMaxPool": lambda xp, x: jnp.max(x, _space(x), keepdims=True),
    "HardSigmoid": lambda xp, x, alpha=0.2, beta=0.5: jnp.clip(x * alpha + beta, 0, 1),
    "HardSwish": lambda xp, x: x * jnp.clip(x / 6 + 0.5, 0, 1),
    "InstanceNormalization": lambda xp, x, scale, bias, epsilon=1e-5: (
        standardised(x, _space(x), epsilon) * _per_channel(scale, x) + _per_channel(bias, x)
    ),
    "LayerNormalization": lambda xp, x, scale, bias=0, axis=-1, epsilon=1e-5: (
        standardised(x, tuple(range(axis % x.ndim, x.ndim)), epsilon) * scale + bias
    ),
    "LeakyRelu": lambda xp, x, alpha=0.01: jnp.where(x >= 0, x, x * alpha),
    "Mean": lambda xp, *a: sum(a) / len(a),
    "Mish": lambda xp, x: jax.nn.mish(x),
    "Mod": lambda xp, x, y, fmod=0: xp.fmod(x, y) if fmod else xp.mod(x, y),
    "PRelu": lambda xp, x, slope: xp.where(x >= 0, x, x * slope),
    "Pow": lambda xp, x, y: xp.power(x, y).astype(x.dtype),
    "Range": lambda xp, *a: np.arange(*(static(v, "a number of Range").flat[0] for v in a)),
    "Reciprocal": lambda xp, x: 1 / x,
    "Relu": lambda xp, x: xp.maximum(x, np.zeros((), x.dtype)),
    "Selu": lambda xp, x: jax.nn.selu(x),
    "Shape": lambda xp, x: np.asarray(x.shape, np.int64),
    "Sigmoid": lambda xp, x: jax.nn.sigmoid(x),
    "Size": lambda xp, x: np.asarray(x.size, np.int64),
    "Softplus": lambda xp, x: jax.nn.softplus(x),
    "Softsign": lambda xp, x: jax.nn.soft_sign(x),
    "ThresholdedRelu": lambda xp, x, alpha=1.0: jnp.where(x > alpha, x, 0),
    "Squeeze": lambda xp, x, axes=None: xp.squeeze(x, None if axes is None else tuple(_numbers(axes, "axes"))),
    "Tile": lambda xp, x, n: xp.tile(x, _numbers(n, "repeats")),
    "Transpose": lambda xp, x, perm=None: xp.transpose(x, perm),
    "Unsqueeze": lambda xp, x, axes: xp.expand_dims(x, tuple(_numbers(axes, "axes"))),
}
for _name, _short in _SHORT.items():
    _operator(_name)(_short)


# ------------------------------------------------------------------------------------------- values and places
@_operator("Div")
def _div(xp, x, y):
    if not jnp.issubdtype(x.dtype, jnp.integer):
        return x / y
    return xp.sign(x) * xp.sign(y) * (abs(x) // abs(y))  # towards zero


@_operator("Clip")
def _clip(xp, x, min=None, max=None):
    x = x if min is None else xp.maximum(x, np.asarray(min, x.dtype))
    return x if max is None else xp.minimum(x, np.asarray(max, x.dtype))


@_operator("Cast", "CastLike")
def _cast(xp, x, like=None, to=None):
    from onnx import helper

    dtype = like.dtype if like is not None else helper.tensor_dtype_to_np_dtype(to)
    # Whole numbers of a traced array stay as wide as JAX has them.
    return x.astype(dtype if xp is np else jax.dtypes.canonicalize_dtype(dtype))


@_operator("ConstantOfShape")
def _filled(xp, shape, value=None):
    fill = np.float32(0) if value is None else np.ravel(value)[0]
    return np.full(_numbers(shape, "shape"), fill, fill.dtype)


# ------------------------------------------------------------------------------------------- products and norms
@_operator("Gemm")
def _gemm(xp, a, b, c=None, *, transA=0, transB=0, alpha=1.0, beta=1.0):
    y = xp.matmul(a.T if transA else a, b.T if transB else b)
    y = y if alpha == 1 else y * alpha
    return y if c is None else y + (c if beta == 1 else c * beta)


@_operator("BatchNormalization")
def _batch_normalization(xp, x, scale, bias, mean, var, epsilon=1e-5):
    factor = scale * lax.rsqrt(jnp.asarray(var) + epsilon)
    return x * _per_channel(factor, x) + _per_channel(bias - mean * factor, x)


@_operator("GroupNormalization")
def _group_normalization(xp, x, scale, bias, num_groups, epsilon=1e-5):
    y = standardised(x.reshape(x.shape[0], num_groups, -1), (2,), epsilon).reshape(x.shape)
    if scale.size == num_groups:  # before operator set 21: one a group
        scale, bias = (jnp.repeat(v, x.shape[1] // num_groups) for v in (scale, bias))
    return y * _per_channel(scale, x) + _per_channel(bias, x)


@_operator("Softmax", "LogSoftmax")
def _softmax(xp, x, axis=None, *, node):
    fn = jax.nn.softmax if node.kind == "Softmax" else jax.nn.log_softmax
    if node.opset >= 13:
        return fn(x, axis=-1 if axis is None else axis)
    axis = (1 if axis is None else axis) % x.ndim  # over all axes from this one on
    return fn(x.reshape(*x.shape[:axis], -1), axis=-1).reshape(x.shape)


# ------------------------------------------------------------------------------------------- reductions
_REDUCE: dict[str, Callable[..., Any]] = {
    "ReduceMean": lambda xp, x, **k: xp.mean(x, **k), "ReduceSum": lambda xp, x, **k: xp.sum(x, **k),
    "ReduceMax": lambda xp, x, **k: xp.max(x, **k), "ReduceMin": lambda xp, x, **k: xp.min(x, **k),
    "ReduceProd": lambda xp, x, **k: xp.prod(x, **k), "ReduceL1": lambda xp, x, **k: xp.sum(abs(x), **k),
    "ReduceL2": lambda xp, x, **k: xp.sqrt(xp.sum(x * x, **k)),
    "ReduceSumSquare": lambda xp, x, **k: xp.sum(x * x, **k),
    "ReduceLogSumExp": lambda xp, x, **k: jax.scipy.special.logsumexp(x, **k),
}  # fmt: skip


@_operator(*_REDUCE)
def _reduce(xp, x, axes=None, *, keepdims=1, noop_with_empty_axes=0, node):
    axes = () if axes is None else tuple(_numbers(axes, "axes"))
    if not axes and noop_with_empty_axes:
        return x
    return _REDUCE[node.kind](xp, x, axis=axes or None, keepdims=bool(keepdims))


# ------------------------------------------------------------------------------------------- shapes
@_operator("Reshape")
def _reshape(xp, x, shape, *, allowzero=0):
    sizes = _numbers(shape, "shape")
    return x.reshape(sizes if allowzero else [x.shape[i] if n == 0 else n for i, n in enumerate(sizes)])


@_operator("Split")
def _split(xp, x, split=None, *, axis=0, node):
    count = len(node.outputs)
    sizes = [-(-x.shape[axis] // count)] * count if split is None else _numbers(split, "split")
    return xp.split(x, np.cumsum(sizes[:-1]).tolist(), axis=axis)


@_operator("Slice")
def _slice(xp, x, starts, ends, axes=None, steps=None):
    starts, ends = _numbers(starts, "starts"), _numbers(ends, "ends")
    axes = range(x.ndim) if axes is None else _numbers(axes, "axes")
    steps = [1] * len(starts) if steps is None else _numbers(steps, "steps")
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=False):
        # Backwards, an end before the first element means up to it.
        index[axis] = slice(start, None if step < 0 and end < -x.shape[axis] else end, step)
    return x[tuple(index)]


@_operator("Pad")
def _pad(xp, x, pads, value=None, axes=None, *, mode="constant"):
    numbers = _numbers(pads, "pads")
    axes = range(x.ndim) if axes is None else [a % x.ndim for a in _numbers(axes, "axes")]
    pairs = [(0, 0)] * x.ndim
    for axis, low, high in zip(axes, numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :], strict=True):
        pairs[axis] = (low, high)
    x = x[tuple(slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(x.shape, pairs, strict=True))]
    pairs = [(max(lo, 0), max(hi, 0)) for lo, hi in pairs]
    more = {"constant_values": np.asarray(0.0 if value is None else value, x.dtype)} if mode == "constant" else {}
    return xp.pad(x, pairs, mode, **more)


@_operator("CumSum")
def _cumsum(xp, x, axis, *, reverse=0, exclusive=0):
    axis = int(static(axis, "axis"))
    y = xp.flip(x, axis) if reverse else x
    y = xp.cumsum(y, axis) - (y if exclusive else 0)
    return xp.flip(y, axis) if reverse else y


# ------------------------------------------------------------------------------------------- subgraphs, recurrences
def _if(node: Node, values: dict[str, Any]) -> Any:
    condition = bool(static(values[node.inputs[0]], "the condition of If").reshape(()))
    return node.attributes["then_branch" if condition else "else_branch"].run(values)


OPERATORS["If"] = _if


@_operator("GRU", "LSTM")
def _recurrent(
    xp, x, w, r, b=None, lengths=None, h=None, c=None, peephole=None, *,
    activations=None, layout=0, direction="forward", linear_before_reset=0, node,
):  # fmt: skip
    if lengths is not None or peephole is not None or activations is not None or layout:
        raise ValueError("sequence lengths, peepholes, other activations and layout 1 are not read here")
    gates, hidden = (3 if node.kind == "GRU" else 4), r.shape[-1]
    runs = []
    for d in range(w.shape[0]):
        bias = jnp.zeros((2, gates * hidden), x.dtype) if b is None else b[d].reshape(2, -1)
        first = [jnp.zeros((x.shape[1], hidden), x.dtype) if s is None else jnp.asarray(s[d]) for s in (h, c)]
        step = functools.partial(_gru if gates == 3 else _lstm, r[d].T, bias[1], linear_before_reset)
        inputs = jnp.matmul(x, w[d].T) + bias[0]
        runs.append(lax.scan(step, tuple(first), inputs, reverse=d == 1 or direction == "reverse"))
    y = jnp.stack([ys for _, ys in runs], 1)  # (time, directions, batch, hidden)
    return y, *(jnp.stack([last[i] for last, _ in runs]) for i in range(2))


def _gru(r, bias, linear, state, x):
    h = state[0]
    xz, xr, xh = jnp.split(x, 3, -1)
    rz, rr, rh = jnp.split(r, 3, -1)
    bz, br, bh = jnp.split(bias, 3)
    z, reset = jax.nn.sigmoid(xz + h @ rz + bz), jax.nn.sigmoid(xr + h @ rr + br)
    new = jnp.tanh(xh + (reset * (h @ rh + bh) if linear else (reset * h) @ rh + bh))
    h = (1 - z) * new + z * h
    return (h, state[1]), h


def _lstm(r, bias, _, state, x):
    h, c = state
    i, o, f, g = jnp.split(x + h @ r + bias, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h
