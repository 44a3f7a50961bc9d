"""The benchmark measures one thing for everybody: contenders and networks agree in value; records are whole."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv import benchmark
from jaxconv.benchmark import contenders, networks, random_layers, report
from jaxconv.benchmark.cases import Layer

LAYERS = {
    "strided": Layer("strided", 2, (9, 8), 4, 6, (3, 3), 2, 1, 1),
    "transposed": Layer("transposed", 1, (5, 4), 4, 6, (3, 3), 2, 1, 1, 1, True, 1),
    "grouped, dilated": Layer("grouped, dilated", 1, (9,), 4, 6, (3,), 1, 2, 2, 2),
    "grouped, transposed": Layer("grouped, transposed", 1, (5,), 4, 6, (4,), 2, 1, 1, 2, True),
}


def outputs(layer, name, task):
    """Every array a contender computes, channels last, its kernel gradient in jaxconv's layout."""
    got = jax.tree.leaves(contenders.CONTENDERS[name](layer, task, "float32").call())
    first = name in ("equinox", "torch")
    return [np.moveaxis(np.asarray(a), 1, -1) if first else np.asarray(a) for a in got[:1]]


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("task", contenders.TASKS)
def test_contenders_compute_the_same(layer, task):
    """The output, and the gradient of the data, of each contender that is installed."""
    want = outputs(layer, "jaxconv", task)
    compared = 0
    for name in ("lax", "flax", "equinox", "torch"):
        try:
            got = outputs(layer, name, task)
        except contenders.Absent:
            continue
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=name)
        compared += 1
    assert compared >= 1


SMALL = {
    "unet": networks.Network("u", "unet", 1, (8, 8), (4, 8)),
    "unet 3-D": networks.Network("v", "unet", 1, (4, 4, 4), (2, 4), 1),
    "stack": networks.Network("s", "stack", 1, (12, 12), (4,), 4),
    "dcgan": networks.Network("d", "dcgan", 1, (2, 2), (8, 4), 6),
    "hifigan": networks.Network("h", "hifigan", 1, (4,), (8, 6, 4, 2), 5),
    "wavenet": networks.Network("w", "wavenet", 1, (40,), (4,), 4),
}


@pytest.mark.parametrize("net", SMALL.values(), ids=SMALL.keys())
def test_networks_are_the_same_network_for_every_contender(net):
    figures = {}
    for name in networks.NETWORK_CONTENDERS:
        try:
            figures[name] = networks.prepare(net, name, "float32")[1]
        except contenders.Absent:
            continue
    assert len(figures) >= 3
    for name, figure in figures.items():
        assert figure == pytest.approx(figures["jaxconv"], rel=1e-4), (name, figures)


def test_random_layers_are_the_same_for_the_same_seed_and_others_for_another():
    assert random_layers(5, 3) == random_layers(5, 3) != random_layers(5, 4)


def test_a_run_prints_a_table_and_writes_a_whole_record(tmp_path, capsys):
    out, picture = tmp_path / "deep" / "bench.json", tmp_path / "bench.png"
    benchmark.bench(["first layer"], contenders=("jaxconv", "lax"), repeats=1, out=out, picture=picture)
    said = capsys.readouterr().out
    assert "peer's time / jaxconv's" in said and "roofline" in said and "first call" in said
    record = json.loads(out.read_text())
    (forward, gradients) = record["real"]
    assert {forward["task"], gradients["task"]} == {"forward", "gradients"}
    assert set(forward["seconds"]) == {"jaxconv", "lax"} and min(forward["seconds"].values()) > 0
    assert picture.stat().st_size > 10_000 and list(out.parent.iterdir()) == [out]
    with pytest.raises(ValueError, match="unknown contenders"):
        benchmark.bench(contenders=("nobody",))


def test_ratios_are_peer_over_ours():
    from jaxconv.benchmark.runner import Row, summary

    row = Row("a", "forward", 1, 1, {}, {"jaxconv": 2.0, "lax": 8.0})
    other = dataclasses.replace(row, layer="b", seconds={"jaxconv": 2.0, "lax": 2.0})
    assert row.ratio("lax") == 4.0 and row.ratio("torch") is None
    mean, worst, layer = summary([row, other], "lax", "forward")
    assert (mean, worst, layer) == (2.0, 1.0, "b")
    assert "mean    2.00   worst   1.00" in report.table([row, other], "two")
    assert jnp.isfinite(report.roofline(row, {"multiply_adds": 1.0, "bytes": 1.0}))
