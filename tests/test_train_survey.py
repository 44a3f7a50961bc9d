"""Forty hostile folders: each is refused by file and flag, or handled and said; none passes in silence."""

import json
import re

import numpy as np
import pytest

pytest.importorskip("flax")
pytest.importorskip("rich")
pytest.importorskip("skimage")
import tifffile
from PIL import Image

from jaxconv.cli import main
from jaxconv.train import Preprocessing, TrainConfig, folder
from jaxconv.train.config import parse_labels
from jaxconv.train.crops import Crops, Kept
from jaxconv.train.data import source_data
from jaxconv.train.metrics import confusion_matrix
from jaxconv.train.segment import score, segmenter
from jaxconv.train.survey import look, survey

SIZE = (6, 8)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (4, *SIZE, 3)).astype(np.uint8)
MASK = np.resize(np.array([0, 1, 2], np.uint8), SIZE)
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
NAMED = "0/0/0:ground,255/0/0:car,0/0/255:tree"


@pytest.fixture
def root(tmp_path):
    """Two training and two validation pairs of three classes."""
    for place, split in enumerate(("train", "val")):
        for part in (split, f"{split}annot"):
            (tmp_path / part).mkdir()
        for number in range(2):
            Image.fromarray(PIXELS[2 * place + number]).save(tmp_path / split / f"{number}.png")
            Image.fromarray(MASK).save(tmp_path / f"{split}annot" / f"{number}.png")
    return tmp_path


def masks(root, values, **options):
    for path in root.glob("*annot/*.png"):
        Image.fromarray(np.asarray(values)).save(path, **options)


def images(root, pixels, suffix="png", **options):
    for path in [*root.glob("train/*.png"), *root.glob("val/*.png")]:
        path.unlink()
        there = path.with_suffix(f".{suffix}")
        if suffix == "npy":
            np.save(there, pixels)
        elif suffix == "tif" and pixels.ndim == 3:
            tifffile.imwrite(there, pixels, **{"photometric": "minisblack", "planarconfig": "contig", **options})
        else:
            Image.fromarray(pixels).save(there, **options)


def palette(root):
    picture = Image.fromarray(MASK).convert("P")
    picture.putdata(MASK.ravel().tolist())
    picture.putpalette(COLOURS.ravel().tolist())
    masks(root, MASK)
    for path in root.glob("*annot/*.png"):
        picture.save(path)


