"""Scores of label maps, all read off one confusion matrix."""

import numpy as np


def confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, classes: int, ignore_index: int | None = None
) -> np.ndarray:
    """Counts pixels by true and predicted class.

    ``C[i, j] = #{p : labels[p] = i and predictions[p] = j}`` over pixels whose label is not ``ignore_index``.

    Args:
        labels: integers of any shape.
        predictions: integers of the same shape, 0..classes-1.
        classes: how many there are.
        ignore_index: pixels with this label are not counted (it may be a class or lie outside).

    Returns:
        (classes, classes) int64, true classes down, predicted classes across. Matrices of several images add.

    Raises:
        ValueError: shapes differ, or a value is no class.

    >>> confusion_matrix(np.array([0, 0, 1, 255]), np.array([0, 1, 1, 0]), 2, ignore_index=255).tolist()
    [[1, 1], [0, 1]]
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape:
        raise ValueError(f"labels have shape {labels.shape}, predictions {predictions.shape}")
    kept = np.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index
    true, predicted = labels[kept].astype(np.int64), predictions[kept].astype(np.int64)
    for name, values in (("labels", true), ("predictions", predicted)):
        if values.size and (values.min() < 0 or values.max() >= classes):
            raise ValueError(f"{name} hold values {values.min()}..{values.max()}; classes are 0..{classes - 1}")
    return np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def per_class_iou(confusion: np.ndarray, ignore_index: int | None = None) -> np.ndarray:
    """Intersection over union of each class.

    ``IoU_i = C_ii / (sum_j C_ij + sum_j C_ji - C_ii)``

    Args:
        confusion: (classes, classes) as from `confusion_matrix`.
        ignore_index: a class that is not scored; predicting it where the label is another class still counts as a miss
            of that other class.

    Returns:
        (classes,) float64; NaN for the ignored class and for classes absent from labels and predictions both.

    >>> per_class_iou(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])).round(3).tolist()
    [0.75, 0.667, nan]

    Reference: Everingham et al., "The Pascal Visual Object Classes Challenge" (2015), section 4.1.3.
    """
    hits = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - hits
    iou = np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)
    if ignore_index is not None and 0 <= ignore_index < len(iou):
        iou[ignore_index] = np.nan
    return iou


def mean_iou(confusion: np.ndarray, ignore_index: int | None = None) -> float:
    """Mean of `per_class_iou` over the classes that have one; NaN if none has.

    >>> round(mean_iou(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])), 4)
    0.7083
    """
    return _known_mean(per_class_iou(confusion, ignore_index))


def _known_mean(scores: np.ndarray) -> float:
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else float("nan")


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Share of counted pixels whose class is predicted right; NaN without pixels."""
    return float(np.trace(confusion) / confusion.sum()) if confusion.sum() else float("nan")


class Boundaries:
    """Intersection over union of the classes' boundaries, summed over images.

    A class's boundary are its pixels that lie within ``d`` pixels (of a square neighbourhood) of one outside of it or
    of the image: ``B(M) = M - erode(M, d)``, and ``IoU_c = |B(L_c) & B(P_c)| / |B(L_c) | B(P_c)|``.

    Args:
        classes: how many there are.
        ignore_index: pixels with this label belong to no class, in labels and predictions.
        width: d as a share of an image's diagonal, rounded, at least one pixel.

    >>> boundaries = Boundaries(2)
    >>> labels = np.zeros((4, 4), int)
    >>> labels[1:3, 1:3] = 1
    >>> boundaries.add(labels, np.where(labels[::-1] == 1, 1, 0))
    >>> boundaries.mean
    1.0

    Source: Cheng et al., "Boundary IoU", arXiv:2103.16562, equation 3.
    """

    def __init__(self, classes: int, ignore_index: int | None = None, width: float = 0.02):
        self._classes, self._ignore, self._width = classes, ignore_index, width
        self.counts = np.zeros((2, classes), np.int64)  # pixels in both boundaries, and in either

    def add(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Counts an image's labels and predictions, integers of the same shape."""
        from scipy import ndimage

        kept = np.ones(labels.shape, bool) if self._ignore is None else labels != self._ignore
        side = 2 * max(1, round(self._width * float(np.linalg.norm(labels.shape)))) + 1

        def boundary(mask: np.ndarray) -> np.ndarray:
            return mask & ~ndimage.minimum_filter(mask, side, mode="constant", cval=0)

        for number in range(self._classes):
            one, other = (boundary((values == number) & kept) for values in (labels, predictions))
            self.counts[0, number] += np.count_nonzero(one & other)
            self.counts[1, number] += np.count_nonzero(one | other)

    @property
    def per_class(self) -> np.ndarray:
        """(classes,) float64; NaN for the ignored class and for classes absent from labels and predictions both."""
        both, either = self.counts
        there = either > 0
        return np.divide(both, either, out=np.full(self._classes, np.nan), where=there)

    @property
    def mean(self) -> float:
        """Mean over the classes that have one; NaN if none has."""
        return _known_mean(self.per_class)
