"""What to explain: a run folder, a model's name, or a function that can be imported; and the image that it takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxconv._import import module_of
from jaxconv.analysis.field.cost import Cost, cost_of
from jaxconv.explain.weights import planned
from jaxconv.jaxprs.modules import with_state

SIDE = 256
LONGEST = 512  # of a photograph's longer side, unless --input says otherwise
STEP = 32  # sizes that all usual networks take
LARGE = 3e10  # multiply-adds, above which a model of the registry is looked at on a smaller image


@dataclass(frozen=True)
class Target:
    """A function with its arguments, and how to speak of it.

    Attributes:
        name: as the reader calls it.
        fn: the function or module.
        args: its arguments; the image (or its shape) first.
        picture: the reader's image, (height, width, channels) as 8-bit values of the analysed size, or None.
        remarks: what was assumed.
        spatial_axes: those of the image, where the network itself tells them.
        input_range: (lowest, highest) value of the network's inputs, for each channel, where that is known.
        weights: "trained", "random", or "given" where nobody said which.
    """

    name: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    picture: np.ndarray | None = None
    remarks: tuple[str, ...] = field(default=())
    spatial_axes: tuple[int, ...] | None = None
    input_range: tuple[Any, Any] | None = None
    weights: str = "given"

    @cached_property
    def pure(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The function and its arguments, a module's state among them: one function, so that JAX traces it once."""
        return with_state(self.fn, self.args)

    @property
    def images(self) -> np.ndarray | None:
        """The reader's picture as the network takes it; None where there is none or its channels don't fit."""
        image = self.args[0]
        if self.picture is None or not np.issubdtype(image.dtype, np.floating) or len(image.shape) != 4:
            return None
        if image.shape[1:] != self.picture.shape:
            return None
        low, high = (0.0, 1.0) if self.input_range is None else self.input_range
        low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
        return np.broadcast_to(low + self.picture / np.float32(255) * (high - low), image.shape).astype(image.dtype)


def resolve(
    what: str,
    *,
    shape: Sequence[int] | None = None,
    image: str | Path | None = None,
    spatial_axes: Sequence[int] | None = None,
    input_range: tuple[float, float] | None = None,
) -> Target:
    """Find what is to be explained.

    Args:
        what: a run folder of `jaxconv train` or `convert`; the name of a model in `jaxconv.models.REGISTRY`; a file
            NAME.onnx, whose first input is the image, channels first; or
            MODULE:NAME or FILE.py:NAME. NAME is a function (or module object) of one image where `shape` or `image` is
            given, else a function without arguments that returns (fn, *args), or such a tuple.
        shape: shape of the image, such as (1, 256, 256, 3).
        image: a picture file; it is brought to the analysed size, which follows it where `shape` is not given.
        spatial_axes: spatial axes of the image, where they are not all but the first and the last.
        input_range: (lowest, highest) value that the network is made for; a run's record knows its own.

    Returns:
        A `Target`.

    Raises:
        FileNotFoundError, ValueError: nothing is found, it cannot be called, or image and shape do not fit; the message
            names what was given and what there is.

    >>> target = resolve("fsrcnn", shape=(1, 64, 64, 3))
    >>> target.args[0].shape
    (1, 64, 64, 3)
    """
    if shape is not None:
        _check_shape(shape, spatial_axes)
    if input_range is not None and not input_range[0] < input_range[1]:
        raise ValueError(
            f"--input-range {input_range[0]:g},{input_range[1]:g}: the lowest value must be below the highest"
        )
    if Path(what).is_dir():
        found = _of_run(Path(what), shape, image, spatial_axes)
    elif what.endswith(".onnx"):
        found = _of_onnx(Path(what), shape, image, spatial_axes)
    elif ":" in what:
        found = _of_name(what, shape, image, spatial_axes)
    else:
        found = _of_registry(what, shape, image, spatial_axes)
    return found if input_range is None else replace(found, input_range=input_range)


def _check_shape(shape: Sequence[int], spatial_axes: Sequence[int] | None) -> None:
    if any(n < 1 for n in shape):
        raise ValueError(f"--input {_listed(shape)}: all sizes must be at least 1")
    if spatial_axes is None and len(shape) < 3:
        raise ValueError(
            f"--input {_listed(shape)}: an image has a batch axis, spatial axes and channels, such as 1,256,256,3"
        )


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(str(n) for n in numbers)


