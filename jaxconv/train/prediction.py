"""``jaxconv predict``: label maps of images, drawn over them."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from jaxconv._text import print_line
from jaxconv.train.arrays import name_of, save_like
from jaxconv.train.files import write_beside
from jaxconv.train.folder import image_files
from jaxconv.train.inference import Inference
from jaxconv.train.picture import middle, overlay, save_image
from jaxconv.train.reading import open_image
from jaxconv.train.runfolder import load_run
from jaxconv.train.segment import best_class


def predict(
    run_folder: str | Path,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    labels: bool = False,
    probabilities: bool = False,
    tile: int | None = None,
    flips: str = "none",
    scales: Sequence[float] = (1.0,),
    say: Callable[[str], None] = print_line,
) -> list[Path]:
    """Segments images of any size and writes ``OUT/NAME_overlay.png`` for each, of a volume its middle slice.

    Large images are computed tile by tile, with the values of the whole (`jaxconv.analysis.tiled`).

    Args:
        run_folder: written by train or convert.
        images: image files, ``.npy`` files (height, width) or (height, width, channels), which are read in parts, and
            folders of both; for a network of volumes, what it was trained on.
        out: folder, made if missing.
        labels: also write ``OUT/NAME_labels.png``, one gray channel (8-bit up to 256 classes) whose value is the class;
            of volumes and masks ``NAME_labels.npy``, of NIfTI ``NAME_labels.nii.gz`` at its place in space.
        probabilities: also write ``OUT/NAME_probabilities.npy``, (height, width, classes) float32.
        tile: pixels of a tile's side; None for 512 (of volumes 96) where an image has more than 2^20 pixels, 0 for
            whole images.
        flips: "none", "horizontal" or "both": probabilities are means over the flipped images.
        scales: probabilities are also means over the image resized by these factors.
        say: receives one line a file.

    Returns:
        The overlays' paths.

    Raises:
        FileNotFoundError, ValueError: an image is missing or unreadable (what comes before it is written), two images
            would be written to one file, none is given, or an option is outside of its range.

    >>> predict("runs/mosaics", ["street.jpg"], out="overlays")  # doctest: +SKIP
    [PosixPath('overlays/street_overlay.png')]
    """
    paths = _files([Path(image) for image in images], Path(out))
    names = [name_of(path) for path in paths]
    twice = [str(path) for path, name in zip(paths, names, strict=True) if names.count(name) > 1]
    if twice:
        raise ValueError(f"{', '.join(twice)} have one name and would be written to one file; predict them apart")
    model, run = load_run(run_folder)
    record = run.preprocessing
    inference = Inference(model, record, tile=tile, flips=flips, scales=scales, say=say)
    written = []
    for path, name in zip(paths, names, strict=True):
        image = open_image(path, record.channels, record.value_range, record.rank)
        if probabilities:
            found = inference.probabilities(image)
            classes = best_class(found, record, 0.5)
            write_beside(Path(out) / f"{name}_probabilities.npy", partial(np.save, arr=found))
        else:
            classes = inference.labels(image)
        shown = overlay(middle(image, record), middle(classes, record), record)
        written.append(save_image(Path(out) / f"{name}_overlay.png", shown))
        if labels and classes.ndim == 2:
            save_image(Path(out) / f"{name}_labels.png", classes)
        elif labels:
            save_like(Path(out) / f"{name}_labels", path, classes)
        masks = (classes[..., i] if record.multi_label else classes == i for i in range(record.classes))
        share = np.array([np.count_nonzero(mask) / mask.size for mask in masks])
        most = ", ".join(f"{record.class_names[i]} {share[i]:.0%}" for i in share.argsort()[::-1][:3] if share[i] > 0)
        say(f"{written[-1]}: {most}")
    return written


def _files(given: Sequence[Path], out: Path) -> list[Path]:
    """The images that are meant; folders stand for what is in them."""
    if not given:
        raise ValueError("no image was given to predict")
    paths: list[Path] = []
    for path in given:
        if not path.is_dir():
            paths.append(path)
            continue
        if path.resolve() == out.resolve():
            raise ValueError(f"--out {out} is the folder of the images: the next prediction would read its overlays")
        paths += image_files(path)
    return paths
