"""``jaxconv predict``: label maps of images, drawn over them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxconv._text import print_line
from jaxconv.train.files import write_beside
from jaxconv.train.folder import read_image
from jaxconv.train.picture import overlay
from jaxconv.train.runfolder import load_run
from jaxconv.train.segment import run_segmenter


def predict(
    run_folder: str | Path,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    labels: bool = False,
    say: Callable[[str], None] = print_line,
) -> list[Path]:
    """Segments image files of any size and writes ``OUT/NAME_overlay.png`` for each.

    Args:
        run_folder: written by train or convert.
        images: files.
        out: folder, made if missing.
        labels: also write ``OUT/NAME_labels.png``, one gray channel (8-bit up to 256 classes) whose value is the class.
        say: receives one line a file.

    Returns:
        The overlays' paths.

    Raises:
        FileNotFoundError, ValueError: an image is missing or unreadable (what comes before it is written), two images
            would be written to one file, or none is given.

    >>> predict("runs/mosaics", ["street.jpg"], out="overlays")  # doctest: +SKIP
    [PosixPath('overlays/street_overlay.png')]
    """
    paths = [Path(image) for image in images]
    if not paths:
        raise ValueError("no image was given to predict")
    names = [path.stem for path in paths]
    twice = [str(path) for path in paths if names.count(path.stem) > 1]
    if twice:
        raise ValueError(f"{', '.join(twice)} have one name and would be written to one file; predict them apart")
    model, run = load_run(run_folder)
    record = run.preprocessing
    segment = run_segmenter(model, record, batch_size=1)
    written = []
    for path in paths:
        image = read_image(path, record.channels, record.value_range)
        classes = segment([image])[0]
        shown = overlay(image, classes, record)
        written.append(_save(Path(out) / f"{path.stem}_overlay.png", shown))
        if labels:
            _save(Path(out) / f"{path.stem}_labels.png", classes)
        share = np.bincount(classes.ravel(), minlength=record.classes) / classes.size
        most = ", ".join(f"{record.class_names[i]} {share[i]:.0%}" for i in share.argsort()[::-1][:3] if share[i] > 0)
        say(f"{written[-1]}: {most}")
    return written


def _save(path: Path, pixels: np.ndarray) -> Path:
    from PIL import Image

    return write_beside(path, lambda p: Image.fromarray(pixels).save(p, format="PNG"))
