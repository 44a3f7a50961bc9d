"""Training on eight virtual devices: the losses of one, and checkpoints that go from mesh to mesh."""

import json
import os
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
from jaxconv.train.devices import Devices

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
        self.down = jaxconv.nn.Conv(in_channels, 4, (3, 3), stride=2, padding=1, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.up = jaxconv.nn.ConvTranspose(4, classes, (4, 4), stride=2, padding=1, rngs=rngs)

    def __call__(self, x):
        return self.up(self.dropout(nnx.relu(self.norm(self.down(x)))))

jaxconv.models.REGISTRY["small"] = Small
assert jax.device_count() == 8
lines = []
class Lines(Console):
    def print(self, *words, **options):
        lines.extend(map(str, words))
for folder, steps, mesh, extend in json.loads(sys.argv[1]):
    config = TrainConfig().override(model="small", crop=(32, 32), steps=steps, batch_size=8, log_every=1, eval_every=2,
        eval_images=3, test_images=5, checkpoint_every=2, warmup_steps=1)
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
def test_a_batch_split_by_example_and_by_rows_has_the_losses_of_one_device(tmp_path):
    runs = [("one", 2, "data=1", False), ("rows", 2, "data=2,height=4", False)]
    tables, scores, said = _trained(tmp_path, runs)
    assert "8 devices, data=2, height=4" in said
    _assert_same(tables["rows"], tables["one"])
    assert scores["rows"] == pytest.approx(scores["one"], abs=5e-3)


@pytest.mark.slow
def test_meshes_read_each_others_checkpoints(tmp_path):
    runs = [
        ("one", 4, "data=1", False),
        ("all", 4, None, False),
        ("rows", 4, "data=2,height=4", False),
        ("one", 6, "data=2,height=4", True),
        ("rows", 6, "data=1", True),
    ]
    tables, scores, said = _trained(tmp_path, runs)
    assert "8 devices, data=8, height=1" in said and "resuming one after step 4 of 6" in said
    _assert_same(tables["all"], tables["one"][:4])
    _assert_same(tables["rows"], tables["one"])
    assert len(tables["one"]) == 6 and scores["rows"] == pytest.approx(scores["one"], abs=5e-3)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ("data=4096", "needs 4096 devices"),
        ("width=2", "'width=2' is not data=NUMBER or height=NUMBER"),
        ("data=1,data=1", "comes twice"),
        ("data", "'data' is not"),
        ("data=0", "'data=0' is not"),
    ],
)
def test_meshes_that_cannot_be_are_refused(mesh, message):
    with pytest.raises(ValueError, match=message):
        Devices.of(mesh, batch_size=12, rows=96)
