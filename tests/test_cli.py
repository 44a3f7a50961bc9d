"""The command line, in this process (fast) and once as a program of its own."""

import os
import re
import signal
import subprocess
import sys
import time
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
pytest.importorskip("tyro")
from PIL import Image
from safetensors.numpy import load_file

from jaxconv.cli import COMMANDS, main
from jaxconv.train.config import TrainConfig, load_config

ROOT = Path(__file__).parent.parent
SMALL = [
    "--set", "model_kwargs={'widths': [4, 8]}", "crop=(32, 32)", "batch_size=2", "log_every=1", "eval_every=40",
    "eval_images=2", "test_images=3", "checkpoint_every=2",
]  # fmt: skip


def run_program(*arguments, **options):
    command = [sys.executable, "-m", "jaxconv.cli", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # tests in the background: a program inherits it
        signal.signal(signal.SIGINT, signal.default_int_handler)  # not preexec_fn: it forks under JAX, which warns
    return subprocess.Popen(command, env=environment, cwd=ROOT, **streams, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was killed after its first checkpoint and started again, both as programs."""
    out = tmp_path_factory.mktemp("cli") / "run"
    arguments = ["train", "--out", out, "--steps", 40, *SMALL]
    process = run_program(*arguments)
    deadline = time.monotonic() + 400  # many times what it takes: a loaded machine is slow
    try:
        while not list(out.glob("checkpoints/*/digests.json")) and process.poll() is None:
            assert time.monotonic() < deadline, "no checkpoint in 400 s"
            time.sleep(0.05)
    finally:
        process.kill()
        said, complained = process.communicate()
    assert process.returncode == -signal.SIGKILL, said + complained
    assert not (out / "weights.safetensors").exists()
    process = run_program(*arguments)
    said, complained = process.communicate()
    assert process.returncode == 0, said + complained
    return out, said


def test_killed_run_resumes_and_finishes(trained):
    out, said = trained
    assert re.search(r"resuming .* after step \d+ of 40", " ".join(said.split()))
    assert re.search(
        r"test mIoU 0\.\d{4}; a classifier of single pixel intensities has 0\.\d{4}", " ".join(said.split())
    )
    assert load_file(out / "weights.safetensors")
    steps = [int(line.split(",")[0]) for line in (out / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == list(range(1, 41))
    assert not list(out.rglob(".tmp.*"))


def test_evaluate_prints_one_miou_line(trained, capsys):
    assert main(["evaluate", str(trained[0])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "mIoU" in line]) == 1
    assert re.fullmatch(r"mIoU 0\.\d{4}", lines[-1])
    assert sum("IoU" in line for line in lines) == 7  # six classes and the mean


@pytest.fixture
def labelled(trained, tmp_path):
    """A folder whose labels are what the network predicts, but for one corner."""
    pictures = {"one": (40, 52), "two": (40, 52), "three": (33, 41)}
    rng = np.random.default_rng(3)
    (tmp_path / "val").mkdir()
    for name, size in pictures.items():
        noise = np.kron(rng.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1)), np.ones((8, 8)))
        Image.fromarray(noise[: size[0], : size[1]].astype(np.uint8)).save(tmp_path / "val" / f"{name}.png")
    files = sorted(map(str, (tmp_path / "val").iterdir()))
    assert main(["predict", str(trained[0]), *files, "--out", str(tmp_path / "valannot"), "--labels"]) == 0
    for name in pictures:
        (tmp_path / "valannot" / f"{name}_labels.png").rename(tmp_path / "valannot" / f"{name}.png")
        (tmp_path / "valannot" / f"{name}_overlay.png").rename(tmp_path / f"{name}_overlay.png")
    return tmp_path


def test_predict_writes_overlays_of_any_size_and_evaluate_agrees(trained, labelled, capsys):
    for name, size in (("one", (52, 40)), ("three", (41, 33))):
        with Image.open(labelled / f"{name}_overlay.png") as picture:
            assert picture.size == size and picture.mode == "RGB"
    assert main(["evaluate", str(trained[0]), "--data", str(labelled), "--split", "val", "--batch-size", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "mIoU 1.0000"


def test_errors_name_the_file(trained, labelled, capsys, tmp_path):
    run = str(trained[0])

    def complaint(*arguments):
        assert main(list(arguments)) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith("jaxconv: ") and "Traceback" not in captured.err
        return captured.err

    path = labelled / "valannot" / "two.png"
    labels = np.array(Image.open(path))
    labels[0, 0] = 99
    Image.fromarray(labels).save(path)
    arguments = ["evaluate", run, "--data", str(labelled), "--split", "val"]
    assert "two.png: label 99 out of range" in complaint(*arguments)
    (labelled / "val" / "one.png").write_bytes(b"")
    assert "one.png cannot be read" in complaint(*arguments)
    assert "one.png cannot be read" in complaint(
        "predict", run, str(labelled / "val" / "one.png"), "--out", str(tmp_path)
    )
    assert "test does not exist" in complaint("evaluate", run, "--data", str(labelled), "--split", "test")
    assert "nowhere does not exist" in complaint("evaluate", str(tmp_path / "nowhere"))
    assert "finished run" in complaint("train", "--out", run, "--steps", "40", *SMALL)
    assert "unknown key 'step' in the training config" in complaint("train", "--out", "x", "--set", "step=3")
    assert "no model is called 'vgg'" in complaint("train", "--out", str(tmp_path / "v"), "--model", "vgg")
    crop = ["--out", str(tmp_path / "v"), "--set", "crop=(32, 48)"]
    assert "crop=(32, 48): mosaics are square" in complaint("train", *crop)
    assert "no image was given" in complaint("predict", run, "--out", str(tmp_path / "v"))
    assert not (tmp_path / "v").exists()


def test_help_is_fast_to_import_and_lists_the_commands():
    code = "import sys, jaxconv.cli; print(*({'flax', 'optax', 'orbax', 'matplotlib', 'skimage'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert ran.stdout.split() == [], "--help would load what only some commands need"
    ran = subprocess.run(
        [sys.executable, "-m", "jaxconv.cli", "--help"], capture_output=True, text=True, env=environment, check=True
    )
    assert all(command in ran.stdout for command in COMMANDS)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_every_config_loads_and_says_what_it_is_for(path):
    assert isinstance(load_config(path), TrainConfig)
    text = path.read_text()
    for word in ("Paper:", "Expected:", "Time:", "Command:"):
        assert word in text, f"{path.name} has no {word}"


def test_config_files_refuse_unknown_keys(tmp_path):
    (tmp_path / "c.py").write_text('def config():\n    return {"steps": 5, "learing_rate": 1.0}\n')
    with pytest.raises(ValueError, match="unknown key 'learing_rate' in the training config; known keys: model"):
        load_config(tmp_path / "c.py")
    (tmp_path / "c.py").write_text('def config():\n    return {"steps": 5}\n')
    assert load_config(tmp_path / "c.py") == TrainConfig(steps=5)
    (tmp_path / "d.py").write_text("steps = 5\n")
    with pytest.raises(ValueError, match=r"d\.py defines no function config"):
        load_config(tmp_path / "d.py")
    with pytest.raises(FileNotFoundError, match=r"e\.py does not exist; configs in .*: c, d"):
        load_config(tmp_path / "e.py")


def test_config_checks_values():
    for changes, message in (
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 must be positive"),
        ({"crop": (32, 0)}, r"crop=\(32, 0\) must be \(height, width\), or \(depth, height, width\), each at least 1"),
        ({"class_weighting": "focal"}, "class_weighting='focal' must be"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainConfig().override(**changes)
    assert TrainConfig().override(model="enet").model_kwargs == {}
    assert TrainConfig().override(model="enet", model_kwargs={"a": 1}).model_kwargs == {"a": 1}


def test_help_does_not_wait_for_jax():
    code = "import sys, jaxconv.cli; print('jax' in sys.modules, 'numpy' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert ran.stdout.split() == ["False", "False"]


def test_version_and_module_are_the_same_command():
    import jaxconv.native

    done = subprocess.run(
        [sys.executable, "-m", "jaxconv", "--version"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    said = f"jaxconv {jaxconv.__version__}\nCPU kernels: {jaxconv.native.status()}\n"
    assert (done.returncode, done.stdout) == (0, said), done.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("train --lr 3e-4", "--lr is --set learning_rate=... here"),
        ("train --batch-size=4", "--batch-size is --set batch_size=... here"),
        ("train --weight_decay 0", "--weight_decay is --set weight_decay=... here"),
        ("train --epochs 3 --steps 4", "--epochs is --steps here"),
        ("convert a.pt --model enet --output b", "--output is --out here"),
        ("explain unet --shape 1,64,64,3", "--shape is --input here"),
        ("evaluate run --dataset d", "--dataset is --data here"),
        ("evaluate run --lr 3", None),
        ("train --steps 4 --colour red", None),
    ],
)
def test_unknown_flags_are_refused_with_our_word(arguments, hint, capsys):
    with pytest.raises(SystemExit) as refused:
        main(arguments.split())
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("jaxconv: ")]
    assert refused.value.code == 2 and said == ([f"jaxconv: {hint}"] if hint else [])


def test_every_word_of_the_hints_leads_to_a_flag_or_key():
    import inspect

    from jaxconv.cli import FLAGS, KEYS

    known = {name for command in COMMANDS.values() for name in inspect.signature(command).parameters}
    assert {flag[2:] for flag in FLAGS.values()} <= known
    assert set(KEYS.values()) <= TrainConfig.__dataclass_fields__.keys()


SLOW_NET = """
import time
def net(x):
    print("tracing", flush=True)
    time.sleep(600)
    return x
"""


def test_ctrl_c_says_what_it_stopped(tmp_path):
    (tmp_path / "slow_net.py").write_text(SLOW_NET)
    process = run_program("explain", tmp_path / "slow_net.py:net", "--input", "1,8,8,1", "--out", tmp_path / "a.html")
    try:
        assert process.stdout.readline() == "tracing\n"
        process.send_signal(signal.SIGINT)
        _, complained = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in complained
    assert "jaxconv: explain was stopped while reading the network; no page was written" in complained
    assert not (tmp_path / "a.html").exists()


def test_ctrl_c_names_the_command_where_it_says_nothing_itself(monkeypatch, capsys, tmp_path):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxconv.train.evaluation.evaluate", stopped)
    assert main(["evaluate", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "jaxconv: jaxconv evaluate was stopped; what it had not yet written is lost\n"


def test_output_that_nobody_reads_to_its_end_is_no_error():
    program = subprocess.Popen(
        [sys.executable, "-m", "jaxconv", "train", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    program.stdout.close()  # as `| head` does once it has read enough
    assert program.stderr.read() == b"" and program.wait() in (0, 141)
    program.stderr.close()


def test_training_keeps_freed_memory_unless_the_environment_says_how(monkeypatch):
    from types import SimpleNamespace

    from jaxconv import _memory
    from jaxconv.train import command

    asked = []
    for name in _memory._CHOSEN:
        monkeypatch.delenv(name, raising=False)
    library = SimpleNamespace(
        mallopt=lambda *given: asked.append(given), malloc_trim=lambda *given: asked.append(given)
    )
    monkeypatch.setattr(_memory.ctypes, "CDLL", lambda name: library)
    command.keep_memory()
    assert asked == [(-8, 1), (-4, 0), (-1, 2**31 - 1)]
    _memory.trim_memory()
    assert asked.pop() == (0,)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    command.keep_memory()
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    monkeypatch.setattr(_memory.ctypes, "CDLL", lambda name: SimpleNamespace())  # another C library
    command.keep_memory()
    _memory.trim_memory()
    assert len(asked) == 3
