"""What XLA puts between the chips of a TPU slice for training steps: few rows between neighbours, nothing whole."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
# Bytes of the largest activation in bfloat16 (16 x 128 x 128 x 32), over all chips.
LARGEST = 16 * 128 * 128 * 32 * 2


def collectives(*arguments):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, HERE / "tpu_sharding_checks.py", *arguments], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.tpu_compile
@pytest.mark.parametrize("how", ["batch", "height", "both"])
@pytest.mark.parametrize(("network", "rows"), [("unet", 1), ("deeplab", 4)])
def test_sixteen_chips_exchange_a_few_rows_and_gather_nothing_large(network, rows, how):
    """Halos are as high as the kernels reach; nothing larger than the logits that are resized is gathered or summed."""
    found = collectives("v5e:4x4", network, how)
    names = {c["opcode"] for c in found}
    assert "all-to-all" not in names
    gathered = [c["bytes"] for c in found if c["opcode"] == "all-gather"]
    halos = [c for c in found if c["opcode"] == "collective-permute"]
    summed = [c["bytes"] for c in found if c["opcode"] in ("all-reduce", "reduce-scatter")]
    assert all(size <= LARGEST // 16 for size in gathered + summed), found
    assert len(gathered) <= (network == "deeplab" and how != "batch"), found
    assert bool(halos) == (how != "batch")
    for halo in halos:
        assert all(shape[1] <= rows for shape in halo["shapes"] if len(shape) == 4), halo
    assert sum(halo["bytes"] for halo in halos) <= LARGEST // 2


@pytest.mark.tpu_compile
def test_four_chips_with_the_height_split_exchange_single_rows():
    """In kernel gradients of transposed layers, too: whole shards would move if their operands changed roles."""
    found = collectives("v5e:2x2", "unet", "height")
    assert not [c for c in found if c["opcode"] in ("all-gather", "all-to-all")]
    halos = [shape for c in found if c["opcode"] == "collective-permute" for shape in c["shapes"] if len(shape) == 4]
    assert halos and all(shape[1] == 1 for shape in halos)
