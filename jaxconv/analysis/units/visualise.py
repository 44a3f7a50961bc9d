"""From a unit back to pixels: the exact adjoint, the deconvnet, and guided backpropagation, for any JAX function."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from jaxconv._text import brief
from jaxconv.jaxprs.modules import as_function, with_state

from .rectifiers import RULES, rewritten
from .relu_facts import Nonlinearities, Place


@dataclass(frozen=True)
class Visualisation:
    """What reaches the pixels from one unit; made by `visualise`.

    `image` has the shape of the input. `value` is what the unit gave (the sum over the units of a slice or channel),
    `unit` its index in the output (None for a cotangent of the user's). `relus`, `pools` and `kept` list the ReLUs
    that the method's rule was applied to, the max pools whose switches place the values, and the other
    nonlinearities, whose derivative is exact.
    """

    image: jax.Array
    input: jax.Array
    method: str
    value: float
    unit: Any
    relus: tuple[Place, ...]
    pools: tuple[Place, ...]
    kept: tuple[Place, ...]

    __repr__ = brief

    @property
    def times_input(self) -> jax.Array:
        """Elementwise product with the input (gradient x input, for the exact method)."""
        return self.image * self.input

    @property
    def why(self) -> str:
        """One sentence: which rule was applied to how many ReLUs and pools, and what was left exact."""
        count = sum(p.times for p in self.relus)
        if self.method == "exact":
            rule = f"Exact adjoint: the gradient, through {_many(count, 'ReLU')}"
        elif count:
            rule = f"{_TITLES[self.method]} at {_many(count, 'ReLU')}"
        else:
            rule = f"No ReLU found: {self.method!r} changes nothing, this is the exact adjoint"
        pools = f"{_many(sum(p.times for p in self.pools), 'max pool')} by their switches" if self.pools else "no pools"
        names = Counter[str]()
        for place in self.kept:
            names[place.name] += place.times
        kept = ", ".join(f"{name} ({n})" for name, n in sorted(names.items()))
        return f"{rule}; {pools}" + (f"; left exact: {kept}." if kept else ".")


_TITLES = {
    "deconvnet": "Deconvnet: backward signal rectified",
    "guided": "Guided: backward signal rectified, and the forward mask,",
}


def _many(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"


def _checked(rule: str, name: str) -> str:
    if rule not in RULES:
        raise ValueError(f"{name}={rule!r} must be one of {', '.join(map(repr, RULES))}")
    return rule


def with_relu_rule(fn: Callable[..., Any], rule: str = "guided") -> Callable[..., Any]:
    """The same function with another backward rule at its ReLUs: its values are unchanged, its `jax.vjp` is not.

    With R the signal that arrives from above at y = max(x, 0), what goes on to x is

        R * (x > 0)                "exact", the derivative
        max(R, 0)                  "deconvnet"
        max(R, 0) * (x > 0)        "guided"

    ReLUs are found in the jaxpr however they are written - `jax.nn.relu`, `relu6`, `maximum(x, 0)`, `clip`,
    `where(x > 0, x, 0)`, `x * (x > 0)` - inside jit, scan, cond, remat and flax modules. Everything else keeps its
    adjoint: a convolution its transpose, a max pool the way back through its switches; the upper bend of a clipped
    ReLU its derivative.

    Args:
        fn: a traceable function or a flax NNX module. ReLUs count that depend on its first argument.
        rule: "exact", "deconvnet" or "guided".

    Returns:
        A function with the signature of fn, for reverse mode: jit, vmap, `jax.vjp`, `jax.grad`.

    Raises:
        ValueError: for another rule.
        UserWarning: where no ReLU is found, so that the rule changes nothing.

    >>> import jax, jax.numpy as jnp
    >>> def net(x):
    ...     return -jax.nn.relu(x)
    >>> x = jnp.asarray([-1.0, 2.0])
    >>> [jax.grad(lambda x: with_relu_rule(net, rule)(x).sum())(x).tolist() for rule in ("exact", "deconvnet")]
    [[0.0, -1.0], [0.0, 0.0]]

    Source: Zeiler and Fergus, "Visualizing and understanding convolutional networks" (2014); Springenberg et al.,
    "Striving for simplicity: the all convolutional net" (2015), section 3.4.
    """
    _checked(rule, "rule")
    as_function(fn)

    def changed(*args: Any) -> Any:
        pure, args = with_state(fn, args)
        closed, tree, found = rewritten(pure, args, rule)
        _warn(found, rule)
        return jax.tree.unflatten(tree, jaxpr_as_fun(closed)(*jax.tree.leaves(args)))

    return changed


def visualise(
    fn: Callable[..., Any],
    *args: Any,
    unit: Any = None,
    channel: int | None = None,
    cotangent: Any = None,
    method: str = "guided",
    channel_axis: int = -1,
    output: int | None = None,
) -> Visualisation:
    """Project a unit of a network back to pixels.

    The adjoint of the network, applied to a cotangent that is one at the unit and zero elsewhere; `method` says what
    happens at the ReLUs (`with_relu_rule` has the three formulas). To look at a layer inside a network, give the
    function up to that layer.

    Args:
        fn: a traceable function or a flax NNX module of an image (its first argument).
        args: its arguments as arrays, the image first.
        unit: an index into the output, as NumPy takes it: `(0, 5, 7, 3)` is one unit, `(..., 3)` all of channel 3.
        channel: instead, the strongest unit of this channel in every image of the batch.
        cotangent: instead, any array of the output's shape.
        method: "exact" (the gradient, also called saliency), "deconvnet" or "guided".
        channel_axis: axis of the output that `channel` counts along; all other axes but the first are positions.
        output: which output is meant, where there are several.

    Returns:
        A `Visualisation`: `.image`, `.value`, `.why`, `.relus`, `.pools`, `.kept`.

    Raises:
        TypeError: where the image is no array of floating numbers.
        ValueError: for another method, or where not exactly one of unit, channel and cotangent is given, or it does
            not fit the output.
        UserWarning: where no ReLU is found and the method changes nothing.

    >>> import jax, jax.numpy as jnp, jaxconv as jc
    >>> w = jnp.asarray([1.0, -2.0, 1.0]).reshape(3, 1, 1)
    >>> def net(x):
    ...     return jc.max_pool(jax.nn.relu(jc.conv(x, w, padding=1)), 2)
    >>> x = jnp.asarray([0.0, 3.0, 1.0, 0.0, 4.0, 0.0]).reshape(1, 6, 1)
    >>> seen = visualise(net, x, unit=(0, 1, 0))
    >>> seen.image.ravel().tolist(), seen.value
    ([0.0, 0.0, 1.0, -2.0, 1.0, 0.0], 5.0)
    >>> seen.why
    'Guided: backward signal rectified, and the forward mask, at 1 ReLU; 1 max pool by their switches.'

    Source: Simonyan et al. 2014 (exact), Zeiler and Fergus 2014 (deconvnet), Springenberg et al. 2015 (guided).
    """
    _checked(method, "method")
    image = _image(args)
    pure, args = with_state(fn, args)
    closed, tree, found = rewritten(pure, args, method)
    avals = [v.aval for v in closed.jaxpr.outvars]
    which = _which(avals, output)
    seed = _seed(avals[which], unit, channel, cotangent, channel_axis)
    _warn(found, method)
    leaves = jax.tree.leaves(args)

    @jax.jit
    def run(x: jax.Array, rest: list[Any]) -> tuple[jax.Array, jax.Array, jax.Array]:
        y, pull = jax.vjp(lambda z: jaxpr_as_fun(closed)(z, *rest)[which], x)
        hot = seed(y)
        return pull(hot)[0], (hot * y).sum(), hot

    back, value, hot = run(image, leaves[1:])
    place = unit
    if channel is not None:
        place = tuple(map(tuple, np.argwhere(np.asarray(hot)).tolist()))
    return Visualisation(
        back, image, method, float(value), place, tuple(found.relus), tuple(found.pools), tuple(found.kept)
    )


def _image(args: Sequence[Any]) -> jax.Array:
    if not args:
        raise TypeError("give the function's arguments, the image first")
    if isinstance(args[0], jax.ShapeDtypeStruct) or not hasattr(args[0], "shape"):
        raise TypeError(f"the image must be an array with numbers in it, got {type(args[0]).__name__}")
    image = jnp.asarray(args[0])
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(f"the image must have floating numbers, got {image.dtype}: scale it first")
    return image


def _which(avals: Sequence[Any], output: int | None) -> int:
    if output is None and len(avals) == 1:
        return 0
    if output is None or not -len(avals) <= output < len(avals):
        shapes = [a.shape for a in avals]
        raise ValueError(
            f"the function has {len(avals)} outputs, of shapes {shapes}; choose one with output=, got {output}"
        )
    return output


def _seed(
    aval: Any, unit: Any, channel: int | None, cotangent: Any, channel_axis: int
) -> Callable[[jax.Array], jax.Array]:
    """How the cotangent is made from the output."""
    given = [name for name, v in (("unit", unit), ("channel", channel), ("cotangent", cotangent)) if v is not None]
    if len(given) != 1:
        raise ValueError(f"give exactly one of unit, channel and cotangent, got {' and '.join(given) or 'none'}")
    if cotangent is not None:
        hot = jnp.asarray(cotangent)
        if hot.shape != aval.shape:
            raise ValueError(f"cotangent has shape {hot.shape}, the output has shape {aval.shape}")
        return lambda y: hot.astype(y.dtype)
    if unit is not None:
        mask = np.zeros(aval.shape, bool)
        try:
            mask[unit] = True
        except IndexError as error:
            raise ValueError(f"unit={unit!r} is no index of the output's shape {aval.shape}: {error}") from None
        if not mask.any():
            raise ValueError(f"unit={unit!r} picks nothing of the output's shape {aval.shape}")
        return lambda y: jnp.asarray(mask, y.dtype)
    rank = len(aval.shape)
    if rank < 2 or not -rank <= channel_axis < rank or channel_axis % rank == 0:
        raise ValueError(f"channel_axis={channel_axis} is no axis of the output's shape {aval.shape} behind the batch")
    count = aval.shape[channel_axis]
    if not -count <= channel < count:
        raise ValueError(f"channel={channel} is outside of the output's {count} channels, shape {aval.shape}")

    def strongest(y: jax.Array) -> jax.Array:
        moved = jnp.moveaxis(y, channel_axis, -1)
        plane = moved[..., channel].reshape(y.shape[0], -1)
        best = jax.nn.one_hot(plane.argmax(-1), plane.shape[-1], dtype=y.dtype).reshape(moved.shape[:-1])
        of_channel = jax.nn.one_hot(channel % count, count, dtype=y.dtype)
        return jnp.moveaxis(best[..., None] * of_channel, -1, channel_axis)

    return strongest


def _warn(found: Nonlinearities, rule: str) -> None:
    if rule != "exact" and not found.relus:
        names = sorted({p.name for p in found.kept})
        others = f" It has {', '.join(names)}, whose derivative is left exact." if names else ""
        warnings.warn(
            f"no ReLU found: {rule!r} changes nothing, what comes is the exact adjoint.{others}", stacklevel=3
        )
