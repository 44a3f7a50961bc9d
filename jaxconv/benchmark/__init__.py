"""Speed as ratios: real layers and random ones, whole networks, all contenders in turn in one run.

``jaxconv bench`` is [`bench`][jaxconv.benchmark.bench]. Nothing here decides anything at run time; the lowering of a
call is a pure function of its geometry (``jaxconv bench explain LAYER``).
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax

from jaxconv._memory import keep_memory
from jaxconv.benchmark import backends, networks, report, resizing, runner, scaling
from jaxconv.benchmark.cases import REAL, Layer, random_layers, scaled
from jaxconv.benchmark.contenders import CONTENDERS, TASKS, Absent
from jaxconv.benchmark.memory import resident_bytes
from jaxconv.benchmark.targets import read_records, targets_table

__all__ = [
    "CONTENDERS",
    "REAL",
    "TASKS",
    "Layer",
    "bench",
    "bench_networks",
    "bench_resize",
    "bench_scaling",
    "explain",
    "random_layers",
    "read_records",
    "targets_table",
]


def _select(cases: Sequence[str]) -> list[Layer]:
    found = [layer for layer in REAL if not cases or any(c.lower() in layer.name.lower() for c in cases)]
    if not found:
        names = "\n  ".join(layer.name for layer in REAL)
        raise ValueError(f"no layer's name contains any of {list(cases)}; the layers are\n  {names}")
    return found


def bench(
    cases: Sequence[str] = (),
    *,
    random: int = 12,
    seed: int | None = None,
    contenders: Sequence[str] = tuple(CONTENDERS),
    tasks: Sequence[str] = TASKS,
    dtype: str = "float32",
    repeats: int = 7,
    batch_factor: int = 1,
    out: pathlib.Path | None = None,
    picture: pathlib.Path | None = None,
) -> dict:
    """Measure layers, real and random ones, beside lax, flax, equinox and PyTorch in turn, and print ratios.

    Args:
        cases: parts of layer names; none means all real layers.
        random: how many random layers, which no choice was tuned on, are measured apart; none where `cases` are named.
        seed: of the random layers; a fresh one by default, printed.
        contenders: names from jaxconv, lax, flax, equinox, torch.
        tasks: names from forward, gradients (both), data gradient, kernel gradient.
        dtype: of all operands.
        repeats: interleaved repeats; the best counts.
        batch_factor: multiplies every batch, for machines that the sizes would not fill.
        out: JSON file to write.
        picture: PNG file to draw.

    Returns:
        The record that is written to `out`.

    Raises:
        ValueError: an unknown layer, contender or task.
    """
    for given, known, what in ((contenders, CONTENDERS, "contenders"), (tasks, TASKS, "tasks")):
        if unknown := [name for name in given if name not in known]:
            raise ValueError(f"unknown {what} {unknown}; there are {', '.join(known)}")
    if "jaxconv" not in contenders:
        raise ValueError(f"contenders={tuple(contenders)} must have jaxconv among them: ratios are to its times")
    seed = time.time_ns() % 10**6 if seed is None else seed
    real = [scaled(layer, batch_factor) for layer in _select(cases)]
    unseen = [] if cases else [scaled(layer, batch_factor) for layer in random_layers(random, seed)]
    print(f"peaks of this machine in this run: {(peaks := runner.machine_peaks(dtype))}")
    print(
        f"{len(real)} real layers, {len(unseen)} random ones (seed {seed}); {dtype}; best of {repeats} in turn",
        flush=True,
    )

    def show(row) -> None:
        print(f"{report.line(row)}  {report.roofline(row, peaks):.0%} of roofline", flush=True)

    options: dict[str, Any] = {
        "contenders": contenders,
        "tasks": tasks,
        "dtype": dtype,
        "repeats": repeats,
        "progress": show,
    }
    measured = {"real": runner.measure(real, **options), "unseen": runner.measure(unseen, **options)}
    absent = {name: why for rows in measured.values() for row in rows for name, why in row.absent.items()}
    for kind, rows in measured.items():
        if rows:
            print(report.table(rows, f"{kind} layers"))
            print(report.costs_table(rows))
    for name, why in absent.items():
        print(f"  absent somewhere: {name} ({why})")
    record = {
        **runner.machine(),
        "dtype": dtype,
        "seed": seed,
        "repeats": repeats,
        "peaks": peaks,
        **{kind: report.rows_as_json(rows) for kind, rows in measured.items()},
    }
    if out is not None:
        report.write_json(pathlib.Path(out), record)
    if picture is not None:
        report.plot(measured["real"] + measured["unseen"], pathlib.Path(picture))
    return record


def bench_networks(
    cases: Sequence[str] = (),
    *,
    contenders: Sequence[str] = backends.NETWORK_CONTENDERS,
    tasks: Sequence[str] = backends.TASKS,
    dtype: str = "float32",
    repeats: int = 9,
    gpu_sizes: bool = False,
    out: pathlib.Path | None = None,
) -> dict:
    """Measure one training step and one inference of networks of `jaxconv.models`; print times, memory and ratios.

    The process keeps the memory that contenders free, as `jaxconv train` does.

    Args:
        cases: parts of names; none means all networks.
        contenders: names from jaxconv, accelerate, lax, torch; PyTorch's networks are those of a checkout's tests
            (PYTHONPATH=tests).
        tasks: names from training step, inference.
        dtype: of parameters and images.
        repeats: interleaved repeats; the best counts.
        gpu_sizes: the sizes meant for a GPU.
        out: JSON file to write, as networks come.

    Returns:
        The record that is written to `out`.

    Raises:
        ValueError: an unknown network, contender or task.
    """
    every = networks.ON_GPU if gpu_sizes else networks.ON_CPU
    chosen = [net for net in every if not cases or any(c.lower() in net.name.lower() for c in cases)]
    for given, known, what in (
        (contenders, backends.NETWORK_CONTENDERS, "contenders"), (tasks, backends.TASKS, "tasks"),
        (() if chosen else cases, [net.name for net in every], "networks"),
    ):  # fmt: skip
        if unknown := [name for name in given if name not in known]:
            raise ValueError(f"unknown {what} {unknown}; there are {', '.join(known)}")
    keep_memory()
    record: dict = {**runner.machine(), "dtype": dtype, "networks": {}}
    for net in chosen:
        for task in tasks:
            record["networks"][f"{net.name}, {task}"] = _one_network(net, task, contenders, dtype, repeats)
            if out is not None:
                report.write_json(pathlib.Path(out), record)
    return record


def _one_network(net: networks.Network, task: str, contenders: Sequence[str], dtype: str, repeats: int) -> dict:
    ready = {}
    for name in contenders:
        try:
            ready[name] = backends.prepare(net, name, dtype, task)
        except Absent as reason:
            print(f"  absent: {name} ({reason})")
    seconds = runner.time_in_turn({name: p.call for name, p in ready.items()}, repeats, budget=20)
    rises = {name: resident_bytes(p.call) for name, p in ready.items() if jax.default_backend() == "cpu"}
    memory = {name: rise for name, rise in rises.items() if rise is not None}
    print(f"{net.name}: {task}; time, and time over the first's")
    for name, took in seconds.items():
        first = ready[name].first_call
        said = f"first call {first:.1f} s" if first else ""
        rise = f"memory {memory[name] / 2**20:.0f} MiB" if name in memory else ""
        print(
            f"  {name:10} {1e3 * took:8.1f} ms   {took / next(iter(seconds.values())):.2f}   {said} {rise}", flush=True
        )
    return {
        "seconds": seconds,
        "compile": {name: p.compile for name, p in ready.items()},
        "first_call": {name: p.first_call for name, p in ready.items()},
        "temporary_bytes": {name: p.temporary_bytes for name, p in ready.items()},
        "resident_bytes": memory,
    }


def bench_scaling(
    *, repeats: int = 5, most: int | None = None, out: pathlib.Path | None = None, picture: pathlib.Path | None = None
) -> dict:
    """Measure how time grows along each parameter of a layer, and print where it jumps.

    Args:
        repeats: interleaved repeats; the best counts.
        most: how many points of each sweep; all by default.
        out: JSON file to write.
        picture: PNG file to draw.

    Returns:
        The record that is written to `out`.
    """
    rows = scaling.run(list(scaling.points(most=most)), repeats)
    found = scaling.cliffs(rows)
    print("\n".join([f"{len(found)} cliffs", *found]))
    record = {**runner.machine(), "dtype": "float32", "repeats": repeats, "scaling": rows, "cliffs": found}
    if out is not None:
        report.write_json(pathlib.Path(out), record)
    if picture is not None:
        scaling.plot(rows, pathlib.Path(picture))
    return record


def bench_resize(*, repeats: int = 7, most: int | None = None, out: pathlib.Path | None = None) -> dict:
    """Measure `resize` beside jax.image.resize and PyTorch's interpolate, forward and gradient, and print ratios.

    Args:
        repeats: interleaved repeats; the best counts.
        most: how many cases; all by default.
        out: JSON file to write.

    Returns:
        The record that is written to `out`.
    """
    keep_memory()
    rows = resizing.measure(resizing.CASES[:most], repeats)
    print(resizing.table(rows))
    record = {**runner.machine(), "dtype": "float32", "repeats": repeats, "resize": rows}
    if out is not None:
        report.write_json(pathlib.Path(out), record)
    return record


def explain(case: str, dtype: str = "float32") -> str:
    """Which lowering each face of the named layers takes, and what the model expects of every one that serves.

    Args:
        case: part of layer names.
        dtype: of the operands.

    Returns:
        A text table.
    """
    import jax.numpy as jnp

    from jaxconv import lowering
    from jaxconv.lowering import costs

    out, kind = [], jnp.dtype(dtype)
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    for layer in _select([case]):
        i, o = layer.conv_channels
        out.append(f"{layer.name}: x {layer.shapes['x']}, w {layer.shapes['w']}, y {layer.shapes['y']}")
        for face in ("apply", "adjoint", "kernel"):
            call = lowering.Call(face, layer.geometry, layer.batch, i, o, kind, kind, None, platform, True)
            served = [name for name, method in lowering.METHODS.items() if method.serves(call)]
            chosen = lowering.choose(call)
            if platform == "cpu":
                expected = {m: costs.seconds(m, call, lowering.choose) for m in served if m in costs.AMOUNTS}
                why = ", ".join(f"{m} {1e3 * t:.2f} ms" for m, t in sorted(expected.items(), key=lambda item: item[1]))
                rules = {"cpu_kernels": "wherever they can run; ", "fft": "by rule, for kernels of so many taps; "}
                out.append(
                    f"  {face:8} {chosen:15} {rules.get(chosen, '')}XLA's operations, expected on one core: {why}"
                )
            else:
                out.append(f"  {face:8} {chosen:15} by rule, out of {', '.join(served)}")
    return "\n".join(out)
