"""Scores of label maps, all read off one confusion matrix."""

import numpy as np

from jaxconv.train.record import Preprocessing


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


def confusion_of(labels: np.ndarray, predictions: np.ndarray, record: Preprocessing) -> np.ndarray:
    """`confusion_matrix` of the classes of a record, or that of each class's mask: (classes, 2, 2), absent and present.

    >>> record = Preprocessing(class_names=("a", "b"), multi_label=True)
    >>> confusion_of(np.array([[1, 1], [0, 1]]), np.array([[1, 0], [0, 1]]), record).tolist()
    [[[1, 0], [0, 1]], [[0, 0], [1, 1]]]
    """
    if not record.multi_label:
        return confusion_matrix(labels, predictions, record.classes, record.ignore_index)
    pairs = ((labels[..., number], predictions[..., number]) for number in range(record.classes))
    return np.stack([confusion_matrix(*pair, 2, record.ignore_index) for pair in pairs])


def per_class_iou(confusion: np.ndarray, ignore_index: int | None = None) -> np.ndarray:
    """Intersection over union of each class.

    ``IoU_i = C_ii / (sum_j C_ij + sum_j C_ji - C_ii)``

    Args:
        confusion: (classes, classes) as from `confusion_matrix`, or (classes, 2, 2) as from `confusion_of`.
        ignore_index: a class that is not scored; predicting it where the label is another class still counts as a miss
            of that other class.

    Returns:
        (classes,) float64; NaN for the ignored class and for classes absent from labels and predictions both.

    >>> per_class_iou(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])).round(3).tolist()
    [0.75, 0.667, nan]

    Reference: Everingham et al., "The Pascal Visual Object Classes Challenge" (2015), section 4.1.3.
    """
    if confusion.ndim == 3:
        hits, union = confusion[:, 1, 1].astype(np.float64), confusion.sum((1, 2)) - confusion[:, 0, 0]
    else:
        hits = np.diag(confusion).astype(np.float64)
        union = confusion.sum(0) + confusion.sum(1) - hits
    iou = np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)
    if confusion.ndim == 2 and ignore_index is not None and 0 <= ignore_index < len(iou):
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
    return float(np.trace(confusion, axis1=-2, axis2=-1).sum() / confusion.sum()) if confusion.sum() else float("nan")


class Boundaries:
    """Intersection over union of the classes' boundaries, summed over images.

    A class's boundary are its pixels that lie within ``d`` pixels (of a square neighbourhood) of one outside of it or
    of the image: ``B(M) = M - erode(M, d)``, and ``IoU_c = |B(L_c) & B(P_c)| / |B(L_c) | B(P_c)|``.

    Args:
        classes: how many there are.
        ignore_index: pixels with this label belong to no class, in labels and predictions.
        width: d as a share of an image's diagonal, rounded, at least one pixel.
        multi_label: whether labels are masks (*spatial, classes) of 0 and 1.

    >>> boundaries = Boundaries(2)
    >>> labels = np.zeros((4, 4), int)
    >>> labels[1:3, 1:3] = 1
    >>> boundaries.add(labels, np.where(labels[::-1] == 1, 1, 0))
    >>> boundaries.mean
    1.0

    Source: Cheng et al., "Boundary IoU", arXiv:2103.16562, equation 3.
    """

    def __init__(self, classes: int, ignore_index: int | None = None, width: float = 0.02, multi_label: bool = False):
        self._classes, self._ignore, self._width, self._masks = classes, ignore_index, width, multi_label
        self.counts = np.zeros((2, classes), np.int64)  # pixels in both boundaries, and in either

    def add(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Counts an image's labels and predictions, integers (*spatial), or masks (*spatial, classes)."""
        from scipy import ndimage

        size = labels.shape[:-1] if self._masks else labels.shape
        side = 2 * max(1, round(self._width * float(np.linalg.norm(size)))) + 1
        for number in range(self._classes):
            whole, value = ((..., number), 1) if self._masks else (..., number)
            there = [values[whole] == value for values in (labels, predictions)]
            if self._ignore is not None:
                there = [mask & (labels[whole] != self._ignore) for mask in there]
            one, other = (m & ~ndimage.minimum_filter(m, side, mode="constant", cval=0) for m in there)
            self.counts[:, number] += np.count_nonzero(one & other), np.count_nonzero(one | other)

    @property
    def per_class(self) -> np.ndarray:
        """(classes,) float64; NaN for the ignored class and for classes absent from labels and predictions both."""
        both, either = self.counts
        return np.divide(both, either, out=np.full(self._classes, np.nan), where=either > 0)

    @property
    def mean(self) -> float:
        """Mean over the classes that have one; NaN if none has."""
        return _known_mean(self.per_class)
