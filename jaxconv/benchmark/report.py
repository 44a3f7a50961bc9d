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
from jaxconv.benchmark.runner import Row, summary

PEERS = ("lax", "flax", "equinox", "torch")


def line(row: Row) -> str:
    """One measured layer: our time, each peer's as a ratio (above 1 jaxconv is faster), the lowerings chosen."""
    ours = row.seconds.get("jaxconv")
    cells = [
        f"{row.layer[:44]:44} {row.task:9} {1e3 * ours:9.3f} ms"
        if ours
        else f"{row.layer[:44]:44} {row.task:9} {'-':>12}"
    ]
    for peer in PEERS:
        ratio = row.ratio(peer)
        cells.append(f"{peer} {'-' if ratio is None else f'{ratio:.2f}'}")
    return "  ".join(cells) + "  " + "/".join(row.chosen[f] for f in ("apply", "adjoint", "kernel"))


def table(rows: Sequence[Row], title: str) -> str:
    """Geometric mean and worst ratio by task and peer."""
    out = [f"{title}: peer's time / jaxconv's (geometric mean over layers, worst layer)"]
    for task in TASKS:
        for peer in PEERS:
            found = summary(rows, peer, task)
            if found is not None:
                mean, worst, layer = found
                count = sum(r.task == task and r.ratio(peer) is not None for r in rows)
                out.append(
                    f"  {task:9} against {peer:8} mean {mean:7.2f}   worst {worst:6.2f}  ({layer}; {count} layers)"
                )
    return "\n".join(out)


def costs_table(rows: Sequence[Row]) -> str:
    """First call and temporary memory against lax, over all layers."""
    out = []
    for task in TASKS:
        chosen = [r for r in rows if r.task == task and "lax" in r.first_call and "jaxconv" in r.first_call]
        if not chosen:
            continue
        ours, theirs = (sum(r.first_call[n] for r in chosen) for n in ("jaxconv", "lax"))
        first = max(r.first_call["jaxconv"] / r.first_call["lax"] for r in chosen)
        memory = [
            (r.temporary_bytes["jaxconv"] + r.bytes) / (r.temporary_bytes["lax"] + r.bytes)
            for r in chosen
            if "lax" in r.temporary_bytes and "jaxconv" in r.temporary_bytes
        ]
        text = f"  {task:9} first call {ours:.1f} s in all against lax's {theirs:.1f} s (largest ratio {first:.1f})"
        if memory:
            text += f"; operands, results and temporaries at most {max(memory):.2f} times lax's"
        out.append(text)
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


def plot(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Ratios of every layer as dots on a log axis, one panel a task. Needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 0.24 * len(rows) / 2 + 2), layout="constrained")
    axes = figure.subplots(1, len(TASKS), sharey=True, squeeze=False)[0]
    colours = {"lax": "#1f77b4", "flax": "#9ecae1", "equinox": "#2ca02c", "torch": "#d62728"}
    for panel, task in zip(axes, TASKS, strict=True):
        chosen = [r for r in rows if r.task == task]
        for peer in PEERS:
            points = [(r.ratio(peer), i) for i, r in enumerate(chosen) if r.ratio(peer) is not None]
            if points:
                panel.scatter(*zip(*points, strict=True), s=22, color=colours[peer], label=peer, zorder=3)
        panel.set_xscale("log")
        panel.axvline(1, color="black", linewidth=1)
        panel.set_title(f"{task}: peer's time / jaxconv's")
        panel.grid(axis="x", alpha=0.3)
        panel.set_yticks(range(len(chosen)), [r.layer for r in chosen], fontsize=7)
    axes[0].invert_yaxis()
    axes[0].legend(loc="lower right", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
