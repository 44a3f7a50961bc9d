"""How time grows with batch, size, channels, dilation, kernel size and stride, and where it jumps."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from jaxconv.benchmark.cases import Layer
from jaxconv.benchmark.runner import Row, measure

# What a neighbouring point may cost beyond its work: time may grow by this much more than the work does.
JUMP = 2.0
# Slower than lax by more than this is a finding.
SLOWER = 0.9
# Below this (seconds) a time is the call's overhead, which no choice can change.
OVERHEAD = 5e-5

BASES = {
    "convolution": Layer("", 1, (32, 32), 32, 32, (3, 3), 1, 1, 1),
    "transposed": Layer("", 1, (16, 16), 32, 32, (4, 4), 2, 1, 1, transposed=True),
    "depthwise": Layer("", 1, (32, 32), 64, 64, (3, 3), 1, 1, 1, groups=64),
}
VALUES: dict[str, tuple[int, ...]] = {
    "batch": (1, 2, 4, 8, 16, 32),
    "size": (8, 16, 32, 64, 128),
    "channels": (2, 4, 8, 16, 32, 64, 128, 256),
    "dilation": (1, 2, 3, 4, 6, 8, 12, 16),
    "kernel": (1, 2, 3, 5, 7, 9, 13, 17, 25, 33),
    "stride": (1, 2, 3, 4, 6, 8, 12, 16),
}
TASKS = ("forward", "gradients")
CONTENDERS = ("jaxconv", "lax", "torch")


@dataclasses.dataclass(frozen=True)
class Point:
    """One layer of a sweep: which base, what varies, and to which value."""

    base: str
    axis: str
    value: int
    layer: Layer


def _with(base: str, axis: str, value: int) -> Layer:
    layer = dataclasses.replace(BASES[base], name=f"{base}, {axis} {value}")
    rank = len(layer.size)
    if axis == "batch":
        return dataclasses.replace(layer, batch=value)
    if axis == "size":
        return dataclasses.replace(layer, size=(value,) * rank)
    if axis == "channels":
        groups = value if layer.groups > 1 else 1
        return dataclasses.replace(layer, channels_in=value, channels_out=value, groups=groups)
    if axis == "dilation":
        return dataclasses.replace(layer, dilation=value, padding=value * (layer.kernel[0] - 1) // 2)
    if axis == "kernel":
        pad = (value - 1) // 2 if not layer.transposed else max(0, (value - layer.stride) // 2)
        return dataclasses.replace(layer, kernel=(value,) * rank, padding=pad)
    if layer.transposed:  # the kernel grows with the stride, as in upsampling layers; the output stays near one size
        size = max(2, 32 // value)
        return dataclasses.replace(
            layer, stride=value, kernel=(2 * value,) * rank, padding=value // 2, size=(size,) * rank
        )
    return dataclasses.replace(layer, stride=value)


def points(
    bases: Sequence[str] = tuple(BASES), axes: Sequence[str] = tuple(VALUES), most: int | None = None
) -> Iterator[Point]:
    """The layers of every sweep in order, the first `most` of each sweep; layers with an empty result are left out."""
    for base, axis in itertools.product(bases, axes):
        for value in VALUES[axis][:most]:
            layer = _with(base, axis, value)
            try:
                layer.geometry  # noqa: B018 - sizes that come out empty
            except ValueError:
                continue
            yield Point(base, axis, value, layer)


def run(sweep: Sequence[Point], repeats: int = 5, contenders: Sequence[str] = CONTENDERS) -> list[dict[str, Any]]:
    """Time every point, contenders in turn, and print each.

    Args:
        sweep: from `points`.
        repeats: interleaved repeats; the best counts.
        contenders: who is measured.

    Returns:
        One dictionary a point and task.
    """
    rows = []
    for point in sweep:
        show = functools.partial(_show, point)
        for row in measure([point.layer], contenders, TASKS, repeats=repeats, budget=1.0, progress=show, memory=False):
            rows.append(
                {
                    "base": point.base,
                    "axis": point.axis,
                    "value": point.value,
                    "task": row.task,
                    "multiply_adds": row.multiply_adds,
                    "bytes": row.bytes,
                    "seconds": row.seconds,
                    "chosen": row.chosen,
                }
            )
    return rows


def _show(point: Point, row: Row) -> None:
    times = "  ".join(f"{name} {1e3 * t:8.3f}" for name, t in row.seconds.items())
    print(f"{point.layer.name:28} {row.task:9} ms: {times}  {'/'.join(row.chosen.values())}", flush=True)


def cliffs(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where jaxconv's time grows by far more than the work between neighbours, or lies above lax's.

    Work grows as the larger of multiply-adds and bytes do.

    Args:
        rows: from `run`.

    Returns:
        One sentence a finding; none is the aim.
    """
    found = []
    for (base, axis, task), group in itertools.groupby(
        sorted(rows, key=lambda r: (r["base"], r["axis"], r["task"], r["value"])),
        key=lambda r: (r["base"], r["axis"], r["task"]),
    ):
        sweep = list(group)
        for before, after in itertools.pairwise(sweep):
            time = after["seconds"]["jaxconv"] / max(before["seconds"]["jaxconv"], OVERHEAD)
            work = max(after[kind] / before[kind] for kind in ("multiply_adds", "bytes"))
            if time > JUMP * max(work, 1.0):
                found.append(
                    f"{base}, {task}: {axis} {before['value']} -> {after['value']} takes {time:.1f} times as long for "
                    f"{work:.1f} times the work ({_lowerings(before)} -> {_lowerings(after)})"
                )
        for row in sweep:
            seconds = row["seconds"]
            if "lax" in seconds and seconds["lax"] < SLOWER * seconds["jaxconv"]:
                found.append(
                    f"{base}, {task}: {axis} {row['value']} takes {1e3 * seconds['jaxconv']:.3f} ms, lax "
                    f"{1e3 * seconds['lax']:.3f} ms ({_lowerings(row)})"
                )
    return found


