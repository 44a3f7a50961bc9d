import numpy as np
import pytest

pytest.importorskip("optax")

from jaxconv.train.baseline import fit_intensity_classifier
from jaxconv.train.losses import cross_entropy, enet_class_weights
from jaxconv.train.metrics import confusion_matrix, mean_iou, per_class_iou, pixel_accuracy


def test_confusion_matrix_by_hand():
    labels = np.array([[0, 0, 1], [1, 2, 255]])
    predictions = np.array([[0, 1, 1], [1, 0, 2]])
    expected = [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    confusion = confusion_matrix(labels, predictions, 3, ignore_index=255)
    assert confusion.tolist() == expected
    assert per_class_iou(confusion).tolist() == [1 / 3, 2 / 3, 0.0]
    assert mean_iou(confusion) == pytest.approx(1 / 3)
    assert pixel_accuracy(confusion) == pytest.approx(3 / 5)


def test_mean_iou_against_sets_of_pixels():
    """The definition with sets: |A and B| / |A or B| over the pixels that count."""
    seed, classes, void = 4, 6, 5
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(0, classes, (2, 40, 30))
    labels[labels == 3], predictions[predictions == 3] = 2, 2  # class 3 is absent from both
    predictions[predictions == 4] = 0  # class 4 is never predicted: it scores 0
    kept = {tuple(p) for p in np.argwhere(labels != void)}
    ious = []
    for c in (0, 1, 2, 4):
        truth = {tuple(p) for p in np.argwhere(labels == c)}
        found = {tuple(p) for p in np.argwhere(predictions == c)} & kept
        ious.append(len(truth & found) / len(truth | found))
    confusion = confusion_matrix(labels, predictions, classes, void)
    assert mean_iou(confusion, void) == pytest.approx(np.mean(ious), abs=1e-12), f"seed {seed}"
    assert np.isnan(per_class_iou(confusion, void)[[3, 5]]).all()
    assert ious[-1] == 0.0


def test_confusion_matrices_add_up():
    labels, predictions = np.random.default_rng(0).integers(0, 4, (2, 8, 5, 5))
    parts = sum(confusion_matrix(a, b, 4) for a, b in zip(labels, predictions, strict=True))
    assert (parts == confusion_matrix(labels, predictions, 4)).all()


def test_nothing_to_score_is_nan():
    confusion = confusion_matrix(np.full((2, 2), 9), np.zeros((2, 2), int), 3, ignore_index=9)
    assert confusion.sum() == 0 and np.isnan(mean_iou(confusion)) and np.isnan(pixel_accuracy(confusion))


def test_confusion_matrix_names_bad_values():
    with pytest.raises(ValueError, match=r"labels hold values 0..7; classes are 0..2"):
        confusion_matrix(np.array([0, 7]), np.array([0, 1]), 3)
    with pytest.raises(ValueError, match=r"labels have shape \(2,\), predictions \(3,\)"):
        confusion_matrix(np.zeros(2, int), np.zeros(3, int), 3)


def test_cross_entropy_against_the_definition():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(3, 4, 5)) * 3
    labels = rng.integers(0, 5, (3, 4))
    labels[0, 0], labels[1, 2] = 77, 77
    weights = rng.uniform(0.5, 2, 5)
    total = norm = 0.0
    for z, y in zip(logits.reshape(-1, 5), labels.ravel(), strict=True):
        if y != 77:
            total += weights[y] * (np.log(np.exp(z).sum()) - z[y])
            norm += weights[y]
    value = cross_entropy(logits.astype(np.float32), labels, ignore_index=77, class_weights=weights)
    assert float(value) == pytest.approx(total / norm, rel=1e-5)


def test_cross_entropy_of_no_pixels_is_zero():
    assert float(cross_entropy(np.zeros((2, 3), np.float32), np.full(2, 9), ignore_index=9)) == 0.0


def test_enet_weights_grow_with_rarity():
    weights = enet_class_weights(np.array([1000, 100, 0]))
    assert weights[0] < weights[1] < weights[2] == pytest.approx(1 / np.log(1.02), rel=1e-6)


def test_intensity_classifier_is_bayes_on_its_own_data():
    """With one bin for each value no rule of single intensities classifies more training pixels right."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 8, (6, 9, 9, 1)).astype(np.uint8) * 32
    labels = rng.integers(0, 3, (6, 9, 9))
    classify = fit_intensity_classifier(images, labels, 3, bins=256)
    hits = sum((p == y).sum() for p, y in zip(classify(list(images)), labels, strict=True))
    best = sum(np.bincount(labels[images[..., 0] == value], minlength=3).max() for value in range(0, 256, 32))
    assert hits == best


def test_intensity_classifier_ignores_unlabelled_pixels():
    images = np.full((1, 2, 2, 3), 100, np.uint8)
    labels = np.array([[[1, 255], [255, 255]]])
    classify = fit_intensity_classifier(images, labels, 2, ignore_index=255)
    assert (classify(list(images))[0] == 1).all()
