"""Measure contenders in turn, in one process: A B C A B C ..., the best of several, as ratios."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp

from jaxconv import lowering, native
from jaxconv.benchmark.cases import Layer
from jaxconv.benchmark.contenders import CONTENDERS, TASKS, Absent, Prepared
from jaxconv.benchmark.memory import resident_bytes

# A sample shorter than this is mostly the clock's and the scheduler's; calls are repeated until it is reached.
SAMPLE = 4e-3
# A call of so many seconds is not called twice to see whether its first time was a slow one.
SLOW = 0.25
# Seconds of rest before each sample: PyTorch's threads keep spinning for 4 to 8 ms after a call, on the cores
# that the next contender needs.
REST = 12e-3
# The tasks that are one face each, in the order of `Layer.faces`.
SINGLE = ("forward", "data gradient", "kernel gradient")


@dataclasses.dataclass
class Row:
    """One layer and task, and what was measured of each contender.

    Attributes:
        layer: its name.
        task: forward, gradients, data gradient or kernel gradient.
        face: the face that is this task: apply, adjoint or kernel; None for both gradients.
        multiply_adds: nominal work, padding included.
        bytes: of the tensors that the task must read and write.
        chosen: jaxconv's lowering of each face.
        seconds: best time of a call.
        compile: seconds to trace, lower and compile, from empty caches.
        first_call: the same and the first run; for PyTorch its first run.
        temporary_bytes: beside operands and results, as the compiler says.
        peak_bytes: operands, and how far resident memory rose during a call, but no less than operands and results; on
            an accelerator operands, results and temporaries.
        absent: who could not take part, and why.
    """

    layer: str
    task: str
    face: str | None
    multiply_adds: int
    bytes: int
    chosen: dict[str, str]
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    compile: dict[str, float] = dataclasses.field(default_factory=dict)
    first_call: dict[str, float] = dataclasses.field(default_factory=dict)
    temporary_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    peak_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    absent: dict[str, str] = dataclasses.field(default_factory=dict)

    def ratio(self, peer: str) -> float | None:
        """Peer's time over ours; above 1 jaxconv is faster."""
        if peer in self.seconds and "jaxconv" in self.seconds:
            return self.seconds[peer] / self.seconds["jaxconv"]
        return None

    def cost(self, kind: str, peer: str = "lax") -> float | None:
        """Our `compile`, `first_call` or `peak_bytes` over the peer's; below 1 jaxconv takes less."""
        found = getattr(self, kind)
        if peer in found and "jaxconv" in found:
            return found["jaxconv"] / found[peer]
        return None


def _sample(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def _calibrated(call: Callable[[], object]) -> tuple[int, float]:
    """How many calls fill a sample, and the seconds of one.

    Found by trying: a first call may take ten times as long as the next, and a sample of as few calls as that suggests
    would be mostly the wait that it begins with.
    """
    took, count = _sample(call, 1), 1
    if took > SLOW:
        return count, took
    while (took := _sample(call, count)) * count < SAMPLE:
        count = max(count + 1, min(8 * count, math.ceil(SAMPLE / max(took, 1e-6))))
    return count, took


def time_in_turn(calls: dict[str, Callable[[], object]], repeats: int, budget: float = 4.0) -> dict[str, float]:
    """Best seconds of each call over interleaved repeats; one that has used its budget (seconds) drops out."""
    counts, best, spent = {}, {}, dict.fromkeys(calls, 0.0)
    for name, call in calls.items():
        counts[name], best[name] = _calibrated(call)
    for _ in range(repeats):
        for name, call in calls.items():
            if spent[name] > budget:
                continue
            time.sleep(REST)
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
        face: lowering.choose(
            lowering.Call(face, layer.geometry, layer.batch, i, o, kind, kind, None, platform_name, True)
        )
        for face in ("apply", "adjoint", "kernel")
    }


