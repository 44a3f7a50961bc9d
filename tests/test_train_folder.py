import numpy as np
import pytest

pytest.importorskip("PIL")
from PIL import Image

from jaxconv.train import TrainConfig, folder, reading
from jaxconv.train.data import source_data
from jaxconv.train.picture import colour, comparison, overlay
from jaxconv.train.record import Preprocessing, default_palette

RECORD = Preprocessing(class_names=("sky", "road", "car"), ignore_index=255)


@pytest.fixture
def images(tmp_path):
    """Three labelled images of different sizes."""
    rng = np.random.default_rng(0)
    for name, size in (("a", (20, 30)), ("b", (16, 16)), ("c", (33, 17))):
        for part, pixels in (
            ("train", rng.integers(0, 256, (*size, 3))),
            ("trainannot", rng.choice([0, 1, 2, 255], size)),
        ):
            (tmp_path / part).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / part / f"{name}.png")
    return tmp_path


def test_pairs_are_sorted_and_read(images):
    pairs = folder.find_pairs(images, "train")
    assert [image.name for image, _ in pairs] == ["a.png", "b.png", "c.png"]
    image, labels = folder.read_pair(*pairs[0], RECORD)
    assert image.shape == (20, 30, 3) and image.dtype == np.uint8 and labels.shape == (20, 30)


def test_missing_folders_and_files_are_named(images):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        folder.find_pairs(images / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match=r"val does not exist; the layout is FOLDER/SPLIT"):
        folder.find_pairs(images, "val")
    (images / "trainannot" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"trainannot.b\.png is missing"):
        folder.find_pairs(images, "train")
    for path in (images / "train").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="holds no image"):
        folder.find_pairs(images, "train")


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_unreadable_image_is_named(images, damage):
    path = images / "train" / "b.png"
    content = {"truncated": path.read_bytes()[:100], "empty": b"", "text": b"no picture"}[damage]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"image .*train.b\.png cannot be read"):
        folder.read_image(path)


def test_label_out_of_range_is_named(images):
    path = images / "trainannot" / "c.png"
    labels = np.array(Image.open(path))
    labels[4, 7], labels[5, 0] = 9, 3
    Image.fromarray(labels).save(path)
    pair = folder.find_pairs(images, "train")[2]
    message = (
        r"trainannot.c\.png: label 3, 9 out of range at 2 pixels, first at row 4, column 7; legal are 0..2 \(ig.* 255\)"
    )
    with pytest.raises(ValueError, match=message):
        folder.read_pair(*pair, RECORD)


def test_colour_label_map_is_refused(images):
    with pytest.raises(ValueError, match=r"train.a\.png has mode RGB"):
        folder.read_labels(images / "train" / "a.png")


def test_palette_label_map_gives_indices(tmp_path):
    labels = np.array([[0, 1], [2, 1]], np.uint8)
    picture = Image.fromarray(labels, mode=None).convert("P")
    picture.putpalette([9, 9, 9, 80, 0, 0, 0, 80, 0])
    picture.putdata(labels.ravel().tolist())
    picture.save(tmp_path / "p.png")
    assert folder.read_labels(tmp_path / "p.png").tolist() == labels.tolist()


def test_sizes_that_do_not_fit_are_named(images):
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(images / "trainannot" / "a.png")
    with pytest.raises(ValueError, match=r"trainannot.a\.png is \(5, 5\), its image .*train.a\.png \(20, 30\)"):
        folder.read_pair(*folder.find_pairs(images, "train")[0], RECORD)


def test_gray_images(images):
    assert folder.read_image(images / "train" / "a.png", channels=1).shape == (20, 30, 1)


def test_resize_labels_takes_the_nearest():
    labels = np.arange(12).reshape(3, 4)
    assert np.array_equal(reading.resize_labels(np.repeat(np.repeat(labels, 3, 0), 2, 1), (3, 4)), labels)
    assert np.array_equal(reading.resize_labels(labels, (6, 8)), np.repeat(np.repeat(labels, 2, 0), 2, 1))


def test_examples_depend_on_seed_and_number_and_cover_all_images(images):
    pairs = folder.find_pairs(images, "train")
    data = folder.folder_crops(pairs, RECORD, (12, 14), seed=3)
    pixels, labels = data.batch(0, 6)
    assert pixels.shape == (6, 12, 14, 3) and labels.shape == (6, 12, 14)
    again = folder.folder_crops(pairs, RECORD, (12, 14), seed=3).batch(4, 2)
    assert np.array_equal(pixels[4:], again[0]) and np.array_equal(labels[4:], again[1])


