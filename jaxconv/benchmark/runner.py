"""Measure contenders in turn, in one process: A B C A B C ..., the best of several, as ratios."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp

from jaxconv import lowering
from jaxconv.benchmark.cases import Layer
from jaxconv.benchmark.contenders import CONTENDERS, TASKS, Absent, Prepared

# A sample shorter than this is mostly the clock's and the scheduler's; calls are repeated until it is reached.
SAMPLE = 4e-3


@dataclasses.dataclass
class Row:
    """One layer and task: seconds, first-call seconds and temporary bytes by contender, and who was absent and why."""

    layer: str
    task: str
    multiply_adds: int
    bytes: int
    chosen: dict[str, str]
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    first_call: dict[str, float] = dataclasses.field(default_factory=dict)
    temporary_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    absent: dict[str, str] = dataclasses.field(default_factory=dict)

    def ratio(self, peer: str) -> float | None:
        """Peer's time over ours; above 1 jaxconv is faster."""
        if peer in self.seconds and "jaxconv" in self.seconds:
            return self.seconds[peer] / self.seconds["jaxconv"]
        return None


def _sample(call: Callable[[], Any], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def time_in_turn(calls: dict[str, Callable[[], Any]], repeats: int, budget: float = 4.0) -> dict[str, float]:
    """Best seconds of each call over interleaved repeats; one that has used its budget (seconds) drops out."""
    counts, best, spent = {}, {}, dict.fromkeys(calls, 0.0)
    for name, call in calls.items():
        once = _sample(call, 1)
        counts[name] = max(1, math.ceil(SAMPLE / max(once, 1e-6)))
        best[name] = once
    for _ in range(repeats):
        for name, call in calls.items():
            if spent[name] > budget:
                continue
            took = _sample(call, counts[name])
            spent[name] += took * counts[name]
            best[name] = min(best[name], took)
    return best


def explain(layer: Layer, dtype: str = "float32") -> dict[str, str]:
    """The lowering that the choice gives to each of a layer's faces."""
    i, o = layer.conv_channels
    kind = jnp.dtype(dtype)
    platform_name = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    return {
        face: lowering.choose(lowering.Call(face, layer.geometry, layer.batch, i, o, kind, kind, None, platform_name))
        for face in ("apply", "adjoint", "kernel")
    }


def measure(
    layers: Iterable[Layer],
    contenders: Sequence[str] = tuple(CONTENDERS),
    tasks: Sequence[str] = TASKS,
    *,
    dtype: str = "float32",
    repeats: int = 7,
    progress: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Time every contender on every layer and task, in turn.

    Args:
        layers: what to measure.
        contenders: names from `CONTENDERS`.
        tasks: "forward", "gradients" (both gradients alone).
        dtype: of all operands.
        repeats: interleaved repeats; the best counts.
        progress: called with each finished row.

    Returns:
        One row a layer and task.
    """
    rows = []
    for layer in layers:
        i, o = layer.conv_channels
        for task in tasks:
            work = layer.multiply_adds * (2 if task == "gradients" else 1)
            row = Row(layer.name, task, work, layer.elements * jnp.dtype(dtype).itemsize, explain(layer, dtype))
            ready: dict[str, Prepared] = {}
            for name in contenders:
                try:
                    ready[name] = CONTENDERS[name](layer, task, dtype)
                except Absent as reason:
                    row.absent[name] = str(reason)
            row.seconds = time_in_turn({name: p.call for name, p in ready.items()}, repeats)
            row.first_call = {n: p.first_call for n, p in ready.items() if p.first_call is not None}
            row.temporary_bytes = {n: p.temporary_bytes for n, p in ready.items() if p.temporary_bytes is not None}
            rows.append(row)
            progress(row)
    return rows


def machine_peaks(dtype: str = "float32") -> dict[str, float]:
    """What this machine reaches in this run: multiply-adds a second of a large matrix product, bytes a second of a
    copy."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(jnp.matmul)
    copy = jax.jit(lambda v: v + 1)
    jax.block_until_ready((product(a, a), copy(a)))
    best = time_in_turn(
        {
            "product": lambda: jax.block_until_ready(product(a, a)),
            "copy": lambda: jax.block_until_ready(copy(a)),
        },
        5,
    )
    return {"multiply_adds": size**3 / best["product"], "bytes": 2 * a.nbytes / best["copy"]}


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    versions = {"jax": jax.__version__, "python": platform.python_version()}
    for name in ("flax", "equinox", "torch"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    device = jax.devices()[0]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": device.device_kind,
        "cores": os.cpu_count(),
        "versions": versions,
    }


def summary(rows: Sequence[Row], peer: str, task: str) -> tuple[float, float, str] | None:
    """(geometric mean, worst, worst's layer) of peer's time over ours."""
    found = [(ratio, r.layer) for r in rows if r.task == task and (ratio := r.ratio(peer)) is not None]
    if not found:
        return None
    worst = min(found)
    mean = math.exp(sum(math.log(ratio) for ratio, _ in found) / len(found))
    return mean, worst[0], worst[1]
