"""Training on eight virtual devices: the losses of one, and checkpoints that go from mesh to mesh."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flax")
pytest.importorskip("optax")
pytest.importorskip("orbax.checkpoint")
pytest.importorskip("skimage")
pytest.importorskip("matplotlib")
pytest.importorskip("rich")
from jaxconv.train.devices import Devices, join_hosts

# One process, so that jax and the network are loaded once: each run is (folder, steps, mesh, extend).
RUNS = """
import sys, json
import jax
from flax import nnx
from rich.console import Console
import jaxconv.models, jaxconv.nn
from jaxconv.train import TrainConfig, train

class Small(nnx.Module):
    def __init__(self, in_channels, classes, *, rngs):
        self.down = jaxconv.nn.Conv(in_channels, 32, (3, 3), stride=2, padding=1, rngs=rngs)
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.up = jaxconv.nn.ConvTranspose(32, classes, (4, 4), stride=2, padding=1, rngs=rngs)

    def __call__(self, x):
        return self.up(self.dropout(nnx.relu(self.norm(self.down(x)))))

jaxconv.models.REGISTRY["small"] = Small
if len(sys.argv) > 2:  # one of two processes
    from jaxconv.train.devices import join_hosts
    join_hosts(sys.argv[2])
assert jax.device_count() == 8
lines = []
class Lines(Console):
    def print(self, *words, **options):
        lines.extend(map(str, words))
for folder, steps, mesh, extend, *recipe in json.loads(sys.argv[1]):
    config = TrainConfig().override(model="small", crop=(32, 32), steps=steps, batch_size=8, log_every=1, eval_every=2,
        eval_images=3, test_images=5, checkpoint_every=2, warmup_steps=1).override(**(recipe[0] if recipe else {}))
    train(config, folder, mesh=mesh, extend=extend, console=Lines(quiet=True))
print(*lines, sep="\\n")
"""


def _trained(folder, runs):
    """The metrics and the final scores of each run, and what was said."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    arguments = [sys.executable, "-c", RUNS, json.dumps(runs)]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    names = dict.fromkeys(name for name, *_ in runs)
    tables = {name: np.genfromtxt(folder / name / "metrics.csv", delimiter=",", names=True) for name in names}
    return (
        tables,
        {name: json.loads((folder / name / "results.json").read_text())["miou"] for name in names},
        done.stdout,
    )


def _assert_same(table, other):
    assert len(table) == len(other)
    for column in ("loss", "train_miou", "val_miou"):
        np.testing.assert_allclose(table[column], other[column], rtol=2e-4, atol=2e-3)


@pytest.mark.slow
def test_batches_split_by_example_and_by_rows_have_the_losses_of_one_device_and_read_each_others_checkpoints(tmp_path):
    runs = [
        ("one", 4, "data=1", False),
        ("all", 4, None, False),
        ("rows", 4, "data=2,height=4", False),
        ("one", 6, "data=2,height=4", True),
        ("rows", 6, "data=1", True),
    ]
    tables, scores, said = _trained(tmp_path, runs)
    assert "8 devices, data=8, height=1" in said and "8 devices, data=2, height=4" in said
    assert "resuming one after step 4 of 6" in said
    _assert_same(tables["all"], tables["one"][:4])
    _assert_same(tables["rows"], tables["one"])
    assert len(tables["one"]) == 6 and scores["rows"] == pytest.approx(scores["one"], abs=5e-3)


@pytest.mark.slow
def test_parts_of_the_parameters_have_the_losses_of_one_device_and_go_to_other_meshes(tmp_path):
    recipe = {"ema": 0.9, "accumulate": 2, "batch_size": 16}
    runs = [
        ("one", 2, "data=1", False, recipe),
        ("parts", 2, "data=2,fsdp=4", False, recipe),
        ("one", 4, "fsdp=4,height=2", True, recipe),
        ("parts", 4, "data=1", True, recipe),
    ]
    tables, scores, said = _trained(tmp_path, runs)
    # Kernels of 32 output channels and what the optimiser keeps of them lie in four parts, the small arrays do not.
    assert "8 devices, data=2, height=1, fsdp=4; each holds 3" in said
    _assert_same(tables["parts"], tables["one"])
    assert scores["parts"] == pytest.approx(scores["one"], abs=5e-3)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_and_continue_its_run(tmp_path):
    """Two real processes of four devices each, over the loopback; the first one writes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    _trained(tmp_path, [("one", 4, "data=1", False)])
    shutil.copytree(tmp_path / "one", tmp_path / "longer")
    runs = json.dumps([("two", 4, None, False), ("longer", 6, "fsdp=8", True)])
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RUNS, runs, f"{address},2,{number}"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        for number in range(2)
    ]
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said[0][1][-3000:] + said[1][1][-3000:]
    assert "8 devices, data=8, height=1" in said[0][0] and "resuming longer after step 4 of 6" in said[0][0]
    rest = [line for line in said[1][0].splitlines() if line.strip() and not line.startswith("[Gloo]")]
    assert not rest, "the first process alone speaks"
    tables, scores, _ = _trained(tmp_path, [("one", 6, "data=1", True), ("two", 6, "data=1", True)])
    longer = np.genfromtxt(tmp_path / "longer" / "metrics.csv", delimiter=",", names=True)
    _assert_same(tables["two"], tables["one"])
    _assert_same(longer, tables["one"])
    assert len(longer) == 6
    assert json.loads((tmp_path / "longer" / "results.json").read_text())["miou"] == pytest.approx(
        scores["one"], abs=5e-3
    )


@pytest.mark.parametrize(
    ("hosts", "message"),
    [("1,2", "must be auto, or ADDRESS:PORT"), ("a:1,2", "must be auto"), ("a:1,2,2", "have the numbers 0..1")],
)
def test_hosts_that_cannot_be_are_refused(hosts, message):
    with pytest.raises(ValueError, match=message):
        join_hosts(hosts)


def test_parts_of_one_process_are_the_whole():
    devices = Devices.of("data=1", batch_size=12, rows=96)
    assert devices.part(12) == (0, 12) and devices.first and devices.agreed(7) == 7
    assert list(devices.own_share([1, 2, 3])) == [1, 2, 3] and devices.total(np.int64(5)) == 5


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ("data=4096", "needs 4096 devices"),
        ("width=2", "'width=2' is not data=NUMBER or height=NUMBER"),
        ("data=1,data=1", "comes twice"),
        ("data", "'data' is not"),
        ("data=0", "'data=0' is not"),
        ("data=2,fsdp=5", "needs 10 devices"),
    ],
)
def test_meshes_that_cannot_be_are_refused(mesh, message):
    with pytest.raises(ValueError, match=message):
        Devices.of(mesh, batch_size=12, rows=96)
