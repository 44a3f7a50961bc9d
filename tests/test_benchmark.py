"""The benchmark measures one thing for everybody: contenders and networks agree in value; records are whole."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

pytest.importorskip("tyro")

from jaxconv import benchmark
from jaxconv.benchmark import (
    backends,
    contenders,
    hardware,
    networks,
    programs,
    random_layers,
    report,
    resizing,
    runner,
    scaling,
)
from jaxconv.benchmark.cases import Layer
from jaxconv.benchmark.memory import resident_bytes
from jaxconv.benchmark.runner import Row, Summary, speed
from jaxconv.cli import main
from jaxconv.jaxprs.surgery import map_jaxprs
from jaxconv.ops import conv_transpose

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAYERS = {
    "strided": Layer("strided", 2, (9, 8), 4, 6, (3, 3), 2, 1, 1),
    "transposed": Layer("transposed", 1, (5, 4), 4, 6, (3, 3), 2, 1, 1, 1, True, 1),
    "grouped, dilated": Layer("grouped, dilated", 1, (9,), 4, 6, (3,), 1, 2, 2, 2),
    "causal": Layer("causal", 1, (9,), 4, 6, (3,), 1, 2, "CAUSAL"),
    "grouped, transposed": Layer("grouped, transposed", 1, (5,), 4, 6, (4,), 2, 1, 1, 2, True),
}


@pytest.fixture
def quick(monkeypatch):
    """Values do not depend on how compilation is timed."""
    monkeypatch.setattr(contenders, "COMPILATIONS", 1)
    monkeypatch.setattr(contenders, "fresh_caches", lambda: None)


def outputs(layer, name, task):
    """Every array a contender computes, channels last; kernel gradients as lax lays them out."""
    got = [np.asarray(a) for a in jax.tree.leaves(contenders.CONTENDERS[name](layer, task, "float32").call())]
    first = name in ("equinox", "torch")
    kernel_at = {"gradients": 1, "kernel gradient": 0}.get(task)
    for i, a in enumerate(got):
        got[i] = np.moveaxis(a, 1, -1) if first else a
        if i == kernel_at:
            got[i] = np.moveaxis(a, (0, 1), (-1, -2)) if first else a
            got[i] = contenders.plain_kernel(layer, got[i]) if name in ("jaxconv", "torch") else got[i]
    return got


# One of each in the quick tests: each compiles some twenty programs.
@pytest.mark.parametrize(
    "layer",
    [pytest.param(layer, id=name, marks=[pytest.mark.slow] * (name != "transposed")) for name, layer in LAYERS.items()],
)
def test_contenders_compute_the_same(layer, quick):
    """The output and both gradients of each contender that is installed."""
    compared = 0
    want = {task: outputs(layer, "jaxconv", task) for task in contenders.TASKS}
    assert [len(want[task]) for task in contenders.TASKS] == [1, 2, 1, 1]
    np.testing.assert_array_equal(want["data gradient"][0], want["gradients"][0])
    np.testing.assert_array_equal(want["kernel gradient"][0], want["gradients"][1])
    for name, tasks in {
        "lax": contenders.TASKS,
        "flax": ("forward", "gradients"),  # the tasks of one gradient are made of the same function
        "equinox": ("forward", "gradients"),
        "torch": contenders.TASKS,
    }.items():
        for task in tasks:
            try:
                got = outputs(layer, name, task)
            except contenders.Absent:
                continue
            for a, b in zip(got, want[task], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=f"{name} {task}")
            compared += 1
    assert compared >= 4


# PyTorch's statements are held against the networks in test_models_parity.py; here all contenders, in a training step.
SMALL = {
    "unet": ((1, 8, 8, 3), {"in_channels": 3, "classes": 2, "widths": (2, 4)}),
    "unet 3-D": ((1, 4, 8, 4, 1), {"in_channels": 1, "classes": 2, "widths": (2, 4), "rank": 3}),
    "dcgan_generator": ((2, 6), {"latent": 6, "width": 4}), "fsrcnn": ((1, 9, 8, 3), {}),
    "wavenet": ((1, 12, 5), {"classes": 5, "residual": 4, "dilated": 4, "skip": 4, "end": 4, "layers": 2, "blocks": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "fsrcnn")) for n in SMALL])
def test_networks_are_the_same_network_for_every_contender(name):
    """The loss of a training step with PyTorch's weights, and the parameters after it."""
    nnx = pytest.importorskip("flax.nnx")
    shape, settings = SMALL[name]
    net, task = networks.Network(name, name.split()[0], shape, tuple(settings.items())), backends.TASKS[0]
    params, rest, x = backends.inputs(net, task, "float32")
    figures = {}
    if importlib.util.find_spec("torch") is not None:
        from jaxconv.convert import load

        module = backends.statement(net)
        model = load(nnx.merge(backends.made(net, task, "float32")[0], params, rest), module.state_dict())
        params, rest = nnx.split(model, nnx.Param, ...)[1:]
        step = backends.torch_step(contenders.torch_formats(net.rank)[0], net, "float32", task, module)
        figures["torch"] = float(step()[0].detach())
    moved = {}
    for who in backends.NETWORK_CONTENDERS[:3]:
        out = jax.jit(backends.function(net, who, task, "float32"))(params, rest, x)
        pairs = zip(jax.tree.leaves(out[1]), jax.tree.leaves(params), strict=True)
        figures[who], moved[who] = float(out[0]), np.concatenate([np.ravel(a - b) for a, b in pairs])
    for figure in figures.values():
        assert figure == pytest.approx(figures["lax"], rel=1e-4), figures
    for who, update in moved.items():  # statistics of few pixels: rounding counts for more than in the loss
        assert np.linalg.norm(update - moved["lax"]) <= 0.03 * np.linalg.norm(moved["lax"]), who