def turned(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(2):
        Image.fromarray(np.rot90(PIXELS[number])).save(root / "train" / f"{number}.png", exif=exif)


def pages(root):
    for path in root.glob("trainannot/*.png"):
        path.unlink()
        first, second = Image.fromarray(MASK), Image.fromarray(MASK)
        first.save(path.with_suffix(".tif"), save_all=True, append_images=[second])


def gray_alpha(root, opacity):
    masks(root, np.stack([MASK, np.full(SIZE, opacity, np.uint8)], -1))


RAMP = np.linspace(0, 65535, 48).astype(np.uint16).reshape(SIZE)
FIVE = RNG.integers(0, 65536, (*SIZE, 5)).astype(np.uint16)

# name: (what is done to the folder, changes of the config, what is refused or None, what is said or None)
CASES = {
    "0/255 masks": (lambda r: masks(r, (MASK > 0) * np.uint8(255)), {}, "--labels 0:NAME0,255:NAME1", None),
    "gaps": (lambda r: masks(r, MASK * np.uint8(40)), {}, "--labels 0:NAME0,40:NAME1,80:NAME2", None),
    "named gaps": (lambda r: masks(r, MASK * np.uint8(40)), {"labels": "0:a,40:b,80:c"}, None, None),
    "one unnamed": (lambda r: masks(r, MASK), {"labels": "0:a,1:b"}, "label 2 is not among 0, 1", None),
    "one named ignored": (lambda r: masks(r, MASK), {"labels": "0:a,1:b,2:-"}, None, None),
    "colour masks": (lambda r: masks(r, COLOURS[MASK]), {}, "0.png has mode RGB.*--labels 0/0/0:NAME0,0/0/255", None),
    "named colours": (lambda r: masks(r, COLOURS[MASK]), {"labels": NAMED}, None, None),
    "unnamed colour": (lambda r: masks(r, COLOURS[MASK] + np.uint8(1)), {"labels": NAMED}, "label 0/1/1, 1/1/0", None),
    "colours of classes.txt": (
        lambda r: (masks(r, COLOURS[MASK]), (r / "classes.txt").write_text("g 0 0 0\nc 255 0 0\nt 0 0 255\n")),
        {}, None, None,
    ),
    "palette masks": (palette, {}, None, None),
    "palette by colour": (palette, {"labels": NAMED}, None, None),
    "opaque gray and alpha": (lambda r: gray_alpha(r, 255), {}, None, None),
    "transparent mask": (lambda r: gray_alpha(r, 9), {}, "partly transparent", None),
    "JPEG mask": (lambda r: masks(r, MASK, format="JPEG"), {}, "is a JPEG, which changes values", None),
    "float mask": (
        lambda r: [np.save(p.with_suffix(".npy"), MASK / 2) or p.unlink() for p in r.glob("*annot/*.png")],
        {}, "float64 of shape", None,
    ),
    "npy mask": (
        lambda r: [np.save(p.with_suffix(".npy"), MASK) or p.unlink() for p in r.glob("*annot/*.png")], {}, None, None
    ),
    "two masks": (lambda r: np.save(r / "trainannot" / "0.npy", MASK), {}, "two label maps, 0.png and", None),
    "two images": (lambda r: Image.fromarray(PIXELS[0]).save(r / "train" / "0.jpg"), {}, "share the label map", None),
    "mask missing": (lambda r: (r / "valannot" / "1.png").unlink(), {}, "1.png is missing", None),
    "image missing": (lambda r: (r / "val" / "1.png").unlink(), {}, None, "1 label maps have no image, 1.png"),
    "mask pages": (pages, {}, "0.tif: label 2 out of range", None),
    "misfit": (lambda r: Image.fromarray(PIXELS[0, :4]).save(r / "train" / "0.png"), {}, r"\(6, 8\).*\(4, 8\)", None),
    "turned": (turned, {}, None, "train: 2 images are turned as their EXIF"),
    "truncated": (
        lambda r: (r / "train" / "1.png").write_bytes((r / "train" / "1.png").read_bytes()[:60]),
        {}, "1.png cannot be read", None,
    ),
    "empty file": (lambda r: (r / "train" / "1.png").write_bytes(b""), {}, "1.png cannot be read", None),
    "text for a mask": (lambda r: (r / "valannot" / "1.png").write_text("no"), {}, "1.png cannot be read", None),
    "leak": (lambda r: Image.fromarray(PIXELS[0]).save(r / "val" / "0.png"), {}, None, "1 images of train are also in"),
    "leak by other file": (
        lambda r: (Image.fromarray(PIXELS[0]).save(r / "val" / "0.bmp"), (r / "val" / "0.png").unlink()),
        {}, None, "0.png is 0.bmp",
    ),
    "16 bits": (lambda r: images(r, RAMP, "tif"), {}, None, None),
    "16-bit colour PNG kinds": (
        lambda r: Image.fromarray(PIXELS[0]).convert("L").save(r / "train" / "0.png"), {}, None, "several kinds",
    ),
    "five bands unsaid": (lambda r: images(r, FIVE, "tif"), {}, "--set channels=5", None),
    "five bands": (lambda r: images(r, FIVE, "tif"), {"channels": 5}, None, None),
    "planar bands": (
        lambda r: images(r, np.moveaxis(FIVE, -1, 0), "tif", planarconfig="separate"), {"channels": 5}, None, None
    ),
    "too few bands": (lambda r: None, {"channels": 5}, r"0.png has 3 bands, not 5", None),
    "float bands": (lambda r: images(r, FIVE / np.float32(65535), "npy"), {"channels": 5}, None, None),
    "counts": (lambda r: images(r, FIVE.astype(np.float32), "npy"), {"channels": 5}, "value_range", None),
    "named counts": (
        lambda r: images(r, FIVE.astype(np.float32), "npy"), {"channels": 5, "value_range": (0, 65535)}, None, None
    ),
    "NaN": (lambda r: images(r, np.full(SIZE, np.nan, np.float32), "tif"), {}, "not finite", None),
    "all ignored": (lambda r: masks(r, MASK * 0 + np.uint8(9)), {"ignore_index": 9}, "ignored label 9", None),
    "one class": (lambda r: masks(r, MASK * 0), {}, "nothing can be learned", None),
    "class without pixels": (
        lambda r: (r / "classes.txt").write_text("a\nb\nc\nd\n"), {}, None, "train: no pixel of d",
    ),
    "hardly labelled": (
        lambda r: masks(r, np.where(np.arange(48).reshape(SIZE) > 8, 9, MASK).astype(np.uint8)),
        {"ignore_index": 9}, None, "81% of the pixels are not labelled",
    ),
    "transparent images": (
        lambda r: images(r, np.concatenate([PIXELS[0], PIXELS[0][..., :1]], -1)), {}, None, "transparency",
    ),
    "no val": (lambda r: (r / "val").rename(r / "valid"), {}, "val does not exist; the layout is", None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hostile_folders_are_refused_or_handled(root, name):
    harm, changes, refused, said = CASES[name]
    harm(root)
    if "labels" in changes:
        changes = changes | {"labels": parse_labels(changes["labels"])}
    config = TrainConfig(data=str(root), **changes)
    found = survey(config)
    json.dumps(found.to_dict())
    if refused is not None:
        assert re.search(refused, "\n".join(found.faults)), found.faults
        return
    assert not found.faults and found.record is not None
    assert said is None or any(re.search(said, note) for note in found.notes), found.notes
    for split in ("train", "val"):
        for image, labels in [folder.read_pair(*pair, found.record) for pair in folder.find_pairs(root, split)]:
            assert image.shape == (*SIZE, found.record.channels) and np.isfinite(image).all()
            if name in ("named gaps", "named colours", "colours of classes.txt", "palette masks", "palette by colour"):
                assert np.array_equal(labels, MASK)
            if name in ("five bands", "planar bands", "float bands", "named counts"):
                np.testing.assert_allclose(image, FIVE * (255 / 65535), atol=1e-3)


def test_the_start_of_a_training_says_what_it_found(root):
    said = []
    (root / "val" / "0.png").write_bytes((root / "train" / "0.png").read_bytes())
    look(TrainConfig(data=str(root)), said.append)
    assert said[0] == "train: 2 images, 6x8, 8-bit RGB"
    assert said[2] == "note: 1 images of train are also in val (0.png is 0.png)"
    Image.fromarray(PIXELS[0, :4]).save(root / "train" / "0.png")
    with pytest.raises(ValueError, match=r"trainannot.0.png is \(6, 8\), its image"):
        look(TrainConfig(data=str(root)), said.append)


def test_the_command_prints_json_and_draws_samples(root, capsys):
    assert main(["data", str(root), "--json", "--picture", str(root / "samples.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["splits"]["train"]["labels"] == {"0": 32, "1": 32, "2": 32} and not found["faults"]
    with Image.open(root / "samples.png") as picture:
        assert picture.width > 400
    masks(root, COLOURS[MASK])
    assert main(["data", str(root)]) == 1
    printed = capsys.readouterr()
    assert "--labels 0/0/0:NAME0" in printed.out and "would be refused" in printed.err
    assert main(["data", str(root), "--labels", NAMED]) == 0
    assert "car" in capsys.readouterr().out


def test_colour_labels_and_numbers_are_not_mixed():
    for bad in ("1:a,0/0/1:b", "0/0/256:a", "0/0:a", "0:-,1:-", f"{1 << 24}:a"):
        with pytest.raises(ValueError, match="--labels"):
            parse_labels(bad)


# ---------------------------------------------------------------------- sources of one's own, and what is kept
def pairs():
    return [(pixels, MASK.astype(np.int64)) for pixels in PIXELS]


def test_a_source_of_ones_own_gives_what_a_folder_gives(root):
    record = Preprocessing(class_names=("a", "b", "c"))
    theirs = folder.folder_crops(folder.find_pairs(root, "train"), record, (4, 4), 3)
    ours = source_data(pairs()[:2], pairs()[2:], record, (4, 4), seed=3)
    for start in (0, 5):
        for one, other in zip(ours.train.batch(start, 3), theirs.batch(start, 3), strict=True):
            assert one.dtype == other.dtype and np.array_equal(one, other)
    assert ours.scored == "val" and ours.sizes == (SIZE,) and sum(1 for _ in ours.val()) == 2
    with pytest.raises(ValueError, match="the source val is empty"):
        source_data(pairs(), [], record, (4, 4))


@pytest.mark.parametrize(
    "pair,message",
    [
        ((PIXELS[0], MASK[:3]), r"val\[0\] is an image \(6, 8, 3\) with labels \(3, 8\)"),
        ((PIXELS[0].astype(float), MASK), r"val\[0\] is float64"),
        ((PIXELS[0], MASK + 7), r"val\[0\]: label 7, 8, 9 out of range"),
        ((np.full((*SIZE, 3), np.nan, np.float32), MASK), "not finite"),
    ],
)
def test_examples_of_a_source_are_checked(pair, message):
    with pytest.raises(ValueError, match=message):
        source_data(pairs(), [pair], Preprocessing(class_names=("a", "b", "c")), (4, 4))


def test_images_are_read_once_as_far_as_memory_goes():
    count = []

    def read(number):
        count.append(number)
        return PIXELS[number], MASK.astype(np.int32)

    record = Preprocessing(class_names=("a", "b", "c"))
    crops = Crops(list("abcd"), read, record, (4, 4), 0, Kept(2 * (PIXELS[0].nbytes + MASK.nbytes)))
    free = Crops(list("abcd"), read, record, (4, 4), 0, Kept(0))
    for start in range(0, 16, 4):
        for one, other in zip(crops.batch(start, 4), free.batch(start, 4), strict=True):
            assert np.array_equal(one, other)
    assert len(count) == 16 + 4 + 3 * 2


def test_many_sizes_share_few_programs_and_score_the_same(root):
    sizes = [(9 + number, 30 - number) for number in range(6)]
    rng = np.random.default_rng(1)
    pairs = [(rng.integers(0, 256, (*size, 1)).astype(np.uint8), rng.integers(0, 2, size)) for size in 2 * sizes]
    found = []
    for multiple in (1, 32):
        shapes = []

        def forward(_, images, shapes=shapes):
            shapes.append(images.shape)
            return (images[..., 0] > 99).astype(np.uint8)

        record = Preprocessing(class_names=("a", "b"), channels=1, size_multiple=multiple)
        found.append(score(segmenter(forward, (), record, 4), pairs, record, 4))
        assert len(set(shapes)) == {1: 6, 32: 1}[multiple] and len(shapes) == {1: 6, 32: 3}[multiple]
    by_hand = sum(confusion_matrix(labels, image[..., 0] > 99, 2) for image, labels in pairs)
    assert np.array_equal(found[0], by_hand) and np.array_equal(found[1], by_hand)

    for number, size in enumerate(sizes):
        Image.fromarray(np.resize(PIXELS, (*size, 3))).save(root / "val" / f"{number}.png")
        Image.fromarray(np.resize(MASK, size)).save(root / "valannot" / f"{number}.png")
    config = TrainConfig(data=str(root))
    assert any("6 sizes, each compiled; --set size_multiple=16" in n for n in survey(config).notes)
    assert not any("sizes" in note for note in survey(config.override(size_multiple=32)).notes)
