"""Volumes, and label maps with a mask for each class: read, trained on, scored and predicted."""

import struct

import jax
import numpy as np
import pytest

pytest.importorskip("orbax.checkpoint")
pytest.importorskip("rich")
pytest.importorskip("tifffile")
import tifffile
from PIL import Image

from jaxconv.train import evaluate, export, folder, picture, predict, train
from jaxconv.train.baseline import fit_intensity_classifier
from jaxconv.train.config import TrainConfig
from jaxconv.train.data import load_data, source_data
from jaxconv.train.devices import Devices
from jaxconv.train.inference import Inference
from jaxconv.train.metrics import Boundaries, confusion_of, mean_iou, per_class_iou, pixel_accuracy
from jaxconv.train.reading import read_image, read_labels
from jaxconv.train.record import Preprocessing
from jaxconv.train.runfolder import load_run
from jaxconv.train.segmentation import Segmentation
from jaxconv.train.survey import survey

RNG = np.random.default_rng(0)
MASKS = RNG.integers(0, 2, (9, 7, 2)).astype(np.uint8)
VOLUME = RNG.integers(0, 256, (5, 9, 7)).astype(np.uint8)


def save(path, array):
    """Writes an array as the suffix says; its last axis is that of a TIFF's pages or bands."""
    name = path.name
    if name.endswith(".npy"):
        np.save(path, array)
    elif name.endswith(".npz"):
        np.savez(path, array)
    elif "pages" in name:
        tifffile.imwrite(path, np.moveaxis(array, -1, 0), photometric="minisblack")
    elif "planes" in name:
        tifffile.imwrite(path, np.moveaxis(array, -1, 0), photometric="minisblack", planarconfig="separate")
    else:
        tifffile.imwrite(path, array, photometric="minisblack", planarconfig="contig")
    return path


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "pages.tif", "planes.tif", "bands.tif"])
def test_a_mask_for_each_class_is_read_alike_from_all_files(tmp_path, name):
    assert np.array_equal(read_labels(save(tmp_path / name, MASKS * 255)), MASKS * 255)
    record = Preprocessing(class_names=("a", "b"), channels=1, multi_label=True)
    Image.fromarray(VOLUME[0]).save(tmp_path / "image.png")
    image, labels = folder.read_pair(tmp_path / "image.png", tmp_path / name, record)
    assert image.shape == (9, 7, 1) and np.array_equal(labels, MASKS)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.tif", "a.nii.gz"])
def test_volumes_are_read_alike_from_all_files(tmp_path, name):
    path = tmp_path / name
    if "nii" in name:
        nibabel = pytest.importorskip("nibabel")
        nibabel.save(nibabel.Nifti1Image(VOLUME, np.eye(4)), path)
        # The same brain, stored from left to right and from head to foot with the axes exchanged.
        affine = np.array([[0.0, 0, -1, 4], [0, -1, 0, 8], [1, 0, 0, 0], [0, 0, 0, 1]])
        nibabel.save(nibabel.Nifti1Image(VOLUME[::-1, ::-1].transpose(2, 1, 0), affine), tmp_path / "turned.nii")
        assert np.array_equal(read_labels(tmp_path / "turned.nii", rank=3), VOLUME)
    else:
        tifffile.imwrite(path, VOLUME, photometric="minisblack") if "tif" in name else save(path, VOLUME)
    assert np.array_equal(read_image(path, 1, rank=3)[..., 0], VOLUME)
    assert np.array_equal(read_image(path, 1, (0, 510), rank=3)[..., 0], VOLUME / np.float32(2))
    assert np.array_equal(read_labels(path, rank=3), VOLUME)


