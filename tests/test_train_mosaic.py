import socket

import numpy as np
import pytest

pytest.importorskip("skimage")

from jaxconv.train import mosaic
from jaxconv.train.baseline import fit_intensity_classifier
from jaxconv.train.metrics import confusion_matrix, mean_iou

SIZE = 48


def numbered_pixels():
    """Stand-ins of the photographs whose pixel values are unique numbers over all photographs."""
    images, offset = {}, 0
    for name, photograph in mosaic.load_photographs().items():
        images[name] = np.arange(offset, offset + photograph.size).reshape(photograph.shape)
        offset += photograph.size
    return images


def test_photographs_need_no_network(monkeypatch):
    def refuse(*_):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    mosaic.load_photographs.cache_clear()
    photographs = mosaic.load_photographs()
    assert list(photographs) == list(mosaic.PHOTOGRAPHS)
    assert all(p.ndim == 2 and p.dtype == np.float32 and 0 <= p.min() < p.max() <= 256 for p in photographs.values())


def test_splits_share_no_pixel():
    """Every pixel of many mosaics is traced back to its photograph: no pixel is in two splits."""
    seen = {}
    for split in mosaic.STRIPS:
        sources = {name: mosaic.strip(image, split) for name, image in numbered_pixels().items()}
        mosaics = mosaic.Mosaics(sources, split, size=SIZE, relight=False)
        seen[split] = np.unique(np.concatenate([mosaics.mosaic(i)[0].ravel() for i in range(80)]))
        assert seen[split].size > 10_000
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        assert np.intersect1d(seen[first], seen[second]).size == 0


def test_strips_cover_each_photograph():
    for name, image in numbered_pixels().items():
        parts = np.concatenate([mosaic.strip(image, split).ravel() for split in mosaic.STRIPS])
        assert np.array_equal(np.sort(parts), image.ravel()), name


def test_labels_name_the_photograph_of_every_pixel():
    images = numbered_pixels()
    bounds = np.cumsum([image.size for image in images.values()])
    mosaics = mosaic.Mosaics(images, "train", seed=5, size=SIZE, relight=False)
    for index in range(20):
        pixels, labels = mosaics.mosaic(index)
        assert np.array_equal(labels, np.searchsorted(bounds, pixels, side="right")), f"seed 5, mosaic {index}"
        assert len(np.unique(labels)) >= 2


def test_mosaics_depend_on_seed_split_and_index_only():
    a = mosaic.Mosaics.of_photographs("test", seed=1, size=SIZE)
    b = mosaic.Mosaics.of_photographs("test", seed=2, size=SIZE)
    images, labels = a.batch(3, 2)
    again, _ = mosaic.Mosaics.of_photographs("test", seed=1, size=SIZE).batch(4, 1)
    assert np.array_equal(images[1], again[0])
    assert not np.array_equal(images[0], images[1]) and not np.array_equal(images, b.batch(3, 2)[0])
    assert images.dtype == np.uint8 and labels.max() < len(mosaic.PHOTOGRAPHS)


def test_all_classes_are_about_equally_common():
    _, labels = mosaic.Mosaics.of_photographs("train", size=SIZE).batch(0, 100)
    share = np.bincount(labels.ravel(), minlength=len(mosaic.PHOTOGRAPHS)) / labels.size
    assert share.min() > 0.6 / len(share) and share.max() < 1.5 / len(share)


def test_single_intensities_say_little():
    """Otherwise the task would be trivial: the best classifier of intensities stays below an mIoU of 0.3."""
    classes = len(mosaic.PHOTOGRAPHS)
    train = mosaic.Mosaics.of_photographs("train", size=SIZE).batch(0, 200)
    images, labels = mosaic.Mosaics.of_photographs("test", size=SIZE).batch(0, 50)
    predicted = np.stack(fit_intensity_classifier(*train, classes)(list(images)))
    assert 0.02 < mean_iou(confusion_matrix(labels, predicted, classes)) < 0.3


def test_errors_name_the_values():
    with pytest.raises(ValueError, match="no split is called 'dev'; the mosaics have train, val, test"):
        mosaic.Mosaics.of_photographs("dev")
    with pytest.raises(ValueError, match=r"text: the test strip is \(172, 112\), smaller than mosaics of 120"):
        mosaic.Mosaics.of_photographs("test", size=120)