# --------------------------------------------------------------------------------------------------------- three kinds
def _of_run(folder: Path, shape: Any, image: Any, spatial_axes: Any) -> Target:
    from flax import nnx

    from jaxconv.train.runfolder import build_model, is_finished, load_run, read_description

    run = read_description(folder)
    remarks = []
    if is_finished(folder):
        model, run = load_run(folder)
    else:
        model = build_model(run.model_name, run.model_kwargs, nnx.Rngs(0))
        remarks.append("the run is not finished: its weights are drawn at random")
    record = run.preprocessing
    size = record.size or (run.train or {}).get("crop") or (SIDE, SIDE)
    default = (1, *(int(n) for n in size), record.channels)
    shape, picture, more = _image(shape, image, default, record.channels, spatial_axes, follow=record.size is None)
    target = _of_module(f"{run.model_name}, run {folder.resolve().name}", model, shape, picture, [*remarks, *more])
    ends = (record.normalise(np.full((1, record.channels), v, np.uint8))[0] for v in (0, 255))
    weights = "random" if remarks else "trained"
    return replace(target, input_range=tuple(ends), weights=weights)


def _of_onnx(path: Path, shape: Any, image: Any, spatial_axes: Any) -> Target:
    from jaxconv.convert.onnx_function import onnx_function

    fn: Any
    fn, params = onnx_function(path)
    (_, first), *others = fn.inputs.items()
    usual = (1, 3, *(SIDE,) * (len(first) - 2))
    shape = tuple(shape or (n if n and n > 0 else u for n, u in zip(first, usual, strict=True)))
    axes = tuple(range(2, len(shape))) if spatial_axes is None else tuple(spatial_axes)
    shape, picture, remarks = _image(shape, image, shape, None, axes)
    rest = [np.zeros([n if n and n > 0 else 1 for n in sizes], np.float32) for _, sizes in others]
    if rest:
        remarks.append(f"the other inputs are zeros: {', '.join(name for name, _ in others)}")
    arguments = (jax.ShapeDtypeStruct(shape, np.float32),)
    target = Target(path.name, lambda x: fn(params, x, *rest), arguments, picture, tuple(remarks), axes)
    _tried(target)
    return target