def test_headers_of_nifti_that_are_wrong_are_refused_or_read_right(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(VOLUME, np.eye(4)), tmp_path / "good.nii")
    good = (tmp_path / "good.nii").read_bytes()

    def read(name, content, read=read_labels, **options):
        (tmp_path / name).write_bytes(content)
        return read(tmp_path / name, rank=3, **options)

    def edited(place, kind, *values):
        content = bytearray(good)
        struct.pack_into(kind, content, place, *values)
        return bytes(content)

    refused = {
        "voxels in the header": edited(108, "<f", 0.0),
        "voxels beyond the end": edited(108, "<f", 1e9),
        "voxels nowhere": edited(108, "<f", np.nan),
        "slope with an intercept that is no number": edited(112, "<ff", 1.0, np.nan),
        "values beyond 64 bits": edited(112, "<ff", 1e38, 0.0),
        "no axis": edited(40, "<h", 0),
        "a negative axis": edited(42, "<h", -5),
        "colours": edited(70, "<hh", 128, 24) + bytes(2 * VOLUME.size),
        "complex": edited(70, "<hh", 32, 64) + bytes(7 * VOLUME.size),
        "an unknown type": edited(70, "<h", 9999),
        "no place in space": edited(280, "<f", np.nan),
        "truncated header": good[:200],
        "truncated": good[:-1],
        "empty": b"",
    }
    for content in refused.values():
        with pytest.raises(ValueError, match="bad.nii"):
            read("bad.nii", content)
    for content in (good, edited(68, "<h", 1002), edited(112, "<f", 0.0), edited(40, "<hhhhh", 4, 5, 9, 7, 1)):
        assert np.array_equal(read("a.nii", content), VOLUME)
    assert np.array_equal(read("a.nii", edited(112, "<ff", 2.0, 1.0)), 2 * VOLUME.astype(int) + 1)
    header = nibabel.Nifti1Header(endianness=">")
    nibabel.save(nibabel.Nifti1Image(VOLUME.astype(np.int16) * 100, np.eye(4), header), tmp_path / "big.nii")
    big = (tmp_path / "big.nii").read_bytes()
    assert np.array_equal(read("a.nii", big), VOLUME.astype(int) * 100)
    assert np.array_equal(read("a.nii", big, read_image, channels=1, value_range=(0, 25500))[..., 0], VOLUME)
    noise = np.random.default_rng(0).integers(0, 256, (20, 50, 20)).astype(np.uint8)  # what gzip stores as it is
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), tmp_path / "a.nii.gz")
    packed = bytearray((tmp_path / "a.nii.gz").read_bytes())
    packed[len(packed) // 2] ^= 1
    with pytest.raises(ValueError, match="bad.nii.gz cannot be read: CRC check failed"):
        read("bad.nii.gz", packed)


def pair(root, image, labels, split="train", name="0"):
    for part, array in ((split, image), (f"{split}annot", labels)):
        (root / part).mkdir(exist_ok=True, parents=True)
        save(root / part / f"{name}.npy", array)


@pytest.mark.parametrize(
    ("image", "labels", "changes", "refused"),
    [
        (VOLUME, VOLUME % 2, {"channels": 1}, r"0.npy is uint8 of shape.*needed are \(height, width, 1\)"),
        (np.stack([VOLUME] * 2, -1), VOLUME % 2, {"channels": 2}, r"0.npy is uint8.*--set crop=\(DEPTH,HEIGHT,WIDTH\)"),
        (VOLUME, VOLUME[:4] % 2, {"crop": (4, 4, 4)}, r"0.npy is \(4, 9, 7\), its image .*0.npy \(5, 9, 7\)"),
        (VOLUME[0], MASKS * 3, {}, r"0.npy: label 3 out of range.*first at \(\d, \d, \d\); legal are 0..1"),
        (VOLUME[0], MASKS * 0, {}, "every pixel that is not ignored has the label 0"),
        (VOLUME[0], MASKS, {"labels": {1: "a", 2: "b"}}, "0.npy holds 2 masks: name them, as --labels 0:NAME0,1:"),
        (VOLUME.astype(np.int16), VOLUME % 2, {"crop": (4, 4, 4)}, r"0.npy holds values .*--set value_range=\(1,255\)"),
        (VOLUME[0], MASKS[..., 0], {}, "1.npy holds 2 masks; needed are one class a pixel, as in the first"),
    ],
)
def test_what_does_not_fit_is_refused_by_file_and_flag(tmp_path, image, labels, changes, refused):
    pair(tmp_path, image, labels)
    pair(tmp_path, VOLUME[0], MASKS, "val")
    if "1.npy" in refused:
        pair(tmp_path, VOLUME[0], MASKS, name="1")
    found = survey(TrainConfig(data=str(tmp_path), **changes))
    with pytest.raises(AssertionError if not found.faults else ValueError, match=refused):
        raise ValueError("\n".join(found.faults).replace("\n", " "))


def test_masks_are_named_counted_and_need_a_loss_that_takes_them(tmp_path):
    for split in ("train", "val"):
        pair(tmp_path, VOLUME[0], MASKS * np.uint8(255), split)
    config = TrainConfig(data=str(tmp_path), labels={0: "a", 1: "b"}, channels=1, crop=(4, 4), class_weighting="enet")
    found = survey(config)
    assert not found.faults and found.record.class_names == ("a", "b") and found.record.multi_label
    assert found.splits[0].labels == {0: MASKS[..., 0].sum(), 1: MASKS[..., 1].sum()} and found.splits[0].pixels == 63
    with pytest.raises(ValueError, match="cross_entropy takes one class: --loss sigmoid, dice or lovasz"):
        Segmentation(config, load_data(config), Devices.of("data=1", 12, 4))


def test_scores_of_masks_are_those_of_each_class():
    record = Preprocessing(class_names=("a", "b"), multi_label=True, ignore_index=7)
    labels, predictions = MASKS.copy().astype(int), RNG.integers(0, 2, MASKS.shape)
    labels[0] = 7
    confusion = confusion_of(labels, predictions, record)
    for number in range(2):
        one, other = labels[1:, :, number] == 1, predictions[1:, :, number] == 1
        assert per_class_iou(confusion, 7)[number] == (one & other).sum() / (one | other).sum()
    assert pixel_accuracy(confusion) == (labels[1:] == predictions[1:]).mean()
    boundaries, alone = Boundaries(2, 7, multi_label=True), Boundaries(2, 7)
    boundaries.add(labels, predictions)
    alone.add(labels[..., 1], predictions[..., 1])
    assert boundaries.per_class[1] == alone.per_class[1]
    images = VOLUME[0][None, ..., None]
    by_intensity = fit_intensity_classifier(images, labels[None], 2, 7)(list(images))[0]
    second = fit_intensity_classifier(images, labels[None, ..., 1], 2, 7)(list(images))[0]
    assert np.array_equal(by_intensity[..., 1], second)


def test_colours_of_masks_are_means():
    record = Preprocessing(class_names=("a", "b"), palette=((100, 0, 0), (0, 50, 0)), multi_label=True)
    labels = np.array([[[1, 0], [1, 1], [0, 0]]])
    assert picture.colour(labels, record).tolist() == [[[100, 0, 0], [50, 25, 0], [0, 0, 0]]]


def test_values_beyond_black_and_white_have_an_intensity():
    images = np.array([[[[-40.0], [900.0]]]], np.float32)
    assert fit_intensity_classifier(images, np.array([[[1, 0]]]), 2)(list(images))[0].tolist() == [[1, 0]]


def test_a_source_has_crops_of_its_rank():
    with pytest.raises(ValueError, match=r"crop=\(4, 4\) is of examples with 3 axes"):
        source_data([None], [None], Preprocessing(class_names=("a", "b"), rank=3), (4, 4))


def test_volumes_with_masks_are_trained_on_scored_predicted_and_exported(tmp_path):
    """From files to files, in three dimensions and with two classes a voxel."""
    rng = np.random.default_rng(1)
    for split, size in (("train", (9, 8, 10)), ("val", (6, 8, 7))):
        masks = rng.integers(0, 2, (*size, 2)).astype(np.uint8)
        pair(tmp_path, (masks[..., 0] * 150 + masks[..., 1] * 50).astype(np.uint16) * 200, masks, split)
    config = TrainConfig(
        data=str(tmp_path), channels=1, crop=(4, 8, 4), model_kwargs={"widths": [3]}, loss="sigmoid+dice", steps=12,
        batch_size=2, learning_rate=0.05, warmup_steps=1, eval_every=12, augment="hflip+vflip",
    )  # fmt: skip
    results = train(config, tmp_path / "run", mesh="data=1")
    assert results["miou"] > 0.5 and results["intensity_miou"] == 1  # each value tells both classes
    lines = []
    confusion = evaluate(tmp_path / "run", say=lines.append)
    assert mean_iou(confusion) == results["miou"] and lines[-1] == f"mIoU {results['miou']:.4f}"
    image = tmp_path / "val" / "0.npy"
    predict(tmp_path / "run", [image], tmp_path / "out", labels=True, probabilities=True, say=lambda line: None)
    labels, found = (np.load(tmp_path / "out" / f"0_{what}.npy") for what in ("labels", "probabilities"))
    assert labels.shape == (6, 8, 7, 2) and np.array_equal(labels, found > 0.5)
    with Image.open(tmp_path / "out" / "0_overlay.png") as overlay:
        assert overlay.size == (7, 8)
    truth = np.load(tmp_path / "valannot" / "0.npy")
    assert np.array_equal(confusion[:, 1, 1], ((labels == 1) & (truth == 1)).sum((0, 1, 2)))
    model, run = load_run(tmp_path / "run")
    pixels = read_image(image, 1, rank=3)
    by_hand = jax.nn.sigmoid(model(run.preprocessing.normalise(pixels)[None]))[0]
    np.testing.assert_allclose(found, by_hand, atol=1e-5)
    tiles = Inference(model, run.preprocessing, tile=4)
    np.testing.assert_allclose(tiles.probabilities(pixels), found, atol=1e-5)
    assert export(tmp_path / "run", tmp_path / "exported", platforms=("cpu",)).is_file()