def test_the_lax_contender_has_no_face_of_ours():
    """Neither before nor after differentiation; ours has nothing but faces."""
    f = backends.with_lax(lambda x, w: jax.nn.relu(conv_transpose(jax.nn.relu(x), w, stride=2)))
    x, w = np.ones((1, 3, 3, 2), np.float32), np.ones((3, 3, 4, 2), np.float32)
    text = str(jax.make_jaxpr(jax.grad(lambda x, w: f(x, w).sum(), 1))(x, w))
    assert "conv_general_dilated" in text and "conv_adjoint" not in text and "conv_kernel" not in text
    np.testing.assert_allclose(f(x, w), conv_transpose(x, w, stride=2), rtol=1e-6)


NETWORKS = {net.name: net for net in networks.ON_CPU}
ONES_WITH_STATISTICS = ("DCGAN generator, width 32", "UNet 3-D 8..32")


@pytest.mark.parametrize(
    "name",
    [n if n in ONES_WITH_STATISTICS else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS],
)
def test_a_step_in_half_precision_convolves_nothing_in_float32(name):
    """Normalisation has float32 statistics, and what is behind it must not become float32 by them."""
    from jaxconv import trilinear

    found = []

    def note(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive in trilinear.FACES:
                found.extend(v.aval.dtype for v in (*eqn.invars, *eqn.outvars))
            map_jaxprs(note, dict(eqn.params))
        return jaxpr

    net, task = NETWORKS[name], "training step"
    step = backends.function(net, "jaxconv", task, "bfloat16")
    note(jax.make_jaxpr(step)(*backends.operands(net, task, "bfloat16")).jaxpr)
    assert found and {str(dtype) for dtype in found} == {"bfloat16"}


@pytest.mark.slow
def test_every_registered_network_is_measured(tmp_path, quick, capsys):
    registered = set(pytest.importorskip("jaxconv.models").REGISTRY)
    assert {net.model for net in networks.ON_CPU} == registered
    out = tmp_path / "networks.json"
    record = benchmark.bench_networks(["fsrcnn"], contenders=("jaxconv", "torch"), repeats=1, out=out)
    assert list(record["networks"]) == ["FSRCNN x2, training step", "FSRCNN x2, inference"]
    assert json.loads(out.read_text()) == record
    for bad in ({"cases": ["alexnet"]}, {"contenders": ["nobody"]}, {"tasks": ["rest"]}):
        with pytest.raises(ValueError, match="unknown"):
            benchmark.bench_networks(**bad)


def test_random_layers_are_the_same_for_the_same_seed_and_others_for_another():
    assert random_layers(5, 3) == random_layers(5, 3) != random_layers(5, 4)


@pytest.mark.slow
def test_a_run_prints_a_table_and_writes_a_whole_record(tmp_path, capsys, quick):
    out, picture = tmp_path / "deep" / "bench.json", tmp_path / "bench.png"
    benchmark.bench(["first layer"], contenders=("jaxconv", "lax"), repeats=1, out=out, picture=picture)
    said = capsys.readouterr().out
    assert "peer's time / jaxconv's" in said and "roofline" in said and "first call" in said
    record = json.loads(out.read_text())
    assert [row["task"] for row in record["real"]] == list(contenders.TASKS)
    assert [row["face"] for row in record["real"]] == ["apply", None, "adjoint", "kernel"]
    for row in record["real"]:
        for kind in ("seconds", "compile", "first_call", "peak_bytes"):
            assert set(row[kind]) == {"jaxconv", "lax"} and min(row[kind].values()) > 0, kind
        assert row["first_call"]["lax"] > row["compile"]["lax"]
    assert picture.stat().st_size > 10_000 and list(out.parent.iterdir()) == [out]
    with pytest.raises(ValueError, match="unknown contenders"):
        benchmark.bench(contenders=("nobody",))
    with pytest.raises(ValueError, match="must have jaxconv"):
        benchmark.bench(contenders=("lax",))
    with pytest.raises(ValueError, match="unknown tasks"):
        benchmark.bench(tasks=("backward",))


def row(seconds, **changes):
    made = Row("a", "forward", "apply", 1, 1, {"apply": "taps"}, seconds, {"jaxconv": 3.0, "lax": 2.0})
    return dataclasses.replace(made, **changes)


def test_ratios_are_peer_over_ours():
    fast = row({"jaxconv": 2.0, "lax": 8.0})
    even = row({"jaxconv": 2.0, "lax": 2.0}, layer="b")
    assert fast.ratio("lax") == 4.0 and fast.ratio("torch") is None
    assert fast.cost("compile") == 1.5 and fast.cost("peak_bytes") is None
    assert speed([fast, even], "lax", task="forward") == speed([fast, even], "lax", face="apply")
    assert speed([fast, even], "lax", task="forward") == Summary(2.0, 1.0, "b", 2)
    assert speed([fast], "lax", task="gradients") is None
    assert "mean    2.00   worst   1.00" in report.table([fast, even], "two")
    assert "mean  1.50   most  1.50" in report.costs_table([fast, even])
    assert report.roofline(fast, {"multiply_adds": 1.0, "bytes": 4.0}) == 0.5


def test_targets_table_says_what_is_reached(tmp_path, capsys):
    record = {
        "platform": "cpu", "device": "a processor", "cores": 2, "date": "2026-01-01", "dtype": "float32",
        "versions": {"jax": "0.10.2"}, "peaks": {"multiply_adds": 1.0, "bytes": 1.0},
        "real": [dataclasses.asdict(row({"jaxconv": 1.0, "lax": 4.0, "torch": 0.5}))],
        "unseen": [dataclasses.asdict(row({"jaxconv": 1.0, "lax": 7.0, "torch": 2.0}, layer="c"))],
    }  # fmt: skip
    path = tmp_path / "layers.json"
    report.write_json(path, record)
    assert main(["bench", "--targets", str(path)]) == 0
    said = capsys.readouterr().out
    assert "CPU: 2-core a processor, float32, 2026-01-01; jax 0.10.2" in said
    for expected in (
        "| forward, against lax | >= 3, >= 0.9 | >= 6, >= 1 | 1 real layers | 4.00 | 4.00 | a | first version |",
        "| forward, against lax | >= 3, >= 0.9 | >= 6, >= 1 | 1 random layers | 7.00 | 7.00 | c | ambition |",
        "| forward, against torch | >= 0.8, >= 0.1 | >= 1.2, >= 0.7 | 1 real layers | 0.50 | 0.50 | a | no |",
        "| trace + compile, over lax's | -, <= 3 | -, <= 1.5 | 1 real layers | 1.50 | 1.50 | a | ambition |",
        "GPU: not measured",
        "| kernel face, against lax | >= 5, >= 0.9 | >= 12, >= 1 | not measured | | | | |",
    ):
        assert expected in said, said
    assert "gradients, against lax" not in said  # nothing of it was measured
    (tmp_path / "other.json").write_text('{"networks": {}}')
    assert main(["bench", "--targets", str(tmp_path / "other.json")]) == 1
    assert "other.json is no record of `jaxconv bench layers --out`" in capsys.readouterr().err
    del record["real"][0]["face"]
    report.write_json(path, record)
    assert main(["bench", "--targets", str(path)]) == 1
    assert "measure again" in capsys.readouterr().err


def test_resident_memory_of_a_call_is_what_it_touches():
    size = 40_000_000
    measured = resident_bytes(lambda: np.ones(size, np.uint8))
    if measured is None:
        pytest.skip("resident memory cannot be read on this system")
    # the kernel counts pages a thread in batches, so the figure is right to a few dozen pages, not to one
    assert 0.95 * size < measured < 1.5 * size
    assert resident_bytes(lambda: None) < size / 10


def test_scaling_writes_a_record_and_a_picture(tmp_path, capsys, quick):
    sweep = list(scaling.points())
    assert {(p.base, p.axis) for p in sweep} == {(b, a) for b in scaling.BASES for a in scaling.VALUES}
    assert len(sweep) > 120
    some = [p for p in scaling.points(["transposed"], ["stride"], 2)]
    rows = scaling.run(some, 1, ("jaxconv", "lax"))
    assert [(r["axis"], r["value"], r["task"]) for r in rows] == [
        ("stride", value, task) for value in (1, 2) for task in scaling.TASKS
    ]
    scaling.plot(rows, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    assert "transposed, stride 1" in capsys.readouterr().out


def test_cliffs_are_jumps_beyond_the_work_and_losses_to_lax():
    def point(value, ours, lax, work):
        return {
            "base": "convolution", "axis": "size", "value": value, "task": "forward", "multiply_adds": work,
            "bytes": work, "seconds": {"jaxconv": ours, "lax": lax}, "chosen": {"apply": f"m{value}"},
        }  # fmt: skip

    smooth = [point(8, 1e-3, 1e-3, 10), point(16, 4e-3, 4e-3, 40), point(32, 7e-3, 6.5e-3, 40)]
    assert scaling.cliffs(smooth) == []
    assert scaling.cliffs([point(8, 1e-6, 1.0, 10), point(16, 9e-5, 1.0, 10)]) == []  # overhead, not work
    (jump,) = scaling.cliffs([point(16, 9e-3, 1.0, 20), point(8, 1e-3, 1.0, 10)])
    assert jump.startswith(
        "convolution, forward: size 8 -> 16 takes 9.0 times as long for 2.0 times the work (m8 -> m16)"
    )
    (loss,) = scaling.cliffs([point(8, 2e-3, 1e-3, 10)])
    assert loss == "convolution, forward: size 8 takes 2.000 ms, lax 1.000 ms (m8)"


def test_a_slow_first_call_does_not_shorten_the_samples(monkeypatch):
    """Under a clock that only calls move: 20 ms the first time, 0.1 ms from then on."""
    clock, calls = [0.0], []

    def call():
        clock[0] += 1e-4 if calls else 2e-2
        calls.append(clock[0])

    monkeypatch.setattr(runner.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(runner.time, "sleep", lambda seconds: None)
    best = runner.time_in_turn({"one": call}, 5)["one"]
    assert best == pytest.approx(1e-4) and len(calls) >= 5 * runner.SAMPLE / 1e-4
    assert runner.time_in_turn({"slow": lambda: clock.__setitem__(0, clock[0] + 1)}, 2, 0.5)["slow"] == 1


@pytest.mark.slow
def test_resize_contenders_compute_the_same(quick):
    compared = 0
    for shape, scale, method in (
        ((2, 5, 6, 3), 2.0, "nearest"), ((1, 9, 8, 2), 0.5, "linear, antialias"), ((1, 5, 6, 2), 1.5, "cubic"),
        ((1, 6, 6, 2), 0.5, "area"),
    ):  # fmt: skip
        case = resizing.Case("small", shape, scale, method)
        for task in resizing.TASKS:
            want = np.asarray(resizing.CONTENDERS["jaxconv"](case, task).call())
            for name in ("jax", "torch"):
                if name == "jax" and case.base == "cubic":
                    continue  # its kernel has another coefficient
                with contextlib.suppress(contenders.Absent):
                    got = np.asarray(resizing.CONTENDERS[name](case, task).call())
                    got = np.moveaxis(got, 1, -1) if name == "torch" else got
                    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=f"{case} {task} {name}")
                    compared += 1
    assert compared >= 4
    rows = resizing.measure([resizing.Case("small", (1, 8, 8, 2), 2.0, "linear")], 1)
    assert [row["task"] for row in rows] == ["forward", "gradient"]
    assert "| linear | gradient | jax.image.resize | 1 |" in resizing.table(rows)


def run_program(program, seed=0):
    """A program on random operands."""
    return jax.tree.leaves(program.lower().compile()(*hardware.Data(seed, 2**12).of(program.operands)))


def test_programs_of_layers_are_the_contenders_own(quick):
    """As many operands and results as the measured calls have, and work and bytes as the rows of a run."""
    for layer in (LAYERS["transposed"], LAYERS["grouped, dilated"]):
        for program in programs.layer_programs([layer], "float32", programs.FACES, ("jaxconv", "lax")):
            out = jax.eval_shape(program.function, *program.operands)
            want = contenders.CONTENDERS[program.contender](layer, program.task, "float32").call()
            assert [a.shape for a in jax.tree.leaves(out)] == [a.shape for a in jax.tree.leaves(want)], program
            assert program.multiply_adds == layer.multiply_adds and program.bytes == 4 * layer.elements


@pytest.mark.parametrize("task", programs.FACES)
def test_inner_layers_are_the_same_of_products(task):
    layer = LAYERS["transposed"]
    inner = programs.of_layer(layer, task, "jaxconv", "float32", inner=True)
    factors, *operands = hardware.Data(3, 2**12).of(inner.operands)
    plain = programs.of_layer(layer, task, "jaxconv", "float32")
    held = [operands[0] * factors[0], operands[1], *(a * b for a, b in zip(operands[2:], factors[1:], strict=True))]
    want = jax.tree.leaves(jax.jit(plain.function)(*held))
    got = jax.tree.leaves(jax.jit(inner.function)(factors, *operands))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
    assert float(np.abs(want[0]).max()) > 0 and inner.multiply_adds == plain.multiply_adds


@pytest.mark.slow
def test_neighbours_are_what_jax_users_would_write():
    """Values and gradients of every pair, apart from unfold, whose columns have another order, and from cubic."""
    compared = 0
    found = programs.neighbour_programs(programs.neighbours(2, 16, 4), "float32")
    by_row = {}
    for program in found:
        by_row.setdefault(program.row, {})[program.contender] = program
    for (what, task), pair in by_row.items():
        assert pair["jaxconv"].bytes > 0
        if (
            "fold" in what
            or "cubic" in what
            or "lax" not in pair
            or (what, task) == ("max_pool 2, indices", "gradient")
        ):
            continue
        for a, b in zip(run_program(pair["jaxconv"]), run_program(pair["lax"]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=f"{what} {task}")
            compared += 1
    assert compared == 16 and len(by_row) == 28


def test_calls_are_queued_back_to_back_and_the_best_sample_counts(monkeypatch):
    """Under a clock that only waiting moves: 1 ms for each call queued, and 9 ms more for the first wait."""
    clock, queued, waits = [0.0], [], []

    def wait(handle):
        clock[0] += 1e-3 * len(queued) + (0 if waits else 9e-3)
        waits.append(len(queued))
        queued.clear()

    monkeypatch.setattr(hardware.time, "perf_counter", lambda: clock[0])
    best = hardware.time_in_turn({"one": hardware.Call(lambda: queued.append(1), wait)}, 3, sample=19.5e-3)
    assert best == {"one": pytest.approx(1e-3)} and waits[-3:] == [20, 20, 20]


@pytest.mark.slow
def test_the_accelerator_script_can_be_rehearsed(tmp_path):
    out = tmp_path / "record.json"
    command = [sys.executable, "benchmarks/on_accelerator.py", "--rehearse", "--budget", "900", "--out", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    sections = json.loads(out.read_text())["sections"]
    assert list(sections) == ["tests", "networks", "layers", "neighbours", "tf32", "compile"]
    assert sections["tests"]["passed"]
    for name, least in (("networks", 4), ("layers", 6), ("neighbours", 10), ("tf32", 6)):
        rows = [row for row in sections[name]["rows"] if "jaxconv" in row["seconds"]]
        assert len(rows) >= least, sections[name]
    assert "slower than a peer by more than 2%" in done.stdout