def test_each_pass_sees_each_image_once(images):
    for value, name in enumerate("abc"):
        path = images / "trainannot" / f"{name}.png"
        Image.fromarray(np.full_like(np.array(Image.open(path)), value)).save(path)
    data = folder.folder_crops(folder.find_pairs(images, "train"), RECORD, (12, 14), seed=3)
    order = [int(data.example(index)[1][0, 0]) for index in range(12)]
    assert all(sorted(order[i : i + 3]) == [0, 1, 2] for i in range(0, 12, 3))
    assert len({tuple(order[i : i + 3]) for i in range(0, 12, 3)}) > 1, "every pass has the same order"


def test_crop_padding_needs_an_ignored_index(images):
    record = Preprocessing(class_names=tuple(map(str, range(256))))
    data = folder.folder_crops(folder.find_pairs(images, "train"), record, (40, 40))
    with pytest.raises(ValueError, match=r"smaller than crops of \(40, 40\)"):
        data.example(0)


@pytest.mark.parametrize("void", [-1, 300])
def test_ignored_labels_that_eight_bits_do_not_hold(tmp_path, void):
    """Of labels that are kept in 8 bits, NumPy made 255 of -1, or raised."""
    record = Preprocessing(class_names=("a", "b"), channels=1, ignore_index=void)
    pair = np.zeros((4, 4, 1), np.uint8), np.eye(4, dtype=np.int32)
    _, labels = source_data([pair], [pair], record, (6, 6), augment="none").train.batch(0, 1)
    assert sorted(np.unique(labels)) == sorted([0, 1, void])
    seen = [np.full((4, 4), void, np.int32), np.ones((4, 4), np.uint8)]
    shown = comparison([pair[0]], seen[:1], seen[1:], record)
    assert not shown[:4, 4:].any(), "what is ignored is black"
    assert colour(np.zeros((1, 1), np.uint8), Preprocessing(class_names=tuple(map(str, range(256))))).any()


def test_class_names_from_file_or_from_labels(images):
    found = folder.describe_folder(TrainConfig(data=str(images), ignore_index=255))
    assert found.class_names == ("class0", "class1", "class2") and found.ignore_index == 255
    (images / "classes.txt").write_text("sky 1 2 3\nroad\n\ncar 7 8 9\n")
    named = folder.describe_folder(TrainConfig(data=str(images), ignore_index=255))
    assert named.class_names == ("sky", "road", "car")
    assert named.palette == ((1, 2, 3), default_palette(3)[1], (7, 8, 9))
    (images / "classes.txt").write_text("sky 1 2\n")
    with pytest.raises(ValueError, match=r"classes\.txt, line 1: 'sky 1 2' is neither NAME nor NAME RED GREEN BLUE"):
        folder.describe_folder(TrainConfig(data=str(images), ignore_index=255))


def test_overlay_bytes():
    record = Preprocessing(class_names=("a", "b"), palette=((255, 0, 0), (0, 101, 200)), ignore_index=9)
    labels = np.array([[0, 1, 9]])
    assert colour(labels, record).tolist() == [[[255, 0, 0], [0, 101, 200], [0, 0, 0]]]
    gray = overlay(np.full((1, 3, 1), 100, np.uint8), labels, record, opacity=0.25)
    assert gray.tolist() == [[[139, 75, 75], [75, 100, 125], [75, 75, 75]]]
    rgb = overlay(np.array([[[10, 20, 30]] * 3], np.uint8), labels, record, opacity=1.0)
    assert rgb.tolist() == colour(labels, record).tolist()


def test_record_round_trip_and_refusals():
    record = Preprocessing(class_names=("a", "b"), channels=1, mean=(0.5,), std=(0.2,), size=(8, 9), size_multiple=8)
    assert Preprocessing.from_dict(record.to_dict()) == record
    with pytest.raises(ValueError, match="unknown key 'colour' in the preprocessing record"):
        Preprocessing.from_dict({"class_names": ["a"], "colour": 1})
    with pytest.raises(ValueError, match="palette has 1 colours for 2 class names"):
        Preprocessing(class_names=("a", "b"), palette=((1, 2, 3),))
    with pytest.raises(ValueError, match=r"mean=\(0.5,\) must have one value for each of 3 channels"):
        Preprocessing(class_names=("a",), mean=(0.5,))
