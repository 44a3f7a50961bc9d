"""Timing on an accelerator: calls queued back to back, contenders in turn."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.benchmark.programs import Program

# A sample lasts about this long, so that queueing a call and the clock weigh little.
SAMPLE = 20e-3
MOST_CALLS = 400
REPEATS = 3
# Numbers drawn once; operands are pieces of them.
POOL = 2**26
# Where pieces begin varies by so much.
SHIFT = 2**16


@dataclasses.dataclass
class Compiled:
    """A program and what became of it.

    Attributes:
        program: what was compiled.
        executable: None where it was not ready in time or failed.
        seconds: to trace, lower and compile.
        why: what went wrong.
    """

    program: Program
    executable: Any = None
    seconds: float | None = None
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Call:
    """Something to time: `queue` starts it and returns a handle, `wait` ends when the handle's result is there."""

    queue: Callable[[], Any]
    wait: Callable[[Any], Any]


class Data:
    """Random operands, cut from numbers drawn once; never zeros."""

    def __init__(self, seed: int = 0, size: int = POOL):
        self._pools: dict[Any, np.ndarray] = {}
        self._wide = np.random.default_rng(seed).standard_normal(size + SHIFT, dtype=np.float32)
        self._at = 0
        self._held: dict[Any, Any] = {}

    def forget(self) -> None:
        """Let the arrays on the device go."""
        self._held.clear()

    def of(self, operands: Any, kind: str = "") -> Any:
        """Arrays on the device for a tree of shapes; the same array for the same shape and place until `forget`."""
        leaves, tree = jax.tree.flatten(operands)
        return jax.tree.unflatten(tree, [self._one(a, (i, kind)) for i, a in enumerate(leaves)])

    def _one(self, a: jax.ShapeDtypeStruct, place: Any) -> Any:
        key = (a.shape, a.dtype, place)
        if key not in self._held:
            drawn = positions(a.shape) if jnp.issubdtype(a.dtype, jnp.integer) else self._piece(a)
            self._held[key] = jax.device_put(drawn)
        return self._held[key]

    def _piece(self, a: jax.ShapeDtypeStruct) -> np.ndarray:
        if a.dtype not in self._pools:
            self._pools[a.dtype] = self._wide.astype(a.dtype)
        pool = self._pools[a.dtype]
        size, self._at = math.prod(a.shape), (self._at + 7919) % SHIFT
        piece = pool[self._at : self._at + size]
        return (piece if piece.size == size else np.resize(pool, size)).reshape(a.shape)


def positions(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Positions as 2-fold max pooling gives them: one of four pixels below each output, for (batch, h, w, channels)."""
    n, h, w, c = shape
    down, right = np.random.default_rng(seed).integers(0, 2, (2, n, h, w, c), dtype=np.int32)
    rows, columns = np.arange(h, dtype=np.int32)[:, None, None], np.arange(w, dtype=np.int32)[:, None]
    return (2 * rows + down) * (2 * w) + 2 * columns + right


def call_of(executable: Any, operands: tuple[Any, ...]) -> Call:
    """A compiled program on operands."""
    return Call(lambda: executable(*operands), jax.block_until_ready)


def _seconds(call: Call, count: int) -> float:
    start = time.perf_counter()
    handle = None
    for _ in range(count):
        handle = call.queue()
    call.wait(handle)
    return (time.perf_counter() - start) / count


def time_in_turn(calls: dict[str, Call], repeats: int = REPEATS, sample: float = SAMPLE) -> dict[str, float]:
    """Best seconds of each call over interleaved samples, each of calls queued back to back."""
    counts, best = {}, {}
    for name, call in calls.items():
        _seconds(call, 2)
        took = _seconds(call, 2)
        counts[name] = int(min(max(1, math.ceil(sample / max(took, 1e-7))), MOST_CALLS))
        if 2 * took < sample / 2:  # so short a sample was mostly waiting
            took = _seconds(call, max(counts[name] // 4, 2))
            counts[name] = int(min(max(1, math.ceil(sample / max(took, 1e-7))), MOST_CALLS))
        best[name] = took
    for _ in range(repeats):
        for name, call in calls.items():
            best[name] = min(best[name], _seconds(call, counts[name]))
    return best


def peaks(dtype: str, size: int, elements: int) -> dict[str, float]:
    """Multiply-adds a second of a product of two square matrices, bytes a second of a copy (read and written)."""
    a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
    long = jax.random.normal(jax.random.key(1), (elements,), dtype)
    product, copy = jax.jit(jnp.matmul).lower(a, b).compile(), jax.jit(lambda v: v + 1).lower(long).compile()
    took = time_in_turn({"product": call_of(product, (a, b)), "copy": call_of(copy, (long,))}, 5)
    return {"multiply_adds": size**3 / took["product"], "bytes": 2 * long.nbytes / took["copy"]}


def queueing_seconds() -> float:
    """Seconds that queueing one small call takes: no call can come out quicker than this."""
    small = jnp.ones((8, 128))
    program = jax.jit(lambda v: v + 1).lower(small).compile()
    return time_in_turn({"small": call_of(program, (small,))})["small"]


def share(program: Program, seconds: float, rates: dict[str, float]) -> float:
    """How much of the chip's own product and copy rates a program reaches: the larger floor over its time."""
    return max(program.multiply_adds / rates["multiply_adds"], program.bytes / rates["bytes"]) / seconds


def geometric_mean(ratios: Iterable[float]) -> float:
    """exp of the mean logarithm; NaN of none."""
    found = list(ratios)
    return math.exp(sum(map(math.log, found)) / len(found)) if found else math.nan
