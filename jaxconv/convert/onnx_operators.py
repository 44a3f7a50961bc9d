"""ONNX operators as functions of NumPy arrays, which are known while tracing, and of JAX arrays, which need not be."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.dialects import onnx as dialect
from jaxconv.dialects._common import static

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

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or `default`."""
        return self.attributes.get(name, default)

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
    """Register a function of (node, xp, *inputs); xp is numpy where every input is known, else jax.numpy."""

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        def call(node: Node, values: dict[str, Any]) -> Any:
            inputs = [values[name] for name in node.inputs]
            known = all(x is None or isinstance(x, (np.ndarray, np.generic)) for x in inputs)
            return fn(node, np if known else jnp, *inputs)

        OPERATORS.update(dict.fromkeys(names, call))
        return fn

    return register


def _simple(name: str, fn: Callable[..., Any]) -> None:
    _operator(name)(lambda node, xp, *inputs: fn(xp, *inputs))


# ------------------------------------------------------------------------------------------- those of the dialect
def _dialect(name: str) -> None:
    fn = getattr(dialect, name)

    @_operator(name)
    def call(node: Node, xp: Any, *inputs: Any) -> Any:
        attributes = {k: v for k, v in node.attributes.items() if k not in ("storage_order",)}
        opset = node.opset if name in ("Resize", "Upsample", "AveragePool") else None
        found = [
            np.asarray(x) if i in _STATIC.get(name, ()) and x is not None else _jax(x) for i, x in enumerate(inputs)
        ]
        if name == "MaxPool":
            attributes["return_indices"] = len(node.outputs) > 1
        return fn(*found, **attributes, **({} if opset is None else {"opset": opset}))


def _jax(x: Any) -> Any:
    return x if x is None else jnp.asarray(x)


# ------------------------------------------------------------------------------------------- element by element
for _name in ("Abs", "Exp", "Log", "Sqrt", "Floor", "Ceil", "Sign", "Sin", "Cos", "Tan", "Tanh"):
    _simple(_name, lambda xp, x, n=_name: getattr(xp, n.lower())(x))
for _name, _fn in {
    "Add": "add", "Sub": "subtract", "Mul": "multiply", "And": "logical_and", "Or": "logical_or", "Xor": "logical_xor",
    "Equal": "equal", "Greater": "greater", "GreaterOrEqual": "greater_equal", "Less": "less", "Not": "logical_not",
    "LessOrEqual": "less_equal", "Neg": "negative", "Where": "where", "Identity": "asarray", "Round": "round",
    "IsNaN": "isnan", "MatMul": "matmul",
}.items():  # fmt: skip
    _simple(_name, lambda xp, *a, n=_fn: getattr(xp, n)(*a))
for _name, _fn in {"Max": "maximum", "Min": "minimum", "Sum": "add"}.items():
    _simple(_name, lambda xp, *a, n=_fn: functools.reduce(getattr(xp, n), a))
_simple("Mean", lambda xp, *a: sum(a) / len(a))
_simple("Reciprocal", lambda xp, x: 1 / x)
_simple("Pow", lambda xp, x, y: xp.power(x, y).astype(x.dtype))
_simple("Erf", lambda xp, x: jax.scipy.special.erf(x))
_simple("Relu", lambda xp, x: xp.maximum(x, np.zeros((), x.dtype)))
_simple("PRelu", lambda xp, x, slope: xp.where(x >= 0, x, x * slope))
_simple("Sigmoid", lambda xp, x: jax.nn.sigmoid(x))
_simple("Softplus", lambda xp, x: jax.nn.softplus(x))
_simple("Softsign", lambda xp, x: jax.nn.soft_sign(x))
_simple("Mish", lambda xp, x: x * jnp.tanh(jax.nn.softplus(x)))
_simple("HardSwish", lambda xp, x: x * jnp.clip(x / 6 + 0.5, 0, 1))
_simple("Shape", lambda xp, x: np.asarray(x.shape, np.int64))
_simple("Size", lambda xp, x: np.asarray(x.size, np.int64))


# ------------------------------------------------------------------------------------------- short ones
def _space(x: Any) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def _per_channel(v: Any, x: Any) -> Any:
    return v.reshape(-1, *(1,) * (x.ndim - 2))


def _normalised(x: Any, axes: Any, node: Node) -> Any:
    centred = x - jnp.mean(x, axes, keepdims=True)
    return centred * lax.rsqrt(jnp.mean(centred * centred, axes, keepdims=True) + node.get("epsilon", 1e-5))


def _gathered(take: str) -> Callable[..., Any]:
    def gather(node: Node, xp: Any, x: Any, i: Any) -> Any:
        axis = node.get("axis", 0)
        return getattr(xp, take)(x, xp.where(i < 0, i + x.shape[axis], i), axis=axis)

    return gather


def _arg(node: Node, xp: Any, x: Any) -> Any:
    axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
    return getattr(xp, node.kind.lower())(x, axis=axis, keepdims=keep)


