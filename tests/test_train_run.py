"""Run folders, checkpoints and the training loop, with a network small enough to compile in a second or two."""

import json
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")
pytest.importorskip("optax")
pytest.importorskip("orbax.checkpoint")
pytest.importorskip("safetensors")
pytest.importorskip("skimage")
pytest.importorskip("matplotlib")
pytest.importorskip("rich")
from flax import nnx
from PIL import Image
from rich.console import Console
from safetensors.numpy import load_file

import jaxconv.models
from jaxconv.train import Preprocessing, TrainConfig, evaluate, load_run, save_run, train
from jaxconv.train.checkpoint import Checkpoints

RECORD = Preprocessing(class_names=("a", "b"), channels=1)


class Tiny(nnx.Module):
    """Parameters, batch statistics and a random stream: everything that a resumed run has to restore."""

    def __init__(self, in_channels, classes, *, rngs):
        self.stem = nnx.Conv(in_channels, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.heads = nnx.List([nnx.Conv(4, classes, (1, 1), rngs=rngs)])

    def __call__(self, x):
        return self.heads[0](self.dropout(nnx.relu(self.norm(self.stem(x)))))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(jaxconv.models.REGISTRY, "tiny", Tiny)
    # Drawing is a sixth of such a run; the run that the others have to equal draws.
    monkeypatch.setattr("jaxconv.train.picture._write", lambda path, figure: path)


CONFIG = TrainConfig().override(
    model="tiny", crop=(32, 32), steps=6, batch_size=2, log_every=1, eval_every=2, eval_images=2, test_images=2,
    checkpoint_every=2, warmup_steps=1,
)  # fmt: skip


class Recorder(Console):
    """Keeps what was printed; sends SIGINT when a line starts with ``stop_at``."""

    def __init__(self, stop_at=None):
        super().__init__(quiet=True)
        self.lines, self.stop_at = [], stop_at

    def print(self, *objects, **kwargs):
        self.lines += [str(o) for o in objects]
        if self.stop_at and self.lines[-1:] and self.lines[-1].startswith(self.stop_at):
            self.stop_at = None
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The run that every interrupted one has to equal."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(jaxconv.models.REGISTRY, "tiny", Tiny)
        train(CONFIG, folder, console=Recorder())
    return folder


def weights(folder):
    return load_file(folder / "weights.safetensors")


def assert_same_run(folder, other):
    mine, theirs = weights(folder), weights(other)
    assert mine.keys() == theirs.keys()
    for key in mine:
        np.testing.assert_array_equal(mine[key], theirs[key], err_msg=key)
    columns = [
        [row.split(",")[:4] for row in (path / "metrics.csv").read_text().splitlines()] for path in (folder, other)
    ]
    assert columns[0] == columns[1]  # all but the seconds
    assert json.loads((folder / "results.json").read_text())["test_miou"] == pytest.approx(
        json.loads((other / "results.json").read_text())["test_miou"]
    )


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The same run, stopped by SIGINT during step 4."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(jaxconv.models.REGISTRY, "tiny", Tiny)
        with pytest.raises(KeyboardInterrupt, match="stopped after step 4; the same command continues"):
            train(CONFIG, folder, console=Recorder("step 4/"))
    return folder


@pytest.fixture
def interrupted(stopped, tmp_path):
    """A copy of it to continue."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def test_run_folder_holds_everything(uninterrupted):
    names = {path.name for path in uninterrupted.iterdir()}
    assert names == {
        "config.json", "preprocessing.json", "metrics.csv", "checkpoints", "weights.safetensors", "results.json",
        "picture.png", "confusion.png", "curves.png", "samples", "best.safetensors",
    }  # fmt: skip
    rows = (uninterrupted / "metrics.csv").read_text().splitlines()
    assert rows[0] == "step,loss,train_miou,val_miou,seconds" and len(rows) == 7
    assert set(json.loads((uninterrupted / "results.json").read_text())) == {
        "steps", "split", "miou", "test_miou", "boundary_miou", "intensity_miou", "train_seconds",
    }  # fmt: skip
    assert (uninterrupted / "picture.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    _, run = load_run(uninterrupted)
    assert run.train == CONFIG.to_dict() and run.preprocessing.classes == 6


def test_training_lowers_the_loss_and_moves_everything(uninterrupted):
    initial = nnx.state(Tiny(1, 6, rngs=nnx.Rngs(0)), nnx.Not(nnx.RngState))
    final = weights(uninterrupted)
    for path, variable in nnx.to_flat_state(initial):
        key = ".".join(map(str, path))
        assert not np.array_equal(final[key], variable.get_value()), key


def test_interrupted_run_continues_on_the_same_path(uninterrupted, interrupted):
    assert not (interrupted / "weights.safetensors").exists()
    with pytest.raises(
        FileNotFoundError, match="weights.safetensors is missing .*start the same `jaxconv train` again"
    ):
        load_run(interrupted)
    console = Recorder()
    train(CONFIG, interrupted, console=console)
    assert any("after step 4 of 6" in line for line in console.lines)
    assert_same_run(interrupted, uninterrupted)


@pytest.mark.parametrize(
    "damage", ["truncate", *(pytest.param(d, marks=pytest.mark.slow) for d in ("flip", "unfinished", "both"))]
)
def test_damaged_checkpoint_falls_back(uninterrupted, interrupted, damage):
    steps = sorted(int(p.name) for p in (interrupted / "checkpoints").iterdir())
    assert steps == [2, 4]
    for step in (2, 4) if damage == "both" else (4,):
        newest = interrupted / "checkpoints" / str(step)
        largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        content = bytearray(largest.read_bytes())
        if damage == "flip":
            content[len(content) // 2] ^= 0x55
        largest.write_bytes(content if damage == "flip" else content[: len(content) // 2])
        if damage == "unfinished":
            (newest / "digests.json").unlink()
    console = Recorder()
    train(CONFIG, interrupted, console=console)
    said = "\n".join(console.lines)
    assert ("checkpoints/4 is damaged" in said and "4.unreadable" in said) == (damage != "unfinished")
    assert ("checkpoints/4 was being written when its run was stopped" in said) == (damage == "unfinished")
    assert ("after step 2 of 6" in said) == (damage != "both")
    assert not list((interrupted / "checkpoints").glob("*.unreadable*")), "a newer one was saved"
    assert_same_run(interrupted, uninterrupted)


@pytest.mark.slow
def test_half_written_metrics_row_is_dropped(uninterrupted, interrupted):
    with (interrupted / "metrics.csv").open("a") as handle:
        handle.write("5,1.0,0.1,,9.9\n6,1.")
    train(CONFIG, interrupted, console=Recorder())
    assert_same_run(interrupted, uninterrupted)


def test_finished_run_is_not_overwritten(uninterrupted):
    before = {p: p.read_bytes() for p in uninterrupted.rglob("*") if p.is_file()}
    with pytest.raises(FileExistsError, match=r"whole is a finished run \(test mIoU 0\.\d{4}\); choose another --out"):
        train(CONFIG, uninterrupted)
    assert before == {p: p.read_bytes() for p in uninterrupted.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_another_config_is_refused_and_restart_keeps_the_old_run(interrupted):
    other = CONFIG.override(steps=2, eval_every=1)
    with pytest.raises(ValueError, match=r"started with another config \(steps 6 -> 2, eval_every 2 -> 1\)"):
        train(other, interrupted)
    console = Recorder()
    train(other, interrupted, restart=True, console=console)
    assert (interrupted.with_name("run.1") / "checkpoints" / "4").is_dir()
    assert (interrupted / "weights.safetensors").is_file()


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty and not a run folder"):
        train(CONFIG, tmp_path)
    with pytest.raises(FileExistsError, match="not empty and not a run folder"):
        save_run(tmp_path, Tiny(1, 2, rngs=nnx.Rngs(0)), model_name="tiny", model_kwargs={}, preprocessing=RECORD)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_nan_stops_the_run_and_names_the_step(tmp_path):
    with pytest.raises(
        FloatingPointError,
        match=r"is (nan|inf|not finite) at step [1-6] \(train mosaic \d+, train mosaic \d+\); .*run keeps",
    ):
        train(CONFIG.override(learning_rate=1e38, clip_norm=1e38), tmp_path / "run", console=Recorder())


def test_save_and_load_give_the_same_network(tmp_path):
    model = Tiny(1, 2, rngs=nnx.Rngs(7))
    model.eval()
    folder = save_run(
        tmp_path / "run", model, model_name="tiny", model_kwargs={"in_channels": 1, "classes": 2},
        preprocessing=RECORD, extra={"source": "a test"},
    )  # fmt: skip
    loaded, run = load_run(folder)
    x = jax.random.normal(jax.random.key(1), (1, 5, 5, 1))
    np.testing.assert_array_equal(loaded(x), model(x))
    assert run.preprocessing == RECORD and run.extra == {"source": "a test"} and run.train is None
    with pytest.raises(FileExistsError, match="already holds a run"):
        save_run(folder, model, model_name="tiny", model_kwargs={}, preprocessing=RECORD)


def test_broken_run_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="run folder .*nowhere does not exist"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        load_run(tmp_path)
    kwargs = {"in_channels": 1, "classes": 2}
    folder = save_run(
        tmp_path / "run", Tiny(1, 2, rngs=nnx.Rngs(0)), model_name="tiny", model_kwargs=kwargs, preprocessing=RECORD
    )
    path = folder / "weights.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    with pytest.raises(ValueError, match=r"weights\.safetensors cannot be read .*truncated"):
        load_run(folder)
    path.write_bytes(content)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"model": {"name": "tiny", "kwargs": kwargs | {"classes": 3}}})
    )
    with pytest.raises(ValueError, match=r"heads\.0\.kernel has shape \(1, 1, 4, 2\), the model needs \(1, 1, 4, 3\)"):
        load_run(folder)
    (folder / "config.json").write_text(json.dumps(config | {"model": {"name": "vgg", "kwargs": {}}}))
    with pytest.raises(ValueError, match="no model is called 'vgg'; models are: .*tiny"):
        load_run(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not readable as JSON"):
        load_run(folder)


def test_log_for_tensorboard_has_the_numbers_of_the_table(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    from jaxconv.train.log import MetricsLog

    log = MetricsLog(tmp_path / "metrics.csv", tensorboard=tmp_path / "board")
    for step in (1, 2):
        log.add(step, {"loss": 0.5 * step}, 1.0)
    log.close()
    (path,) = (tmp_path / "board").iterdir()
    content, found = path.read_bytes(), []
    while content:  # a record: its length, 4 bytes, itself, 4 bytes
        size = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + size])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        content = content[size + 16 :]
    assert found == [(1, "loss", 0.5), (2, "loss", 1.0)]


def test_checkpoints_keep_two_and_refuse_other_trees(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    for step in (1, 2, 3):
        checkpoints.save(step, {"w": jnp.full((3,), step), "n": jnp.int32(step)})
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["2", "3"] and checkpoints.latest == 3
    shapes = {"w": jax.ShapeDtypeStruct((3,), jnp.int32), "n": jax.ShapeDtypeStruct((), jnp.int32)}
    assert checkpoints.restore(2, shapes)["w"].tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match="checkpoint .*3 does not fit this run"):
        checkpoints.restore(3, {"other": jax.ShapeDtypeStruct((3,), jnp.float32)})
    checkpoints.close()


@pytest.fixture
def labelled_folder(tmp_path):
    """Bright and dark halves, labelled; a stripe is not labelled (9)."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for part in (split, f"{split}annot"):
            (tmp_path / "data" / part).mkdir(parents=True)
        for index in range(count):
            labels = np.zeros((24, 37), np.uint8)
            labels[:, 15 + index :] = 1
            image = np.clip(60 + 130 * labels[..., None] + rng.normal(0, 20, (24, 37, 3)), 0, 255).astype(np.uint8)
            labels[10:12] = 9
            Image.fromarray(image).save(tmp_path / "data" / split / f"{index}.png")
            Image.fromarray(labels).save(tmp_path / "data" / f"{split}annot" / f"{index}.png")
    return tmp_path / "data"


@pytest.mark.slow
def test_training_on_a_folder_survives_an_unreadable_image(labelled_folder, tmp_path):
    config = CONFIG.override(
        data=str(labelled_folder), crop=(16, 16), ignore_index=9, class_weighting="enet", steps=40, learning_rate=0.05,
        eval_every=20, checkpoint_every=4, size_multiple=4,
    )  # fmt: skip
    bad = labelled_folder / "val" / "1.png"
    content = bad.read_bytes()
    bad.write_bytes(content[:50])
    with pytest.raises(ValueError, match=r"image .*val.1\.png cannot be read"):
        train(config, tmp_path / "run", console=Recorder())
    bad.write_bytes(content)
    console = Recorder()
    results = train(config, tmp_path / "run", console=console)
    assert any("after step 16 of 40" in line for line in console.lines)
    assert results["miou"] > 0.8 and results["split"] == "val" and "test_miou" not in results
    assert any(line.startswith("val mIoU ") for line in console.lines)
    lines = []
    confusion = evaluate(tmp_path / "run", say=lines.append)  # config.json knows the folder and the split
    assert confusion.sum() == 2 * 22 * 37, "the unlabelled stripe must not be counted"
    assert lines[-1] == f"mIoU {results['miou']:.4f}"
    _, run = load_run(tmp_path / "run")
    assert (run.preprocessing.ignore_index, run.preprocessing.classes, run.preprocessing.channels) == (9, 2, 3)


OWN = """
from flax import nnx

class Small(nnx.Module):
    def __init__(self, in_channels, classes, width=3, *, rngs):
        stem, head = nnx.Conv(in_channels, width, (3, 3), rngs=rngs), nnx.Conv(width, classes, (1, 1), rngs=rngs)
        self.layers = nnx.List([stem, head])

    def __call__(self, x):
        return self.layers[1](nnx.relu(self.layers[0](x)))

def wide(in_channels, classes, *, rngs):
    return Small(in_channels, classes + 1, rngs=rngs)

def none(in_channels, classes, *, rngs):
    return None

number = 3
"""


def test_a_network_of_ones_own_is_trained_and_found_again(tmp_path):
    (tmp_path / "nets.py").write_text(OWN)
    own = str(tmp_path / "nets.py")
    config = CONFIG.override(model=f"{own}:Small", model_kwargs={"width": 5}, steps=2)
    train(config, tmp_path / "run", console=Console(quiet=True))
    model, run = load_run(tmp_path / "run")
    assert type(model).__name__ == "Small" and model.layers[0].out_features == 5
    assert run.model_name == f"{own}:Small" and run.model_kwargs["width"] == 5
    for name, message in (
        ("Missing", "has no function or class 'Missing'"),
        ("number", "has no function or class 'number'"),
        ("none", "gives a NoneType, not a flax.nnx.Module"),
        ("wide", r"it gives \(1, 32, 32, 7\), not \(images, height, width, 6 classes\)"),
    ):
        with pytest.raises(ValueError, match=message):
            train(CONFIG.override(model=f"{own}:{name}", steps=2), tmp_path / "other", console=Console(quiet=True))
    with pytest.raises(ValueError, match="no module is called 'nowhere'"):
        train(CONFIG.override(model="nowhere:Net", steps=2), tmp_path / "other", console=Console(quiet=True))
    assert not (tmp_path / "other").exists()