def measure(
    layers: Iterable[Layer],
    contenders: Sequence[str] = tuple(CONTENDERS),
    tasks: Sequence[str] = TASKS,
    *,
    dtype: str = "float32",
    repeats: int = 7,
    budget: float = 2.0,
    memory: bool = True,
    progress: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Time every contender on every layer and task, in turn.

    Args:
        layers: what to measure.
        contenders: names from `CONTENDERS`.
        tasks: "forward", "gradients" (both, without the forward pass), "data gradient", "kernel gradient".
        dtype: of all operands.
        repeats: interleaved repeats; the best counts.
        budget: seconds after which a contender's repeats end.
        memory: whether to watch the peak of resident memory too.
        progress: called with each finished row.

    Returns:
        One row a layer and task.
    """
    rows = []
    size = jnp.dtype(dtype).itemsize
    for layer in layers:
        for task in tasks:
            ready: dict[str, Prepared] = {}
            absent: dict[str, str] = {}
            for name in contenders:
                try:
                    ready[name] = CONTENDERS[name](layer, task, dtype)
                except Absent as reason:
                    absent[name] = str(reason)
            both = task == "gradients"
            row = Row(
                layer.name,
                task,
                None if both else dict(zip(SINGLE, layer.faces, strict=True))[task],
                layer.multiply_adds * (2 if both else 1),
                # Both gradients read the two operands and the cotangent, and write as much as they read of the former.
                (layer.elements * 2 - math.prod(layer.shapes[layer.result]) if both else layer.elements) * size,
                explain(layer, dtype),
                absent=absent,
            )
            row.seconds = time_in_turn({name: p.call for name, p in ready.items()}, repeats, budget)
            for name, p in ready.items():
                _costs(row, name, p, memory)
            rows.append(row)
            progress(row)
    return rows


def _costs(row: Row, name: str, p: Prepared, memory: bool) -> None:
    """Fill in what a contender costs beside its time."""
    if p.compile is not None:
        row.compile[name] = p.compile
    if p.first_call is not None:
        row.first_call[name] = p.first_call
    if p.temporary_bytes is not None:
        row.temporary_bytes[name] = p.temporary_bytes
    if jax.default_backend() == "cpu":
        rise = resident_bytes(p.call) if memory else None
        if rise is not None:
            # Results and temporaries may take memory that was resident already, such as an earlier call's; they count
            # all the same.
            row.peak_bytes[name] = max(row.bytes + (p.temporary_bytes or 0), p.operand_bytes + rise)
    elif p.temporary_bytes is not None:
        row.peak_bytes[name] = row.bytes + p.temporary_bytes


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


def _processor() -> str:
    """The processor's name, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    versions = {"jax": jax.__version__, "python": platform.python_version()}
    for name in ("flax", "equinox", "torch"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    device = jax.devices()[0]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "platform": device.platform,
        "device": device.device_kind if device.platform != "cpu" else _processor(),
        "cores": os.cpu_count(),
        "kernels": native.instructions() if device.platform == "cpu" else None,
        "versions": versions,
    }


@dataclasses.dataclass(frozen=True)
class Summary:
    """Geometric mean of ratios, the worst one with its layer, and how many there are."""

    mean: float
    worst: float
    layer: str
    count: int


def summarise(found: Iterable[tuple[float | None, str]], worst: Callable[..., Any] = min) -> Summary | None:
    """What ratios (ratio, layer) come to; None where there are none. `worst` is max where less is better."""
    ratios = [(ratio, layer) for ratio, layer in found if ratio is not None]
    if not ratios:
        return None
    mean = math.exp(sum(math.log(ratio) for ratio, _ in ratios) / len(ratios))
    ratio, layer = worst(ratios)
    return Summary(mean, ratio, layer, len(ratios))


def speed(rows: Iterable[Row], peer: str, *, task: str | None = None, face: str | None = None) -> Summary | None:
    """Peer's time over ours, over the rows of a task or a face."""
    return summarise(
        (row.ratio(peer), row.layer)
        for row in rows
        if (task is None or row.task == task) and (face is None or row.face == face)
    )
