"""`jaxconv.resize` beside `jax.image.resize` and PyTorch's `interpolate`: forward and gradient, as ratios."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxconv.benchmark.contenders import Absent, Prepared, compiled
from jaxconv.benchmark.runner import Summary, summarise, time_in_turn
from jaxconv.resampling.resample import resize

TASKS = ("forward", "gradient")
SHAPES = {
    "decoder, 256 channels": (1, 33, 33, 256),
    "decoder, 64 channels": (2, 64, 64, 64),
    "image": (1, 128, 128, 3),
    "logits, 12 classes": (1, 90, 120, 12),
}
SCALES = (2.0, 0.5, 1.5, 4.0)
METHODS = ("nearest", "linear", "cubic", "area", "linear, antialias", "cubic, antialias")


@dataclasses.dataclass(frozen=True)
class Case:
    """One resize: a shape (batch, *spatial, channels), output over input size, and a method."""

    name: str
    shape: tuple[int, ...]
    scale: float
    method: str

    @property
    def size(self) -> tuple[int, ...]:
        """Spatial output sizes."""
        return tuple(math.floor(n * self.scale) for n in self.shape[1:-1])

    @property
    def base(self) -> str:
        """The method's name alone."""
        return self.method.partition(",")[0]

    @property
    def antialias(self) -> bool:
        """Whether the kernel is widened where an axis shrinks."""
        return self.method.endswith("antialias")


CASES = tuple(
    Case(name, shape, scale, method)
    for (name, shape), method, scale in itertools.product(SHAPES.items(), METHODS, SCALES)
)


def _operands(case: Case, task: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(case.shape).astype(np.float32)
    if task == "forward":
        return [x]
    return [x, rng.standard_normal((case.shape[0], *case.size, case.shape[-1])).astype(np.float32)]


def _prepared(f: Callable, case: Case, task: str) -> Prepared:
    operands = _operands(case, task)
    return compiled(f if task == "forward" else lambda x, ct: jax.vjp(f, x)[1](ct)[0], *operands)


def _jaxconv(case: Case, task: str) -> Prepared:
    f = functools.partial(resize, size=case.size, method=case.base, antialias=case.antialias)
    return _prepared(f, case, task)


def _jax(case: Case, task: str) -> Prepared:
    if case.base == "area":
        raise Absent("jax.image.resize has no method 'area'")
    shape = (case.shape[0], *case.size, case.shape[-1])
    f = functools.partial(jax.image.resize, shape=shape, method=case.base, antialias=case.antialias)
    return _prepared(f, case, task)


def _torch(case: Case, task: str) -> Prepared:
    if importlib.util.find_spec("torch") is None:
        raise Absent("torch is not installed")
    import torch

    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(case.base, case.base)
    options: dict[str, Any] = {} if mode in ("nearest", "area") else {"align_corners": False}
    options |= {"antialias": True} if case.antialias else {}
    best: tuple[float, Callable[[], Any]] | None = None
    for layout in (torch.contiguous_format, torch.channels_last):
        x, *ct = (
            torch.from_numpy(np.moveaxis(a, -1, 1).copy()).contiguous(memory_format=layout)
            for a in _operands(case, task)
        )
        x.requires_grad_(task == "gradient")
        resized = functools.partial(torch.nn.functional.interpolate, x, size=case.size, mode=mode, **options)
        call = resized if task == "forward" else functools.partial(_pull, resized(), x, ct)
        seconds = time_in_turn({"torch": call}, 3)["torch"]
        if best is None or seconds < best[0]:
            best = (seconds, call)
    assert best is not None  # there are two layouts
    return Prepared(best[1])


def _pull(y: Any, x: Any, ct: Any) -> Any:
    import torch

    return torch.autograd.grad(y, x, ct[0], retain_graph=True)[0]


CONTENDERS: dict[str, Callable[[Case, str], Prepared]] = {"jaxconv": _jaxconv, "jax": _jax, "torch": _torch}


def measure(cases: Sequence[Case], repeats: int = 7) -> list[dict[str, Any]]:
    """Time every contender on every case and task, in turn, and print each.

    Args:
        cases: what to measure.
        repeats: interleaved repeats; the best counts.

    Returns:
        One dictionary a case and task.
    """
    rows = []
    for case, task in itertools.product(cases, TASKS):
        ready = {}
        for name, prepare in CONTENDERS.items():
            try:
                ready[name] = prepare(case, task)
            except Absent:
                continue
        seconds = time_in_turn({name: p.call for name, p in ready.items()}, repeats)
        row = {"case": case.name, "shape": case.shape, "scale": case.scale, "method": case.method, "task": task}
        rows.append({**row, "seconds": seconds, "compile": {n: p.compile for n, p in ready.items() if p.compile}})
        ratios = "  ".join(f"{n} {seconds[n] / seconds['jaxconv']:.2f}" for n in seconds if n != "jaxconv")
        name = f"{case.name} x{case.scale:g} {case.method}"
        print(f"{name:48} {task:9} {1e3 * seconds['jaxconv']:9.3f} ms  {ratios}", flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Peer's time over jaxconv's by method, task and peer, as Markdown: geometric mean and the worst case."""
    out = ["| method | task | against | cases | mean | worst | at |", "|---|---|---|---|---|---|---|"]
    names = {"jax": "jax.image.resize", "torch": "PyTorch interpolate"}
    for method, task, peer in itertools.product(METHODS, TASKS, names):
        found: Summary | None = summarise(
            (row["seconds"][peer] / row["seconds"]["jaxconv"], f"{row['case']}, x{row['scale']:g}")
            for row in rows
            if row["method"] == method and row["task"] == task and peer in row["seconds"]
        )
        if found is not None:
            out.append(
                f"| {method} | {task} | {names[peer]} | {found.count} | {found.mean:.2f} | {found.worst:.2f} | "
                f"{found.layer} |"
            )
    return "\n".join(out)
