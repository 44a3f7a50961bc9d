"""The picture that a run leaves: input, label and prediction side by side."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxconv._text import unparsed
from jaxconv.train.files import write_beside
from jaxconv.train.record import Preprocessing


def colour(labels: np.ndarray, record: Preprocessing) -> np.ndarray:
    """Label map (h, w) to colours (h, w, 3) uint8; labels outside the classes become black. Of masks (h, w, classes),
    the mean of the colours of a pixel's classes.

    >>> record = Preprocessing(class_names=("a", "b"), palette=((9, 9, 9), (200, 0, 0)), ignore_index=255)
    >>> colour(np.array([[0, 1, 255]]), record).tolist()
    [[[9, 9, 9], [200, 0, 0], [0, 0, 0]]]
    """
    table = np.array([*record.palette, (0, 0, 0)], np.uint8)
    if record.multi_label:
        there = labels == 1
        return (there @ table[:-1].astype(np.int64) // np.maximum(there.sum(-1, keepdims=True), 1)).astype(np.uint8)
    inside = (labels >= 0) & (labels < record.classes)
    return table[np.where(inside, labels.astype(np.int32), record.classes)]


def middle(array: Any, record: Preprocessing) -> Any:
    """What a picture shows of an image or its labels: of a volume, the middle slice."""
    return array if record.rank == 2 else array[array.shape[0] // 2]


def visible(image: np.ndarray) -> np.ndarray:
    """An image (h, w, bands) as 8-bit RGB: gray on all three, the first three of more bands.

    >>> visible(np.array([[[1.4, 300.0]]])).tolist()
    [[[1, 1, 1]]]
    """
    bands = image[..., : 3 if image.shape[-1] > 2 else 1]
    bands = bands if bands.dtype == np.uint8 else np.rint(np.clip(bands, 0, 255)).astype(np.uint8)
    return np.broadcast_to(bands, (*image.shape[:2], 3))


def overlay(image: np.ndarray, labels: np.ndarray, record: Preprocessing, opacity: float = 0.5) -> np.ndarray:
    """Blends the colours of a label map (h, w) over an image (h, w, bands), in whole 8-bit steps.

    >>> record = Preprocessing(class_names=("a",), palette=((200, 0, 100),))
    >>> overlay(np.full((1, 1, 1), 100, np.uint8), np.array([[0]]), record).tolist()
    [[[150, 50, 100]]]
    """
    shown = np.empty((*labels.shape[:2], 3), np.uint8)
    for start in range(0, len(labels), 256):  # floats of all rows would be the largest thing in memory
        band = slice(start, start + 256)
        rgb = visible(np.asarray(image[band])).astype(np.float32)
        shown[band] = np.rint((1 - opacity) * rgb + opacity * colour(labels[band], record))
    return shown


def _triples(
    images: list[np.ndarray], labels: list[np.ndarray], predictions: list[np.ndarray], record: Preprocessing
) -> Iterator[list[np.ndarray]]:
    """Input, label and prediction (h, w, 3) of each example; pixels of an ignored label are black in both."""
    for example in zip(images, labels, predictions, strict=True):
        image, label, predicted = (middle(array, record) for array in example)
        ignored = False if record.ignore_index is None else label == record.ignore_index
        yield [
            visible(image),
            *(colour(np.where(ignored, -1, values.astype(np.int32)), record) for values in (label, predicted)),
        ]


def save_picture(
    path: str | Path,
    images: list[np.ndarray],
    labels: list[np.ndarray],
    predictions: list[np.ndarray],
    record: Preprocessing,
    title: str = "",
) -> Path:
    """Writes a PNG with one row an example - input, label, prediction - and a legend of the classes."""
    panels = [panel for row in _triples(images, labels, predictions, record) for panel in row]
    figure = _figure(6.6, 2.1 * len(images) + 1.0)
    _draw(figure, panels, ["input", "label", "prediction"], 3, 10, record)
    figure.suptitle(unparsed(title), fontsize=10)
    return _write(path, figure)


def comparison(
    images: list[np.ndarray], labels: list[np.ndarray], predictions: list[np.ndarray], record: Preprocessing
) -> np.ndarray:
    """One row an example - input, label, prediction - as an image (h, w, 3), at most 256 pixels a side each."""
    rows = []
    for row in _triples(images, labels, predictions, record):
        every = -(-max(row[0].shape[:2]) // 256)
        rows.append(np.concatenate([part[::every, ::every] for part in row], axis=1))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, [(0, 2), (0, width - row.shape[1]), (0, 0)]) for row in rows])


def save_samples(
    path: str | Path, images: list[np.ndarray], labels: list[np.ndarray], names: list[str], record: Preprocessing
) -> Path:
    """Writes a PNG of images with their labels laid over, four a row, and a legend of the classes."""
    pairs = zip(images, labels, strict=True)
    panels = [overlay(middle(image, record), middle(label, record), record) for image, label in pairs]
    figure = _figure(10, 2.6 * -(-len(images) // 4) + 0.8)
    _draw(figure, panels, names, 4, 8, record)
    return _write(path, figure)


def save_confusion(path: str | Path, confusion: np.ndarray, record: Preprocessing) -> Path:
    """Writes a PNG of a confusion matrix: of the pixels of each class (rows), the share predicted as each (columns); of
    masks, the share not found and found."""
    columns = names = [unparsed(name) for name in record.class_names]
    if confusion.ndim == 3:
        columns, confusion = ["absent", "present"], confusion[:, 1]
    side = 1.6 + 0.5 * min(len(names), 40)
    figure = _figure(side + 1.2, side + 0.6)
    axis = figure.subplots()
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axis.imshow(share, vmin=0, vmax=1, cmap="Blues")
    if len(names) <= 40:
        axis.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        for (row, column), value in np.ndenumerate(share):
            if value >= 0.005:
                ink = "white" if value > 0.6 else "black"
                axis.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=ink, fontsize=7)
    axis.set(xlabel="predicted", ylabel="label", title="% of each class's pixels")
    return _write(path, figure)


def save_curves(path: str | Path, rows: list[dict[str, str]]) -> Path:
    """Writes a PNG of the columns of metrics.csv against the step: the first above, the others below."""
    columns = [name for name in rows[0] if name not in ("step", "seconds")]
    figure = _figure(6.6, 5.0)
    axes = figure.subplots(2 if len(columns) > 1 else 1, sharex=True, squeeze=False).ravel()
    for place, name in enumerate(columns):
        known = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        axes[min(place, 1)].plot(*zip(*known), ".-", label=name, linewidth=1, markersize=3) if known else None
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, frameon=False)
    axes[-1].set_xlabel("step")
    return _write(path, figure)


def save_image(path: str | Path, image: np.ndarray) -> Path:
    """Writes an image (h, w) or (h, w, 3) uint8 as a PNG."""
    from PIL import Image

    return write_beside(path, lambda p: Image.fromarray(image).save(p, format="PNG"))


def drawn(draw: Callable[[], Any], say: Callable[[str], None]) -> None:
    """Draws; a picture is a decoration, and where it cannot be drawn that is said."""
    try:
        draw()
    except Exception as error:
        say(f"warning: a picture could not be drawn: {error}")


def _figure(width: float, height: float) -> Any:
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def _write(path: str | Path, figure: Any) -> Path:
    return write_beside(path, lambda p: figure.savefig(p, format="png"))


def _draw(
    figure: Any, panels: list[np.ndarray], titles: list[str], columns: int, size: float, record: Preprocessing
) -> None:
    """Images row by row, the first with titles above them, and a legend of the classes."""
    from matplotlib.patches import Patch

    axes = figure.subplots(-(-len(panels) // columns), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, panel in zip(axes.flat, panels, strict=False):
        axis.imshow(panel, interpolation="nearest")
    for axis, title in zip(axes.flat, titles, strict=False):
        axis.set_title(unparsed(title), fontsize=size)
    names = [unparsed(name).replace("_", " ") for name in record.class_names]
    colours = ["#{:02x}{:02x}{:02x}".format(*c) for c in record.palette]
    patches = [Patch(color=c, label=name) for c, name in zip(colours, names, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
