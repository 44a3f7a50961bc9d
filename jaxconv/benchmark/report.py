"""What a benchmark run says: a text table of ratios, a JSON file, a picture."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from jaxconv.benchmark.contenders import TASKS
from jaxconv.benchmark.runner import Row, speed, summarise

PEERS = ("lax", "flax", "equinox", "torch")
FACES = ("apply", "adjoint", "kernel")


def line(row: Row) -> str:
    """One measured layer: our time, each peer's as a ratio (above 1 jaxconv is faster), the lowerings chosen."""
    ours = row.seconds.get("jaxconv")
    cells = [f"{row.layer[:44]:44} {row.task:15} {f'{1e3 * ours:9.3f} ms' if ours else '-':>12}"]
    for peer in PEERS:
        ratio = row.ratio(peer)
        if ratio is not None:
            cells.append(f"{peer} {ratio:.2f}")
    chosen = row.chosen[row.face] if row.face else "/".join(row.chosen[f] for f in FACES)
    return "  ".join([*cells, chosen])


def table(rows: Sequence[Row], title: str) -> str:
    """Geometric mean and worst ratio by task and by face, and peer."""
    out = [f"{title}: peer's time / jaxconv's (geometric mean over layers, worst layer)"]
    kinds = [(task, {"task": task}) for task in TASKS] + [(f"face {face}", {"face": face}) for face in FACES]
    for name, select in kinds:
        for peer in PEERS:
            found = speed(rows, peer, **select)
            if found is not None:
                out.append(
                    f"  {name:15} against {peer:8} mean {found.mean:7.2f}   worst {found.worst:6.2f}  "
                    f"({found.layer}; {found.count} layers)"
                )
    return "\n".join(out)


def costs_table(rows: Sequence[Row]) -> str:
    """Compilation, first call and peak memory against lax, by task."""
    out = []
    for task in TASKS:
        chosen = [row for row in rows if row.task == task]
        for kind, name in (("compile", "trace + compile"), ("first_call", "first call"), ("peak_bytes", "peak memory")):
            found = summarise(((row.cost(kind), row.layer) for row in chosen), max)
            if found is not None:
                out.append(
                    f"  {task:15} {name:15} jaxconv's / lax's: mean {found.mean:5.2f}   most {found.worst:5.2f}  "
                    f"({found.layer})"
                )
    return "\n".join(out)


def roofline(row: Row, peaks: dict[str, float]) -> float:
    """Share of what the machine's own product and copy rates allow: the larger of the two floors over our time."""
    floor = max(row.multiply_adds / peaks["multiply_adds"], row.bytes / peaks["bytes"])
    return floor / row.seconds["jaxconv"]


def write_json(path: pathlib.Path, record: dict[str, Any]) -> None:
    """Written beside and renamed, so that an interrupted run leaves the old file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(handle, "w") as file:
        json.dump(record, file, indent=1)
    os.replace(temporary, path)


def rows_as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as plain dictionaries."""
    return [dataclasses.asdict(row) for row in rows]


def rows_of_json(rows: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows of a record; a record of another version of this format is refused.

    Raises:
        ValueError: a row's fields are not those of `Row`.
    """
    try:
        return [Row(**row) for row in rows]
    except TypeError as error:
        raise ValueError(f"not a record of this version of jaxconv bench: {error}; measure again") from None


def plot(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Ratios of every layer as dots on a log axis, one panel a task. Needs matplotlib."""
    from matplotlib.figure import Figure

    tasks = [task for task in TASKS if any(row.task == task for row in rows)]
    layers = list(dict.fromkeys(row.layer for row in rows))
    figure = Figure(figsize=(3 + 3 * len(tasks), 0.19 * len(layers) + 1.4), layout="constrained")
    axes = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    colours = {"lax": "#1f77b4", "flax": "#9ecae1", "equinox": "#2ca02c", "torch": "#d62728"}
    for panel, task in zip(axes, tasks, strict=True):
        chosen = [row for row in rows if row.task == task]
        for peer in PEERS:
            points = [(row.ratio(peer), layers.index(row.layer)) for row in chosen if row.ratio(peer) is not None]
            if points:
                panel.scatter(*zip(*points, strict=True), s=18, color=colours[peer], label=peer, zorder=3, alpha=0.8)
        panel.set_xscale("log")
        panel.axvline(1, color="black", linewidth=1)
        panel.set_title(task, fontsize=10)
        panel.set_xlabel("peer's time / jaxconv's", fontsize=8)
        panel.grid(alpha=0.3)
        panel.set_yticks(range(len(layers)), layers, fontsize=7)
    axes[0].set_ylim(len(layers) - 0.5, -0.5)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=4, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
