"""Folders, settings and moments that go wrong: each is refused with a sentence before training, or does no harm."""

import json
import multiprocessing
import os
import re
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flax")
pytest.importorskip("optax")
pytest.importorskip("orbax.checkpoint")
pytest.importorskip("safetensors")
pytest.importorskip("skimage")
pytest.importorskip("matplotlib")
pytest.importorskip("rich")
import jax.numpy as jnp
from PIL import Image
from safetensors.numpy import load_file, save_file
from test_train_run import CONFIG, Recorder, Tiny

import jaxconv.models
from jaxconv.train import Preprocessing, TrainConfig, evaluate, folder, load_run, predict, reading, train
from jaxconv.train.checkpoint import Checkpoints
from jaxconv.train.config import parse_labels, parse_settings
from jaxconv.train.files import locked, read_json, write_json
from jaxconv.train.log import MetricsLog
from jaxconv.train.picture import save_picture

OLD = Path(__file__).parent / "data" / "run-0.1.zip"


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(jaxconv.models.REGISTRY, "tiny", Tiny)


def make(root, masks, images=None, classes=None):
    """A folder with two training and two validation pairs, each mask from ``masks``."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for part in (split, f"{split}annot"):
            (root / part).mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(0, 256, (24, 32, 3)).astype(np.uint8) if images is None else images
            Image.fromarray(pixels).save(root / split / f"{number}.{'png' if pixels.dtype == np.uint8 else 'tif'}")
            values = np.array(masks, np.uint8)
            mask = np.resize(values, (24, 32)) if values.ndim == 1 else values
            Image.fromarray(mask).save(root / f"{split}annot" / f"{number}.png")
    if classes is not None:
        (root / "classes.txt").write_bytes(classes)
    return root


def config_of(root, **changes):
    return CONFIG.override(data=str(root), crop=(16, 16), **changes)


def refusal(root, tmp_path, **changes):
    """The sentence, before anything was written."""
    with pytest.raises((ValueError, OSError)) as caught:
        train(config_of(root, **changes), tmp_path / "refused", console=Recorder())
    assert not (tmp_path / "refused").exists()
    return str(caught.value)


# ---------------------------------------------------------------------- reading images
def test_sixteen_bits_floats_and_orientation_are_read(tmp_path):
    ramp = np.linspace(0, 65535, 300).astype(np.uint16).reshape(1, 300).repeat(4, 0)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    Image.fromarray((ramp / 65535).astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(ramp).save(tmp_path / "deep.tif")
    for name in ("deep.png", "float.tif", "deep.tif"):
        for channels in (1, 3):
            got = folder.read_image(tmp_path / name, channels)
            assert got.shape == (4, 300, channels) and got.dtype == np.float32
            np.testing.assert_allclose(got[..., -1], ramp * (255 / 65535), atol=1e-3)
    half = folder.read_image(tmp_path / "deep.png", 1, (0.0, 32767.5))
    np.testing.assert_allclose(half[..., 0], ramp * (255 / 32767.5), rtol=1e-5, atol=1e-3)
    Image.fromarray(np.float32([[0, 900]])).save(tmp_path / "counts.tif")
    with pytest.raises(ValueError, match=r"counts.tif holds values 0..900 .* --set value_range=\(0,900\)"):
        folder.read_image(tmp_path / "counts.tif")
    Image.fromarray(np.float32([[0, np.nan]])).save(tmp_path / "nan.tif")
    with pytest.raises(ValueError, match="nan.tif holds values that are not finite"):
        folder.read_image(tmp_path / "nan.tif")

    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(folder.read_image(tmp_path / "turned.png"), np.rot90(pixels, -1))


def test_deep_images_are_resized_and_cropped_as_others(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (24, 32)).astype(np.uint16)
    record = Preprocessing(class_names=("a", "b"), channels=3)
    data = folder.folder_crops(folder.find_pairs(make(tmp_path / "d", [0, 1], deep), "train"), record, (16, 16))
    images, _ = data.batch(0, 2)
    assert images.dtype == np.float32 and images.shape == (2, 16, 16, 3) and 100 < images.mean() < 150
    assert [Path(name).name for name in data.names(0, 2)] in (["0.tif", "1.tif"], ["1.tif", "0.tif"])
    small = reading.resize_image(folder.read_image(tmp_path / "d" / "train" / "0.tif"), (12, 16))
    assert small.shape == (12, 16, 3) and small.dtype == np.float32


def png_bomb(path, side=60_000):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


def test_bombs_and_broken_streams_are_one_sentence(tmp_path):
    png_bomb(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="bomb.png is refused: Image size .* cut it into tiles"):
        folder.read_image(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="bomb.png is refused"):
        folder.read_labels(tmp_path / "bomb.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "ok.tif", compression="tiff_deflate")
    content = (tmp_path / "ok.tif").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):  # whatever a decoder raises
        broken = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            broken[place] = rng.integers(256)
        (tmp_path / "b.tif").write_bytes(broken)
        try:
            folder.read_image(tmp_path / "b.tif", 1)
        except ValueError as error:
            assert "b.tif" in str(error)


# ---------------------------------------------------------------------- folders
def test_labels_that_are_no_classes_are_refused_and_mapped(tmp_path):
    root = make(tmp_path / "cells", [0, 255, 255])
    advice = r"holds the labels 0, 255, not 0..1: say what they mean, as --labels 0:NAME0,255:NAME1"
    assert_match(advice, refusal(root, tmp_path))
    assert_match("not ignored has the label 0; nothing can be learned", refusal(root, tmp_path, ignore_index=255))
    assert_match(r"label 255 is not among 0, 7", refusal(root, tmp_path, labels={0: "a", 7: "b"}))
    assert parse_labels("0:background, 255:cell") == {0: "background", 255: "cell"}
    for bad in ("0", "0:", "a:b", "0:a,0:b"):
        with pytest.raises(ValueError, match="is not VALUE:NAME"):
            parse_labels(bad)
    config = config_of(root, labels={0: "background", 255: "cell"}, steps=2, eval_every=1)
    assert TrainConfig().override(**json.loads(json.dumps(config.to_dict()))) == config
    train(config, tmp_path / "run", console=Recorder())
    lines = []
    confusion = evaluate(tmp_path / "run", say=lines.append)
    assert confusion.sum(1).tolist() == [2 * 24 * 32 // 3, 2 * 24 * 32 * 2 // 3]
    assert [line.split()[0] for line in lines[:2]] == ["background", "cell"]


def assert_match(pattern, text):
    assert re.search(pattern, text), text


@pytest.mark.parametrize(
    "masks,classes,changes,message",
    [
        ([9], None, {"ignore_index": 9}, "trainannot: every pixel has the ignored label 9"),
        ([9], b"a\nb\n", {"ignore_index": 9}, "trainannot: every pixel has the ignored label 9"),
        ([0], b"a\nb\n", {}, "has the label 0; nothing can be learned"),
        ([0, 1, 2], b"a\nb\n", {}, "label 2 out of range"),
        ([0, 1], b"a\nsky 1 2\n", {}, "line 2: 'sky 1 2' is neither NAME"),
        ([0, 1], b"\xff\xfea\n", {}, "classes.txt is not UTF-8 text"),
        ([0, 1], None, {"model_kwargs": {"classes": 1}}, "model_kwargs has classes=1, and the data has 2"),
        ([0, 1], None, {"model_kwargs": {"in_channels": 1}}, "model_kwargs has in_channels=1, and the data has 3"),
        ([0, 1], None, {"init": "nowhere"}, "--init nowhere: nowhere does not exist"),
        ([0, 1], None, {"test_split": "holdout"}, "holdout does not exist"),
    ],
)  # fmt: skip
def test_folders_that_teach_nothing_are_refused(tmp_path, masks, classes, changes, message):
    root = make(tmp_path / "d", masks, classes=classes)
    assert_match(message, refusal(root, tmp_path, **changes))


def test_names_from_classes_txt_and_stray_files(tmp_path):
    root = make(tmp_path / "d", [0, 1, 2], classes=b"\xef\xbb\xbfroad\ntraffic light 250 170 30\nstop sign\n")
    (root / "train" / "._0.png").write_bytes(b"\x00\x05\x16\x07")
    assert len(folder.find_pairs(root, "train")) == 2
    record = folder.describe_folder(TrainConfig(data=str(root)))
    assert record.class_names == ("road", "traffic light", "stop sign") and record.palette[1] == (250, 170, 30)


class Strided(Tiny):
    """As ENet: only multiples of 8 come out as they went in."""

    def __call__(self, x):
        y = super().__call__(x)
        small = y[:, ::8, ::8]
        return jnp.repeat(jnp.repeat(small, 8, 1), 8, 2)


def test_sizes_that_the_network_does_not_take_are_named_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(jaxconv.models.REGISTRY, "strided", Strided)
    rng = np.random.default_rng(0)
    root = make(tmp_path / "d", rng.integers(0, 2, (20, 32)), rng.integers(0, 256, (20, 32, 3)).astype(np.uint8))
    said = refusal(root, tmp_path, model="strided")
    assert_match(r"strided does not take images of 20x32: it gives 24x32; give --set size_multiple=8", said)
    with pytest.raises(ValueError, match="strided does not take crops of 12x12"):
        config = config_of(root, model="strided", size_multiple=8).override(crop=(12, 12))
        train(config, tmp_path / "c", console=Recorder())


# ---------------------------------------------------------------------- settings and records
@pytest.mark.parametrize(
    "setting,message",
    [
        ("batch_size=abc", "batch_size='abc' must be a whole number"),
        ("batch_size=1.5", "batch_size=1.5 must be a whole number"),
        ("steps=True", "steps=True must be a whole number"),
        ("crop=5", r"crop=5 must be a list, each a whole number"),
        ("crop=(5,)", r"crop=\(5,\) must be"),
        ("crop=(10**12, 8)", r"crop='\(10\*\*12, 8\)' must be"),
        ("crop=(1000000000000, 8)", "must be at most 65536"),
        ("learning_rate=fast", "learning_rate='fast' must be a number"),
        ("learning_rate=1e999", "learning_rate=inf must be a number"),
        ("model_kwargs=3", "model_kwargs=3 must be a dict"),
        ("model=7", "model=7 must be text"),
        ("channels=0", "channels=0 must be"),
        ("seed=-1", "seed=-1 must not be negative"),
        ("seed=10000000000000000000", r"seed=10000000000000000000 must be less than 2\*\*63"),
        ("value_range=(9,9)", r"value_range=\(9, 9\) must be"),
        ("labels=5", "labels=5 must be a dict"),
        ("ignore_index=void", "ignore_index='void' must be a whole number or None"),
    ],
)
def test_settings_are_typed(setting, message):
    with pytest.raises(ValueError, match=message):
        config = TrainConfig().override(**parse_settings([setting]))
        Preprocessing(class_names=("a",), value_range=config.value_range)


@pytest.mark.parametrize(
    "change",
    [
        {"size": [10**12, 4]}, {"size_multiple": 10**12}, {"class_names": 5}, {"class_names": [1, 2]}, {"scale": "x"},
        {"mean": [float("nan")] * 3}, {"palette": [[1, 2]] * 2}, {"std": [0, 1, 1]}, {"channels": "3"}, {"size": [4]},
        {"ignore_index": 0.5}, {"label_values": [0, 0]}, {"palette": [["a", 1, 2]] * 2},
    ],
)  # fmt: skip
def test_records_are_typed_and_bounded(change):
    with pytest.raises(ValueError, match="record.json: "):
        Preprocessing.from_dict({"class_names": ["a", "b"]} | change, "record.json")


def test_json_is_json(tmp_path):
    write_json(tmp_path / "a.json", {"score": float("nan"), "more": [float("inf"), 1.5]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"score": None, "more": [None, 1.5]}
    (tmp_path / "deep.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(ValueError, match="deep.json is not readable as JSON"):
        read_json(tmp_path / "deep.json")


def test_foreign_metrics_are_named(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,acc\n1,2\n")
    with pytest.raises(ValueError, match=r"metrics.csv has the columns \('epoch', 'acc'\)"):
        MetricsLog(path, 5)
    path.write_bytes(b"step\xff\n")
    with pytest.raises(ValueError, match="metrics.csv cannot be read"):
        MetricsLog(path, 5)
    path.write_text("step,loss,train_miou,val_miou,seconds\n1,0.5,0.1,,x\n2,0.5,0.1,,3.0\n")
    assert [row["step"] for row in MetricsLog(path, 5).rows] == ["2"]


def test_evaluate_refuses_batches_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        evaluate(tmp_path, batch_size=0)


# ---------------------------------------------------------------------- the run folder
def hold(path, ready, done):
    with locked(path):
        ready.set()
        done.wait(60)


def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(tmp_path / "run", ready, done))
    holder.start()
    try:
        assert ready.wait(120)
        with pytest.raises(BlockingIOError, match="run is in use by another process; choose another --out"):
            train(CONFIG, tmp_path / "run", console=Recorder())
    finally:
        holder.kill()  # the lock goes with it
        holder.join()
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").exists()
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.parametrize("name", ["exp[1]", "what?", "a*b", "[!x]-{y}"])
def test_checkpoints_in_folders_whose_names_are_patterns(tmp_path, name):
    state = {"w": jnp.arange(3.0), "n": jnp.int32(4)}
    shapes = {k: v.aval for k, v in state.items()}
    checkpoints = Checkpoints(tmp_path / name / "checkpoints")
    checkpoints.save(4, state)
    checkpoints.close()
    again = Checkpoints(tmp_path / name / "checkpoints")
    assert again.latest == 4 and again.restore(4, shapes)["w"].tolist() == [0, 1, 2]
    again.close()
    assert (tmp_path / name / "checkpoints" / "4" / "digests.json").is_file()


def test_what_does_not_read_back_is_not_saved(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "c")
    monkeypatch.setattr(checkpoints, "restore", lambda step, abstract: {"w": jnp.zeros(3)})
    with pytest.raises(OSError, match="does not read back as it was written"):
        checkpoints.save(1, {"w": jnp.ones(3)})
    checkpoints.close()
    said = []
    again = Checkpoints(tmp_path / "c", said.append)
    assert again.latest is None and "was being written when its run was stopped" in said[0]
    again.close()


class Poisoned(Tiny):
    """From the second step on a running statistic is NaN, and neither the loss nor a gradient shows it."""

    def __call__(self, x):
        y = super().__call__(x)
        if not self.norm.use_running_average:
            mean = self.norm.mean
            mean[...] = jnp.where(mean[...] != 0, jnp.nan, 1.0)
        return y


def test_a_state_that_is_not_finite_is_never_saved(tmp_path, monkeypatch):
    monkeypatch.setitem(jaxconv.models.REGISTRY, "poisoned", Poisoned)
    config = CONFIG.override(model="poisoned", checkpoint_every=1, eval_every=100)
    with pytest.raises(FloatingPointError, match=r"new state is not finite at step \d \(train mosaic"):
        train(config, tmp_path / "run", console=Recorder())
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    kept = [p for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit()]
    assert all(int(p.name) < 2 for p in kept)


@pytest.mark.slow
def test_a_run_of_the_first_version_is_read_resumed_and_extended(tmp_path):
    """Written by jaxconv 0.1.0 with jax 0.10.2: one finished run, and the same one stopped after step 2 of 4."""
    with zipfile.ZipFile(OLD) as archive:
        archive.extractall(tmp_path)
    model, run = load_run(tmp_path / "finished")
    assert run.preprocessing.classes == 6 and run.model_kwargs["widths"] == [2]
    config = TrainConfig().override(**run.train)
    with pytest.raises(FileExistsError, match=r"is a finished run \(test mIoU 0.0283\).*--extend"):
        train(config, tmp_path / "finished", console=Recorder())
    stopped, console = tmp_path / "stopped", Recorder()
    train(config, stopped, console=console)
    assert any("after step 2 of 4" in line for line in console.lines)
    mine, theirs = (load_file(tmp_path / name / "weights.safetensors") for name in ("stopped", "finished"))
    for name, array in theirs.items():
        np.testing.assert_allclose(mine[name], array, rtol=1e-3, atol=1e-4, err_msg=name)

    with pytest.raises(ValueError, match="was started for 4 steps; --extend needs more, not 4"):
        train(config, stopped, extend=True, console=Recorder())
    with pytest.raises(ValueError, match="started with another config .*seed"):
        train(config.override(steps=6, seed=3), stopped, extend=True, console=Recorder())
    console = Recorder()
    results = train(config.override(steps=6), stopped, extend=True, console=console)
    assert any("after step 4 of 6" in line for line in console.lines) and results["steps"] == 6
    assert (stopped / "weights.4.safetensors").is_file() and load_run(stopped)[1].train["steps"] == 6
    shutil.rmtree(tmp_path / "finished" / "checkpoints", ignore_errors=True)
    with pytest.raises(FileNotFoundError, match="has no checkpoint to go on from"):
        train(config.override(steps=6), tmp_path / "finished", extend=True, console=Recorder())


@pytest.mark.slow
def test_fine_tuning_names_without_maths_pictures_that_fail(tmp_path, monkeypatch):
    root = make(tmp_path / "d", [0, 1, 1], classes=b"a$\\bad$b\n\x1b[31mred <b>\n")
    config = config_of(root, steps=2, eval_every=1, checkpoint_every=1)
    lines = Recorder()
    train(config, tmp_path / "run[1]", console=lines)
    assert (tmp_path / "run[1]" / "picture.png").is_file() and (tmp_path / "run[1]" / "best.safetensors").is_file()

    def broken(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr("jaxconv.train.segmentation.save_picture", broken)
    console = Recorder()
    other = config.override(init=str(tmp_path / "run[1]"))
    train(other, tmp_path / "tuned", console=console)
    said = "\n".join(console.lines)
    assert "tensors come from" in said and "could not be drawn: no ink" in said and "\x1b" not in said
    assert (tmp_path / "tuned" / "weights.safetensors").is_file() and (tmp_path / "tuned" / "results.json").is_file()

    path = tmp_path / "tuned" / "weights.safetensors"
    tensors = load_file(path)
    tensors["stem.bias"] = np.full_like(tensors["stem.bias"], np.nan)
    save_file(tensors, path)
    with pytest.raises(ValueError, match="weights.safetensors does not fit the model:\n  stem.bias holds NaN or inf"):
        evaluate(tmp_path / "tuned")
    with pytest.raises(ValueError, match="stem.bias holds NaN or inf"):
        predict(tmp_path / "tuned", [root / "train" / "0.png"], tmp_path / "out")


def test_pictures_show_any_name(tmp_path):
    names = ("a$\\bad$b", "$x_$", "_hidden", "\x1b[0m", "cost $5", "plain")
    record = Preprocessing(class_names=names)
    image, labels = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.int32)
    assert save_picture(tmp_path / "p.png", [image], [labels], [labels], record, "a$\\bad$b").is_file()
    assert os.listdir(tmp_path) == ["p.png"]