def _lowerings(row: dict[str, Any]) -> str:
    return "/".join(row["chosen"].values())


def plot(rows: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """Time against each value on logarithmic axes: a row of panels a base and task, one line a contender."""
    from matplotlib.figure import Figure

    bases, axes = list(dict.fromkeys(r["base"] for r in rows)), list(dict.fromkeys(r["axis"] for r in rows))
    lines = list(itertools.product(bases, TASKS))
    figure = Figure(figsize=(2.5 * len(axes), 2.1 * len(lines) + 0.6), layout="constrained")
    panels = figure.subplots(len(lines), len(axes), squeeze=False)
    styles = {"jaxconv": ("black", "o-"), "lax": ("#1f77b4", "s--"), "torch": ("#d62728", "^:")}
    for (base, task), row_of_panels in zip(lines, panels, strict=True):
        for axis, panel in zip(axes, row_of_panels, strict=True):
            chosen = [r for r in rows if (r["base"], r["task"], r["axis"]) == (base, task, axis)]
            for name, (colour, style) in styles.items():
                line = [(r["value"], 1e3 * r["seconds"][name]) for r in chosen if name in r["seconds"]]
                if line:
                    panel.plot(*zip(*line, strict=True), style, color=colour, label=name, markersize=3, linewidth=1)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.grid(alpha=0.3)
            values = sorted({r["value"] for r in chosen})
            panel.set_xticks(values, [str(v) for v in values], fontsize=6)
            panel.minorticks_off()
            panel.tick_params(axis="y", labelsize=6)
            if base == bases[0] and task == TASKS[0]:
                panel.set_title(axis, fontsize=10)
            if axis == axes[0]:
                panel.set_ylabel(f"{base}\n{task}, ms", fontsize=8)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper right", ncols=3, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
