"""``jaxconv evaluate``: the scores of a run folder's network on labelled images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from flax import nnx

from jaxconv._text import print_line
from jaxconv.train import data, folder
from jaxconv.train.config import TrainConfig
from jaxconv.train.metrics import Boundaries, mean_iou, per_class_iou, pixel_accuracy
from jaxconv.train.mosaic import PHOTOGRAPHS
from jaxconv.train.record import Preprocessing
from jaxconv.train.runfolder import load_run
from jaxconv.train.segment import make_forward, score, segmenter


def evaluate(
    run_folder: str | Path,
    *,
    data_folder: str | Path | None = None,
    split: str | None = None,
    batch_size: int = 8,
    picture: str | Path | None = None,
    say: Callable[[str], None] = print_line,
) -> np.ndarray:
    """Scores a network and says the IoU of each class and its boundary, and one line ``mIoU 0.1234``.

    Pixels with the ignored label are not counted; classes absent from labels and predictions are left out of the mean.

    Args:
        run_folder: written by train or convert.
        data_folder: ``data_folder/split/*.png`` with ``data_folder/splitannot/*.png``; None for what the network was
            trained on, the embedded mosaics or a folder.
        split: which images; None for those that scored the network at the end of training ("test" for the mosaics and
            for converted weights).
        batch_size: images at a time.
        picture: PNG of the confusion matrix.
        say: receives the lines.

    Returns:
        (classes, classes) the confusion matrix, true classes down; (classes, 2, 2) of masks.

    Raises:
        FileNotFoundError, ValueError: with the name of the file that is missing, unreadable or has illegal labels.

    >>> confusion = evaluate("runs/mosaics")  # doctest: +SKIP
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    model, run = load_run(run_folder)
    record = run.preprocessing
    config = None if run.train is None else TrainConfig().override(**run.train)
    if config is not None and config.data is not None:
        data_folder = config.data if data_folder is None else data_folder
        split = split or config.test_split or config.val_split
    split = split or "test"
    if data_folder is not None:
        examples = data.folder_examples(folder.find_pairs(data_folder, split), record)
    elif config is None or record.class_names != PHOTOGRAPHS:  # of weights, or of a source of the caller's own
        raise ValueError(f"{run.folder} was not trained on the embedded mosaics; give --data FOLDER --split NAME")
    else:
        examples = data.mosaic_examples(split, config.crop[0], config.test_images)
    graph, state = nnx.split(model)
    segment = segmenter(make_forward(graph, record), (state,), record, batch_size)
    boundaries = Boundaries(record.classes, record.ignore_index, multi_label=record.multi_label)
    confusion = score(segment, examples(), record, batch_size, boundaries)
    if not confusion.sum():
        raise ValueError(f"no pixel of {split} counts: all labels are the ignored one")
    for line in report(confusion, record, boundaries):
        say(line)
    if picture is not None:
        from jaxconv.train.picture import save_confusion

        save_confusion(picture, confusion, record)
    return confusion


def report(confusion: np.ndarray, record: Preprocessing, boundaries: Boundaries) -> list[str]:
    """One line a class, the pixel accuracy, the mean of the boundaries, and the line ``mIoU 0.1234``."""
    iou = per_class_iou(confusion, record.ignore_index)
    width = max(map(len, record.class_names))
    lines = []
    for name, value, edge in zip(record.class_names, iou, boundaries.per_class, strict=True):
        told = "not scored" if np.isnan(value) else f"IoU {value:.4f}, boundary {edge:.4f}"
        lines.append(f"{name:<{width}}  {told}")
    lines.append(f"pixel accuracy {pixel_accuracy(confusion):.4f}, mean of the boundaries {boundaries.mean:.4f}")
    lines.append(f"mIoU {mean_iou(confusion, record.ignore_index):.4f}")
    return lines