def _filled(node: Node, xp: Any, shape: Any) -> Any:
    value = np.asarray(node.get("value", np.zeros(1, np.float32)))
    return np.full(_numbers(shape, "shape"), value.reshape(-1)[0], value.dtype)


_SHORT: dict[str, Callable[..., Any]] = {
    "ArgMax": _arg, "ArgMin": _arg, "ConstantOfShape": _filled,
    "Concat": lambda node, xp, *a: xp.concatenate(a, axis=node.attributes["axis"]),
    "Dropout": lambda node, xp, x, *_: (x, xp.ones(x.shape, bool)),
    "Einsum": lambda node, xp, *a: xp.einsum(node.attributes["equation"], *a),
    "Elu": lambda node, xp, x: jax.nn.elu(x, node.get("alpha", 1.0)),
    "Celu": lambda node, xp, x: jax.nn.celu(x, node.get("alpha", 1.0)),
    "Selu": lambda node, xp, x: jax.nn.selu(x),
    "Expand": lambda node, xp, x, n: xp.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(_numbers(n, "shape")))),
    "Flatten": lambda node, xp, x: x.reshape(int(np.prod(x.shape[: node.get("axis", 1)])), -1),
    "Gather": _gathered("take"), "GatherElements": _gathered("take_along_axis"),
    "Gelu": lambda node, xp, x: jax.nn.gelu(x, approximate=node.get("approximate", "none") == "tanh"),
    "GlobalAveragePool": lambda node, xp, x: jnp.mean(x, _space(x), keepdims=True),
    "GlobalMaxPool": lambda node, xp, x: jnp.max(x, _space(x), keepdims=True),
    "HardSigmoid": lambda node, xp, x: jnp.clip(x * node.get("alpha", 0.2) + node.get("beta", 0.5), 0, 1),
    "InstanceNormalization": lambda node, xp, x, scale, bias: (
        _normalised(x, _space(x), node) * _per_channel(scale, x) + _per_channel(bias, x)
    ),
    "LayerNormalization": lambda node, xp, x, scale, bias=0: (
        _normalised(x, tuple(range(node.get("axis", -1) % x.ndim, x.ndim)), node) * scale + bias
    ),
    "LeakyRelu": lambda node, xp, x: jnp.where(x >= 0, x, x * node.get("alpha", 0.01)),
    "Mod": lambda node, xp, x, y: xp.fmod(x, y) if node.get("fmod", 0) else xp.mod(x, y),
    "Range": lambda node, xp, *a: np.arange(*(static(v, "a number of Range").flat[0] for v in a)),
    "ThresholdedRelu": lambda node, xp, x: jnp.where(x > node.get("alpha", 1.0), x, 0),
    "Tile": lambda node, xp, x, n: xp.tile(x, _numbers(n, "repeats")),
    "Transpose": lambda node, xp, x: xp.transpose(x, node.get("perm")),
}  # fmt: skip
for _name, _short in _SHORT.items():
    _operator(_name)(_short)


