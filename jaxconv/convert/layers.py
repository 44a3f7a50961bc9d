"""What each layer of a model needs from a checkpoint: the rules of layout, one per kind of layer.

A layer's needs are written in the source's terms - the names, shapes and orders of axes that PyTorch or Keras would
store - so that matching is comparing names and shapes, and nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from flax import linen, nnx

from jaxconv.nn import Conv, ConvTranspose, PReLU, linen as linen_layers

CONVENTIONS = ("torch", "keras")
_CONTAINERS = (nnx.Module, list, tuple, dict)


@dataclasses.dataclass(frozen=True)
class Need:
    """One variable of the model, as the source stores it.

    Attributes:
        variable: path of the variable in the model, dotted.
        name: name of the tensor within its layer in the source ("weight", "running_mean", "gamma", ...).
        shape: shape of the tensor in the source.
        target_shape: shape of the variable.
        to_model: from the source's array to the variable's.
        slot: the variable itself, or for linen what stands for it: anything with ``get_value`` and ``set_value``.
    """

    variable: str
    name: str
    shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    to_model: Callable[[np.ndarray], np.ndarray]
    slot: Any


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of the model with parameters: its dotted path, what kind it is, and what it needs."""

    path: str
    kind: str
    needs: tuple[Need, ...]

    @property
    def signature(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Names and shapes in the source: what layers are told apart by where their names say nothing."""
        return tuple(sorted((need.name, need.shape) for need in self.needs))


def walk(model: nnx.Module, convention: str = "torch") -> list[Layer]:
    """The layers of an NNX module that hold variables, in the order in which they were defined.

    Args:
        model: a module; its variables may be abstract (from ``nnx.eval_shape``).
        convention: "torch" or "keras", how the source names and lays out its tensors.

    Returns:
        One `Layer` for each innermost module with variables, and one for each module that holds variables of its own.

    Raises:
        ValueError: an unknown convention.

    Example:
        >>> from flax import nnx
        >>> from jaxconv.nn import Conv
        >>> model = nnx.eval_shape(lambda: Conv(3, 8, (5, 5), rngs=nnx.Rngs(0)))
        >>> [layer.signature for layer in walk(model)]
        [(('bias', (8,)), ('weight', (8, 3, 5, 5)))]
    """
    check_convention(convention)
    return list(_walk(model, (), convention))


def check_convention(convention: str) -> None:
    """Refuse a convention that is not known here."""
    if convention not in CONVENTIONS:
        raise ValueError(f"convention={convention!r} is not one of {', '.join(map(repr, CONVENTIONS))}")


def _walk(node: Any, path: tuple[str, ...], convention: str) -> Iterator[Layer]:
    own = {name: v for name, v in _children(node) if isinstance(v, nnx.Variable) and not isinstance(v, nnx.RngState)}
    if own:
        yield layer_of(node, path, own, convention)
    for name, child in _children(node):
        if isinstance(child, _CONTAINERS):
            yield from _walk(child, (*path, name), convention)


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, (nnx.List, list, tuple)):
        yield from ((str(i), child) for i, child in enumerate(node))
    elif isinstance(node, dict):
        yield from ((str(name), child) for name, child in node.items())
    else:
        # nnx.state sorts by name, and so does nnx.eval_shape with a module's `vars`; flax's own list of the attributes
        # keeps the order of definition.
        order = {name: place for place, name in enumerate(vars(node).get("_pytree__nodes", ()))}
        named = [(name, child) for name, child in vars(node).items() if not name.startswith("_pytree__")]
        yield from sorted(named, key=lambda item: order.get(item[0], len(order)))


def layer_of(node: Any, path: tuple[str, ...], variables: dict[str, Any], convention: str) -> Layer:
    """The layer of one module, NNX or linen, with its own variables by name."""
    rule_of = next((rule for kind, rule in _RULES if isinstance(node, kind)), _plain)
    needs = []
    for name, variable in variables.items():
        shape = tuple(variable.get_value().shape)
        rule = rule_of(node, name, shape, convention)
        needs.append(Need(".".join((*path, name)), rule.name, rule.shape, shape, rule.to_model, variable))
    return Layer(".".join(path), type(node).__name__, tuple(needs))


# ---------------------------------------------------------------------- rules: how a variable lies in the source


@dataclasses.dataclass(frozen=True)
class _Rule:
    name: str
    shape: tuple[int, ...]
    to_model: Callable[[np.ndarray], np.ndarray]


def _same(name: str, shape: tuple[int, ...]) -> _Rule:
    return _Rule(name, shape, lambda a: a.reshape(shape))


def _plain(node: Any, name: str, shape: tuple[int, ...], convention: str) -> _Rule:
    """A variable of a module that is not known here: same name, same shape."""
    return _same(name, shape)


def _bias_or(kernel: Callable[[Any, tuple[int, ...]], _Rule]) -> Callable[..., _Rule]:
    def rule(node: Any, name: str, shape: tuple[int, ...], convention: str) -> _Rule:
        if name == "kernel":
            return _same("kernel", shape) if convention == "keras" else kernel(node, shape)
        return _same(name, shape)

    return rule


def _reversed_axes(node: Any, shape: tuple[int, ...]) -> _Rule:
    """PyTorch's (last, first, *spatial) of ours (*spatial, first, last): Conv, and ConvTranspose without a flip."""
    rank = len(shape) - 2
    to_model = lambda a: a.transpose(*range(2, rank + 2), 1, 0)  # noqa: E731
    return _Rule("weight", (shape[-1], shape[-2], *shape[:rank]), to_model)


def _flax_transposed(node: nnx.ConvTranspose, shape: tuple[int, ...]) -> _Rule:
    """flax's transposed convolution is a convolution of the dilated input: flipped, in before out, unless it transposes
    itself."""
    if node.transpose_kernel:
        return _reversed_axes(node, shape)
    rank = len(shape) - 2
    to_model = lambda a: np.flip(a, tuple(range(2, rank + 2))).transpose(*range(2, rank + 2), 0, 1)  # noqa: E731
    return _Rule("weight", (shape[-2], shape[-1], *shape[:rank]), to_model)


def _linear(node: nnx.Linear, shape: tuple[int, ...]) -> _Rule:
    return _Rule("weight", shape[::-1], lambda a: a.T)


_NORM = {
    "torch": {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"},
    "keras": {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"},
}


def _norm(node: Any, name: str, shape: tuple[int, ...], convention: str) -> _Rule:
    return _same(_NORM[convention].get(name, name), shape)


def _slope(node: Any, name: str, shape: tuple[int, ...], convention: str) -> _Rule:
    # flax's own PReLU has a scalar where PyTorch stores one element.
    return _Rule("alpha" if convention == "keras" else "weight", shape or (1,), lambda a: a.reshape(shape))


def _embedding(node: Any, name: str, shape: tuple[int, ...], convention: str) -> _Rule:
    return _same("embeddings" if convention == "keras" else "weight", shape)


_NORMS = ("BatchNorm", "LayerNorm", "GroupNorm", "InstanceNorm", "RMSNorm")
_RULES: tuple[tuple[Any, Callable[..., _Rule]], ...] = (
    ((Conv, ConvTranspose, linen_layers.Conv, linen_layers.ConvTranspose), _bias_or(_reversed_axes)),
    ((nnx.Conv, linen.Conv), _bias_or(_reversed_axes)),
    ((nnx.ConvTranspose, linen.ConvTranspose), _bias_or(_flax_transposed)),
    ((nnx.Linear, linen.Dense), _bias_or(_linear)),
    (tuple(getattr(flax, name) for flax in (nnx, linen) for name in _NORMS), _norm),
    ((PReLU, nnx.PReLU, linen.PReLU), _slope),
    ((nnx.Embed, linen.Embed), _embedding),
)
