"""The receptive field measured by differentiation: a fallback where a primitive is not understood, and a judge."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.jaxprs.modules import as_function, with_state

from ..graph.trace import spatial_axes_of, spatial_index
from .cost import compiler_options, cost_of


def numbers_for(args: Sequence[Any], seed: int) -> list[Any]:
    """Arrays for arguments of which only the shape is known; the first argument is always drawn."""
    rng = np.random.default_rng(seed)  # by NumPy: jax.random would compile a program for every shape

    def draw(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return rng.standard_normal(leaf.shape).astype(leaf.dtype)
        return jnp.zeros(leaf.shape, leaf.dtype)

    image = draw(args[0])
    rest = [jax.tree.map(lambda x: draw(x) if isinstance(x, jax.ShapeDtypeStruct) else x, a) for a in args[1:]]
    return [image, *rest]


class Pullback:
    """The gradient of one output with respect to the image, compiled once for all that is measured with it.

    Attributes:
        args: the function's arguments, an NNX module's state behind them (so that weights are no constants of the
            program, which XLA would fold for long).
        result: shape and dtype of the output.
        differentiable: whether image and output are of floating point.
        cost: of one run of the function.
    """

    def __init__(self, fn: Callable[..., Any], args: Sequence[Any], output: int | None):
        pure, self.args = with_state(fn, args)
        run = jax.jit(lambda *given: jax.tree.leaves(pure(*given))[output or 0])
        traced = run.trace(*self.args)
        self.result: Any = traced.out_info
        self.differentiable = all(jnp.issubdtype(x.dtype, jnp.inexact) for x in (self.args[0], self.result))
        self.cost = cost_of(traced.jaxpr)

        @partial(jax.jit, compiler_options=compiler_options(self.cost, self.cost.affordable))
        def pull(image: Any, rest: Any, cotangent: Any) -> Any:
            return jax.vjp(lambda x: run(x, *rest), image)[1](cotangent)[0]

        self._pull: Any = pull

    def compile(self) -> None:
        """Compile before the first call: another thread can do this while Python is busy elsewhere."""
        if self.differentiable:
            self._pull = self._pull.lower(self.args[0], self.args[1:], self.result).compile()

    def __call__(self, image: Any, rest: Sequence[Any], cotangent: np.ndarray) -> np.ndarray:
        """The gradient at an image, `rest` being the arguments behind it, for a cotangent that may be broadcast."""
        whole = np.broadcast_to(cotangent, self.result.shape).astype(self.result.dtype)
        return np.asarray(self._pull(image, tuple(rest), whole))


class GradientField:
    """A receptive field measured from gradients: masks and boxes, without counts.

    A position belongs to the mask where the gradient of some channel is not zero for one of several random inputs.
    Where a gradient vanishes (a weight of zero, a maximum that is never taken) the mask is too small: this is a lower
    bound.
    """

    method = "gradient"

    def __init__(self, fn, args, spatial_axes, output, note: str = "", draws: int = 4):
        self.axes = spatial_axes_of(args[0], spatial_axes)
        self.notes: tuple[str, ...] = (note,) if note else ()
        self.global_ops: tuple[Any, ...] = ()
        self._draws, self._args = draws, args
        self._fn = as_function(fn)
        shapes = jax.tree.leaves(jax.eval_shape(self._fn, *args))
        if output is None and len(shapes) != 1:
            raise ValueError(f"the function has {len(shapes)} outputs; choose one with output=")
        self._output = output or 0
        shape = shapes[self._output].shape
        rank = len(args[0].shape)
        self.result_axes = self.axes if len(shape) == rank else tuple(range(1, len(shape) - 1))
        self.input_size = tuple(args[0].shape[a] for a in self.axes)
        self.output_size = tuple(shape[a] for a in self.result_axes)

    @cached_property
    def _pull(self) -> Callable[..., jax.Array]:
        out_axes, which = self.result_axes, self._output

        @jax.jit
        def pull(key, x, rest, index):
            y, vjp = jax.vjp(lambda z: jax.tree.leaves(self._fn(z, *rest))[which], x)
            hot = jnp.ones(y.shape, bool)
            for axis, at in zip(out_axes, index, strict=True):
                shape = [-1 if a == axis else 1 for a in range(y.ndim)]
                hot &= (jnp.arange(y.shape[axis]) == at).reshape(shape)
            return vjp(jnp.where(hot, jax.random.normal(key, y.shape), 0).astype(y.dtype))[0]

        return pull

    def mask(self, index: int | Sequence[int], *, through_global: bool = True) -> np.ndarray:
        """Which input positions the output at `index` was seen to depend on."""
        given = spatial_index(index, self.output_size)
        others = tuple(a for a in range(len(self._args[0].shape)) if a not in self.axes)
        seen = np.zeros(self.input_size, bool)
        for draw in range(self._draws):
            x, *rest = numbers_for(self._args, draw)
            gradient = np.asarray(self._pull(jax.random.key(draw), x, rest, given))
            seen |= (gradient != 0).any(axis=others)
        return seen

    def counts(self, index: int | Sequence[int], **_: Any) -> np.ndarray:
        """Not measured: gradients say whether a position is read, not along how many paths."""
        raise ValueError("method='gradient' measures masks only, not counts" + "".join(f" ({n})" for n in self.notes))

    def box(self, index: int | Sequence[int]) -> tuple[slice, ...]:
        """The smallest box of input positions around the mask at `index`."""
        mask = self.mask(index)
        slices = []
        for a in range(mask.ndim):
            hit = np.nonzero(mask.any(axis=tuple(b for b in range(mask.ndim) if b != a)))[0]
            slices.append(slice(int(hit[0]), int(hit[-1]) + 1) if len(hit) else slice(0, 0))
        return tuple(slices)

    @property
    def central_index(self) -> tuple[int, ...]:
        """The output in the middle."""
        return tuple(n // 2 for n in self.output_size)

    @cached_property
    def size(self) -> tuple[int, ...]:
        """Extent per axis at the output in the middle (cut at the borders)."""
        return tuple(s.stop - s.start for s in self.box(self.central_index))

    @cached_property
    def stride(self) -> tuple[float, ...]:
        """Input pixels per output step: of the sizes, where nothing else is known."""
        return tuple(n / m for n, m in zip(self.input_size, self.output_size, strict=True))

    @cached_property
    def offset(self) -> tuple[int, ...]:
        """First pixel of output 0's field, as the one in the middle has it."""
        boxes = zip(self.box(self.central_index), self.central_index, self.stride, strict=True)
        return tuple(int(np.floor(b.start - s * i)) for b, i, s in boxes)

    @cached_property
    def coverage(self) -> float:
        """The share of the box at the output in the middle that was seen to matter."""
        inside = self.mask(self.central_index)[self.box(self.central_index)]
        return float(inside.mean()) if inside.size else 0.0