@_operator("Div")
def _div(node, xp, x, y):
    if not jnp.issubdtype(x.dtype, jnp.integer):
        return x / y
    return xp.sign(x) * xp.sign(y) * (abs(x) // abs(y))  # towards zero


@_operator("Clip")
def _clip(node, xp, x, low=None, high=None):
    low, high = node.get("min", low), node.get("max", high)
    x = x if low is None else xp.maximum(x, np.asarray(low, x.dtype))
    return x if high is None else xp.minimum(x, np.asarray(high, x.dtype))


@_operator("Cast", "CastLike")
def _cast(node, xp, x, like=None):
    from onnx import helper

    dtype = like.dtype if like is not None else helper.tensor_dtype_to_np_dtype(node.attributes["to"])
    # Whole numbers of a traced array stay as wide as JAX has them.
    return x.astype(dtype if xp is np else jax.dtypes.canonicalize_dtype(dtype))


# ------------------------------------------------------------------------------------------- products and norms
@_operator("Gemm")
def _gemm(node, xp, a, b, c=None):
    a, b = (a.T if node.get("transA", 0) else a), (b.T if node.get("transB", 0) else b)
    y = xp.matmul(a, b)
    y = y if node.get("alpha", 1.0) == 1 else y * node.get("alpha")
    return y if c is None else y + (c if node.get("beta", 1.0) == 1 else c * node.get("beta"))


@_operator("BatchNormalization")
def _batch_normalization(node, xp, x, scale, bias, mean, var):
    factor = scale * lax.rsqrt(jnp.asarray(var) + node.get("epsilon", 1e-5))
    return x * _per_channel(factor, x) + _per_channel(bias - mean * factor, x)


@_operator("GroupNormalization")
def _group_normalization(node, xp, x, scale, bias):
    groups = node.attributes["num_groups"]
    split = x.reshape(x.shape[0], groups, -1)
    y = _normalised(split, (2,), node).reshape(x.shape)
    if scale.size == groups:  # before operator set 21: one a group
        scale, bias = (jnp.repeat(v, x.shape[1] // groups) for v in (scale, bias))
    return y * _per_channel(scale, x) + _per_channel(bias, x)


@_operator("Softmax", "LogSoftmax")
def _softmax(node, xp, x):
    fn = jax.nn.softmax if node.kind == "Softmax" else jax.nn.log_softmax
    if node.opset >= 13:
        return fn(x, axis=node.get("axis", -1))
    axis = node.get("axis", 1) % x.ndim  # over all axes from this one on
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
def _reduce(node, xp, x, axes=None):
    axes = node.get("axes") if axes is None else static(axes, "axes").tolist()
    if not axes and node.get("noop_with_empty_axes", 0):
        return x
    return _REDUCE[node.kind](xp, x, axis=tuple(axes) if axes else None, keepdims=bool(node.get("keepdims", 1)))


# ------------------------------------------------------------------------------------------- shapes
def _numbers(value: Any, name: str) -> list[int]:
    return [int(v) for v in np.atleast_1d(static(value, name))]


@_operator("Reshape")
def _reshape(node, xp, x, shape):
    sizes = _numbers(shape, "shape")
    if not node.get("allowzero", 0):
        sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(sizes)]
    return x.reshape(sizes)


@_operator("Squeeze", "Unsqueeze")
def _squeeze(node, xp, x, axes=None):
    axes = node.get("axes") if axes is None else _numbers(axes, "axes")
    if node.kind == "Unsqueeze":
        return xp.expand_dims(x, tuple(axes))
    return xp.squeeze(x, None if axes is None else tuple(axes))


@_operator("Split")
def _split(node, xp, x, sizes=None):
    axis, count = node.get("axis", 0), len(node.outputs)
    sizes = node.get("split") if sizes is None else _numbers(sizes, "split")
    if sizes is None:
        step = -(-x.shape[axis] // count)
        sizes = [step] * (count - 1)
    else:
        sizes = list(sizes)[:-1]
    return xp.split(x, np.cumsum(sizes).tolist(), axis=axis)


@_operator("Slice")
def _slice(node, xp, x, starts=None, ends=None, axes=None, steps=None):
    starts = node.get("starts") if starts is None else _numbers(starts, "starts")
    ends = node.get("ends") if ends is None else _numbers(ends, "ends")
    axes = node.get("axes") if axes is None else _numbers(axes, "axes")
    steps = [1] * len(starts) if steps is None else _numbers(steps, "steps")
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(range(x.ndim) if axes is None else axes, starts, ends, steps, strict=False):
        n = x.shape[axis]
        # Backwards, an end before the first element means up to it.
        index[axis] = slice(start, None if step < 0 and end < -n else end, step)
    return x[tuple(index)]


@_operator("Pad")
def _pad(node, xp, x, pads=None, value=None, axes=None):
    numbers = node.get("pads") if pads is None else _numbers(pads, "pads")
    value = node.get("value", 0.0) if value is None else value
    axes = range(x.ndim) if axes is None else [a % x.ndim for a in _numbers(axes, "axes")]
    pairs = [(0, 0)] * x.ndim
    for axis, low, high in zip(axes, numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :], strict=True):
        pairs[axis] = (low, high)
    mode = node.get("mode", "constant")
    x = x[tuple(slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(x.shape, pairs, strict=True))]
    pairs = [(max(lo, 0), max(hi, 0)) for lo, hi in pairs]
    more = {"constant_values": np.asarray(value, x.dtype)} if mode == "constant" else {}
    return xp.pad(x, pairs, mode, **more)


@_operator("CumSum")
def _cumsum(node, xp, x, axis):
    axis = int(static(axis, "axis"))
    y = xp.flip(x, axis) if node.get("reverse", 0) else x
    y = xp.cumsum(y, axis) - (y if node.get("exclusive", 0) else 0)
    return xp.flip(y, axis) if node.get("reverse", 0) else y


# ------------------------------------------------------------------------------------------- subgraphs, recurrences
def _if(node: Node, values: dict[str, Any]) -> Any:
    condition = bool(static(values[node.inputs[0]], "the condition of If").reshape(()))
    return node.attributes["then_branch" if condition else "else_branch"].run(values)


OPERATORS["If"] = _if


@_operator("GRU", "LSTM")
def _recurrent(node, xp, x, w, r, b=None, lengths=None, h=None, c=None, peephole=None):
    if lengths is not None or peephole is not None or "activations" in node.attributes or node.get("layout", 0):
        raise ValueError("sequence lengths, peepholes, other activations and layout 1 are not read here")
    gates, hidden, direction = (3 if node.kind == "GRU" else 4), r.shape[-1], node.get("direction", "forward")
    runs = []
    for d in range(w.shape[0]):
        bias = jnp.zeros((2, gates * hidden), x.dtype) if b is None else b[d].reshape(2, -1)
        first = [jnp.zeros((x.shape[1], hidden), x.dtype) if s is None else jnp.asarray(s[d]) for s in (h, c)]
        step = functools.partial(_gru if gates == 3 else _lstm, r[d].T, bias[1], node.get("linear_before_reset", 0))
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


for _name in dialect.__all__:
    _dialect(_name)
