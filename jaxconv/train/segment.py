"""A network with its preprocessing: images in, label maps out."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxconv._accelerate import accelerate
from jaxconv.analysis.tiling.tiled import TILES, tiled
from jaxconv.train.metrics import Boundaries, confusion_of
from jaxconv.train.reading import resize_image, resize_labels
from jaxconv.train.record import Preprocessing

LARGE = 1 << 20  # pixels: larger images are computed in tiles
Predict = Callable[[list[np.ndarray]], list[np.ndarray]]


def network_function(
    graph: nnx.GraphDef, record: Preprocessing, probabilities: bool = False
) -> Callable[..., jax.Array]:
    """A function of (images (n, *spatial, channels), *states) to the best class of each pixel, or to the probabilities;
    of a record with masks, to the mask of each class."""

    def function(images: Any, *states: Any) -> jax.Array:
        logits = main_output(nnx.merge(graph, *states)(record.normalise(images)), record)
        if probabilities:
            return (jax.nn.sigmoid if record.multi_label else jax.nn.softmax)(logits.astype(jnp.float32))
        return best_class(logits, record)

    return function


def make_forward(graph: nnx.GraphDef, record: Preprocessing) -> Callable[[Any, np.ndarray], jax.Array]:
    """A jitted function of (states, images (n, *spatial, channels)) to the best class of each pixel, (n, *spatial)."""
    network = network_function(graph, record)
    return accelerate(lambda states, images: network(images, *states))


def main_output(outputs: Any, record: Preprocessing) -> Any:
    """The logits of a network that may give those of auxiliary heads after them; a ValueError where that is no score of
    each class."""
    logits = outputs[0] if isinstance(outputs, (tuple, list)) and outputs else outputs
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != record.rank + 2 or shape[-1] != record.classes:
        found = type(logits).__name__ if shape is None else tuple(shape)
        axes = "height, width" if record.rank == 2 else "depth, height, width"
        raise ValueError(f"it gives {found}, not (images, {axes}, {record.classes} classes)")
    return logits


def best_class(scores: Any, record: Preprocessing, least: float = 0.0) -> Any:
    """The class of each pixel from scores (..., classes), or the masks of the classes that have more than ``least``."""
    if record.multi_label:
        return (scores > least).astype(np.uint8)
    return scores.argmax(-1).astype(np.uint8 if record.classes <= 256 else np.uint16)


def segmenter(
    forward: Callable[[Any, Any], jax.Array],
    states: tuple,
    record: Preprocessing,
    batch_size: int,
    put: Callable[[np.ndarray], Any] = np.asarray,
) -> Predict:
    """A function of images (*spatial, channels), of any sizes, to label maps (*spatial) of the same sizes.

    Images of one size share a batch. A last batch is filled up rather than compiled anew. ``put`` lays a batch on
    the devices that ``states`` are on. Large volumes are computed in tiles.
    """

    def predict(images: list[np.ndarray]) -> list[np.ndarray]:
        sized = [resize_image(image, record.size or image.shape[:-1]) for image in images]
        batch = np.stack([_pad(image, record.size_multiple) for image in sized])
        if record.rank == 3 and math.prod(batch.shape[1:-1]) > LARGE:
            labels = np.concatenate([_in_tiles(forward)(image[None], states) for image in batch])
        else:
            filled = np.concatenate([batch, np.zeros((batch_size - len(batch), *batch.shape[1:]), batch.dtype)])
            labels = np.asarray(forward(states, put(filled)))[: len(batch)]
        cut = (label[tuple(map(slice, one.shape[:-1]))] for label, one in zip(labels, sized, strict=True))
        return [resize_labels(label, image.shape[:-1]) for label, image in zip(cut, images, strict=True)]

    def predict_all(images: list[np.ndarray]) -> list[np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for group in _gathered(enumerate(images), batch_size, lambda item: _computed_shape(item[1], record)):
            found |= zip([number for number, _ in group], predict([image for _, image in group]), strict=True)
        return [found[number] for number in range(len(images))]

    return predict_all


@functools.lru_cache(maxsize=8)
def _in_tiles(forward: Callable[[Any, Any], jax.Array]) -> Callable[[np.ndarray, Any], np.ndarray]:
    """``forward`` of a large volume; kept, so that it is compiled once."""
    return tiled(lambda images, states: forward(states, images), TILES[3], statistics=True)


def score(
    predict: Predict,
    examples: Iterable[tuple[np.ndarray, np.ndarray]],
    record: Preprocessing,
    batch_size: int,
    boundaries: Boundaries | None = None,
) -> np.ndarray:
    """The confusion matrix of predictions over (image, labels) pairs, read as they are needed; ``boundaries`` too.

    Each padded size is compiled once. What is computed is what `predict` would give, padded by the record's
    ``size_multiple`` only: more padding than the network was made for would change its labels near the edge.
    """
    confusion = np.zeros((record.classes, 2, 2) if record.multi_label else (record.classes,) * 2, np.int64)
    for group in _gathered(examples, batch_size, lambda pair: _computed_shape(pair[0], record)):
        for (_, labels), predicted in zip(group, predict([image for image, _ in group]), strict=True):
            confusion += confusion_of(labels, predicted, record)
            if boundaries is not None:
                boundaries.add(labels, predicted)
    return confusion


def _computed_shape(image: np.ndarray, record: Preprocessing) -> tuple:
    """What a program is compiled for: images of one padded size and type share a batch."""
    return tuple(-(-n // record.size_multiple) for n in record.size or image.shape[:-1]), image.dtype


def _gathered(items: Iterable[Any], count: int, key: Callable[[Any], Any]) -> Iterator[list[Any]]:
    """Groups of ``count`` items with equal keys, in any order, and smaller ones of what is left or waits too long."""
    waiting: dict[Any, list[Any]] = {}
    for item in items:
        group = waiting.setdefault(key(item), [])
        group.append(item)
        if len(group) == count:
            yield waiting.pop(key(item))
        elif sum(map(len, waiting.values())) > 8 * count:  # so many images at most are held
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()


def _pad(image: np.ndarray, multiple: int) -> np.ndarray:
    pads = [(0, -n % multiple) for n in image.shape[:-1]]
    return np.pad(image, [*pads, (0, 0)], "edge") if any(hi for _, hi in pads) else image