def _of_registry(name: str, shape: Any, image: Any, spatial_axes: Any) -> Target:
    import inspect

    from jaxconv.models import REGISTRY

    if name not in REGISTRY:
        raise FileNotFoundError(
            f"{name} is neither a run folder nor a model ({', '.join(sorted(REGISTRY))}); a function is given as "
            "MODULE:FUNCTION or FILE.py:FUNCTION"
        )
    kind = REGISTRY[name]
    defaults = {"in_channels": shape[-1] if shape is not None else 3, "classes": 12}
    # The metaclass of NNX modules hides a class's own signature.
    # A partial of the registry's is a network with some arguments given.
    made, given = getattr(kind, "func", kind), getattr(kind, "keywords", {})
    signature = inspect.signature(made.__init__ if isinstance(made, type) else made)  # type: ignore[misc]
    needed = [p.name for p in signature.parameters.values() if p.default is p.empty and p.name not in given]
    if name == "segmentation":
        raise ValueError(f"segmentation is made of an architecture and an encoder: name one of {', '.join(REGISTRY)}")
    chosen = {p: defaults[p] for p in needed if p in defaults}
    if hasattr(made, "levels"):
        chosen["classes"] = 0  # a classifier's feature map: its head has no places
    remarks = ["the weights are drawn at random" + "".join(f", {k}={v}" for k, v in chosen.items())]
    usual_shape = getattr(made, "example", None) or (1, SIDE, SIDE, 3)
    usual = shape is None and image is None and usual_shape == (1, SIDE, SIDE, 3)
    shape, picture, more = _image(shape, image, usual_shape, 3, spatial_axes)

    # Shapes first: a wrong one is known before any weight is drawn.
    shapes, draw = planned(lambda rngs: kind(**chosen, rngs=rngs))
    shapes.eval()
    work = _tried(Target(name, shapes, (jax.ShapeDtypeStruct(tuple(shape), np.float32),))).multiply_adds
    if usual and work > LARGE:
        shape = (1, SIDE // 2, SIDE // 2, 3)
        more.append(f"a smaller image, as one of {SIDE}×{SIDE} takes {work / 1e9:.0f} billion multiply-adds (--input)")
    model = draw()
    model.eval()
    image_shape = jax.ShapeDtypeStruct(tuple(shape), np.float32)
    return Target(name, model, (image_shape,), picture, (*remarks, *more), weights="random")


def _of_module(name: str, model: Any, shape: Any, picture: Any, remarks: Sequence[str]) -> Target:
    model.eval()
    target = Target(name, model, (jax.ShapeDtypeStruct(tuple(shape), np.float32),), picture, tuple(remarks))
    _tried(target)
    return target


def _of_name(what: str, shape: Any, image: Any, spatial_axes: Any) -> Target:
    place, _, attribute = what.rpartition(":")
    if not place or not attribute:
        raise ValueError(f"{what!r}: a function is given as MODULE:FUNCTION or FILE.py:FUNCTION")
    value: Any = module_of(place)
    for part in attribute.split("."):
        if not hasattr(value, part):
            names = sorted(n for n, v in vars(value).items() if callable(v) and not n.startswith("_"))
            raise ValueError(f"{place} has no {part!r}; it has: {', '.join(names) or 'nothing to call'}")
        value = getattr(value, part)
    if isinstance(value, type):
        raise ValueError(f"{what} is a class; give an object of it, or a function that returns (object, image)")
    if shape is not None or image is not None:
        if not callable(value):
            raise ValueError(f"{what} is a {type(value).__name__}, which cannot be called on an image")
        shape, picture, remarks = _image(shape, image, (1, SIDE, SIDE, 3), None, spatial_axes)
        given = (value, jax.ShapeDtypeStruct(tuple(shape), np.float32))
    else:
        given, picture, remarks = _call_without_arguments(value, what), None, []
    fn, *args = given
    if hasattr(fn, "eval") and hasattr(fn, "train") and callable(fn.eval):
        fn.eval()
    name = f"{Path(place).name}:{attribute}" if place.endswith(".py") else what
    target = Target(name, fn, tuple(args), picture, tuple(remarks))
    _tried(target)
    return target


def _call_without_arguments(value: Any, what: str) -> tuple[Any, ...]:
    if callable(value) and not isinstance(value, tuple):
        import inspect

        try:
            inspect.signature(value).bind()
        except (TypeError, ValueError):
            raise ValueError(
                f"{what} takes arguments: give the shape of its image, as --input 1,256,256,3, or a function without "
                "arguments that returns (fn, image, ...)"
            ) from None
        value = value()
    if not isinstance(value, tuple) or len(value) < 2 or not callable(value[0]) or not hasattr(value[1], "shape"):
        kind = f"{type(value).__name__}" + (f" of length {len(value)}" if isinstance(value, tuple) else "")
        raise ValueError(f"{what} gives a {kind}, not a tuple (fn, image, ...) of a function and its arguments")
    return value


def _tried(target: Target) -> Cost:
    """What the function costs. It must take its arguments: the error is its own, in one sentence."""
    try:
        pure, args = target.pure
        return cost_of(jax.make_jaxpr(pure)(*args))
    except Exception as error:
        shapes = ", ".join(str(tuple(a.shape)) for a in jax.tree.leaves(target.args) if hasattr(a, "shape"))
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{target.name} does not take an input of shape {shapes}: {kind}{first}") from error


# ----------------------------------------------------------------------------------------------------------- the image
def _image(
    shape: Any, image: Any, default: Sequence[int], channels: int | None, spatial_axes: Any, follow: bool = True
) -> tuple[tuple[int, ...], np.ndarray | None, list[str]]:
    """The input's shape, and the reader's picture at its size."""
    if image is None:
        return tuple(shape or default), None, []
    from jaxconv.train.reading import read_image, resize_image

    picture = read_image(image, 1 if channels == 1 or (shape is not None and shape[-1] == 1) else 3)
    if shape is None:
        scale = min(1.0, LONGEST / max(picture.shape[:2]))
        sides = [max(int(n * scale) // STEP * STEP, STEP) for n in picture.shape[:2]]
        shape = (1, *sides, picture.shape[-1]) if follow else default
    axes = tuple(range(1, len(shape) - 1)) if spatial_axes is None else tuple(a % len(shape) for a in spatial_axes)
    if len(axes) != 2:
        raise ValueError(f"--image is for two spatial axes, the input {_listed(shape)} has {len(axes)}")
    size = (shape[axes[0]], shape[axes[1]])
    remarks = []
    if picture.shape[:2] != size:
        was = "×".join(str(n) for n in picture.shape[:2])
        remarks.append(f"the image was resized from {was} to {'×'.join(str(n) for n in size)}")
    return tuple(shape), resize_image(picture, size), remarks
