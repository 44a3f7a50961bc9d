"""The judge that a network must beat: the best classifier that sees one pixel's intensity only."""

from collections.abc import Callable

import numpy as np


def _intensity(images: np.ndarray) -> np.ndarray:
    return np.clip(images.astype(np.float32).mean(-1), 0, 255).astype(np.int64)


def fit_intensity_classifier(
    images: np.ndarray, labels: np.ndarray, classes: int, ignore_index: int | None = None, bins: int = 64
) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """Fits ``argmax_c P(c | intensity)`` by counting: no classifier of single intensities has higher accuracy.

    Args:
        images: (n, *spatial, channels) of 0..255; the intensity is the mean over channels.
        labels: (n, *spatial) integers, or a mask of 0 and 1 for each class (n, *spatial, classes).
        classes: how many there are.
        ignore_index: pixels with this label are not counted.
        bins: of the intensity, over 0..255.

    Returns:
        A function of a list of images (*spatial, channels) to a list of label maps, or of masks.

    >>> image = np.array([[[0], [250]]], np.uint8)
    >>> classify = fit_intensity_classifier(image[None], np.array([[[1, 0]]]), 2)
    >>> classify([image])[0].tolist()
    [[1, 0]]
    """
    if labels.ndim == images.ndim:
        each = [fit_intensity_classifier(images, labels[..., c], 2, ignore_index, bins) for c in range(classes)]
        return lambda batch: [np.stack(masks, -1) for masks in zip(*(classify(batch) for classify in each))]
    kept = np.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index
    place = _intensity(images)[kept] * bins // 256
    counts = np.bincount(place * classes + labels[kept], minlength=bins * classes).reshape(bins, classes)
    commonest = counts.sum(0) / max(1, int(counts.sum()))  # the class of an unseen intensity
    best = (counts + commonest).argmax(1)
    return lambda batch: [best[_intensity(image) * bins // 256] for image in batch]
