"""The speed that this library aims at, beside what a record of `jaxconv bench` shows."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jaxconv.benchmark.report import FACES, roofline, rows_of_json
from jaxconv.benchmark.runner import Row, Summary, speed, summarise

KINDS = {"real": "real layers", "unseen": "random layers"}


@dataclasses.dataclass(frozen=True)
class Target:
    """One thing aimed at: for the first version and as an ambition, (mean, worst) each; None where no bound is set."""

    name: str
    on_cpu: bool
    first: tuple[float | None, float | None]
    ambition: tuple[float | None, float | None]
    measure: Callable[[Sequence[Row], dict[str, float]], Summary | None]
    less_is_better: bool = False

    def reached(self, found: Summary, bounds: tuple[float | None, float | None]) -> bool:
        """Whether mean and worst keep to the bounds."""
        sign = -1 if self.less_is_better else 1
        return all(b is None or sign * v >= sign * b for v, b in zip((found.mean, found.worst), bounds, strict=True))


def _faster(peer: str, **select: Any) -> Callable[..., Summary | None]:
    return lambda rows, peaks: speed(rows, peer, **select)


def _cost(kind: str) -> Callable[..., Summary | None]:
    return lambda rows, peaks: summarise(((row.cost(kind), row.layer) for row in rows), max)


def _share(bound_by: str) -> Callable[..., Summary | None]:
    """Share of the machine's rate, over the single faces that this rate limits."""

    def measure(rows: Sequence[Row], peaks: dict[str, float]) -> Summary | None:
        found = []
        for row in rows:
            limit = "compute" if row.multiply_adds / peaks["multiply_adds"] > row.bytes / peaks["bytes"] else "memory"
            if limit == bound_by and row.face is not None and "jaxconv" in row.seconds:
                found.append((roofline(row, peaks), row.layer))
        return summarise(found)

    return measure


def _targets() -> Iterable[Target]:
    jax_peers, none = ("lax", "flax", "equinox"), (None, None)
    for peer in jax_peers:
        yield Target(f"forward, against {peer}", True, (3, 0.9), (6, 1), _faster(peer, task="forward"))
        yield Target(f"both gradients, against {peer}", True, (8, 0.9), (20, 1), _faster(peer, task="gradients"))
    yield Target("forward, against torch", True, (0.8, 0.1), (1.2, 0.7), _faster("torch", task="forward"))
    yield Target("both gradients, against torch", True, (0.55, 0.15), (1.2, 0.6), _faster("torch", task="gradients"))
    for face in FACES:
        yield Target(f"{face} face, against lax", True, (None, 0.9), (None, 1), _faster("lax", face=face))
        yield Target(f"{face} face, against torch", True, none, none, _faster("torch", face=face))
    for face in FACES:
        first, most = (5, 12) if face == "kernel" else (2, 4)
        for peer in jax_peers:
            yield Target(f"{face} face, against {peer}", False, (first, 0.9), (most, 1), _faster(peer, face=face))
        yield Target(f"{face} face, against torch", False, (1.2, 0.8), (2, 1), _faster("torch", face=face))
    yield Target("compute-bound faces, share of the matrix peak", False, (0.7, None), (0.85, None), _share("compute"))
    yield Target("memory-bound faces, share of the copy rate", False, (0.4, None), (0.85, None), _share("memory"))
    for on_cpu in (True, False):
        yield Target("trace + compile, over lax's", on_cpu, (None, 3), (None, 1.5), _cost("compile"), True)
        yield Target("peak memory, over lax's", on_cpu, (None, 1.5), (None, 1), _cost("peak_bytes"), True)


TARGETS = tuple(_targets())


def targets_table(records: Sequence[dict[str, Any]]) -> str:
    """The targets filled in from records of `jaxconv bench`, as Markdown.

    A ratio is the peer's time over jaxconv's (above 1 jaxconv is faster), but for compilation and memory, where it is
    jaxconv's over lax's. Mean is geometric.

    Args:
        records: of one or more runs; one made on a GPU fills in the rows for GPUs.

    Returns:
        A table for CPUs and one for GPUs.

    Raises:
        ValueError: a record that is none of layers.
    """
    out: list[str] = []
    for on_cpu, where in ((True, "CPU"), (False, "GPU")):
        here = [r for r in records if (r.get("platform") == "cpu") == on_cpu]
        if not here:
            out += [f"{where}: not measured; `jaxconv bench layers --out FILE` on such a machine fills this in.", ""]
        for record in here or [{}]:
            if record:
                out += [f"{where}: {described(record)}", ""]
            out += [
                "| target | first version (mean, worst) | ambition | layers | mean | worst | at | reached |",
                "|---|---|---|---|---|---|---|---|",
            ]
            for target in TARGETS:
                if target.on_cpu == on_cpu:
                    out += _lines(target, record)
            out.append("")
    return "\n".join(out).rstrip()


def described(record: dict[str, Any]) -> str:
    """Machine, date, dtype and versions in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    device = f"{record['cores']}-core {record['device']}" if record["platform"] == "cpu" else record["device"]
    kernels = f", kernels with {record['kernels']}" if record.get("kernels") else ""
    return f"{device}{kernels}, {record['dtype']}, {record['date']}; {versions}"


def _lines(target: Target, record: dict[str, Any]) -> list[str]:
    head = f"| {target.name} | {_bounds(target, target.first)} | {_bounds(target, target.ambition)} |"
    if not record:
        return [f"{head} not measured | | | | |"]
    lines = []
    for kind, name in KINDS.items():
        found = target.measure(rows_of_json(record[kind]), record["peaks"])
        if found is not None:
            lines.append(
                f"{head} {found.count} {name} | {found.mean:.2f} | {found.worst:.2f} | {found.layer} | "
                f"{_verdict(target, found)} |"
            )
    return lines


def _bounds(target: Target, bounds: tuple[float | None, float | None]) -> str:
    sign = "<=" if target.less_is_better else ">="
    return ", ".join("-" if bound is None else f"{sign} {bound:g}" for bound in bounds)


def _verdict(target: Target, found: Summary) -> str:
    if (None, None) == target.first:
        return ""
    if target.reached(found, target.ambition):
        return "ambition"
    return "first version" if target.reached(found, target.first) else "no"


def read_records(paths: Sequence[pathlib.Path]) -> list[dict[str, Any]]:
    """Records of layers from JSON files.

    Raises:
        ValueError: a file that is not such a record.
    """
    records = []
    for path in paths:
        try:
            record = json.loads(pathlib.Path(path).read_text("utf-8"))
        except ValueError:
            raise ValueError(f"{path} is no JSON file") from None
        missing = {"real", "unseen", "peaks", "platform", "dtype", "versions"} - set(record)
        if missing:
            raise ValueError(f"{path} is no record of `jaxconv bench layers --out`: it has no {sorted(missing)}")
        records.append(record)
    return records
