"""Tables of what compilers for accelerators say: a row a task, contenders side by side, ratios below."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

# What decides, by kind of accelerator, its unit, and how much of it is one.
DECIDES = {"tpu": ("cycles", "k cycles", 1e3), "gpu": ("flop", "GFLOP", 1e9)}
BASE = {"function": "yours"}


def value(found: dict[str, Any], kind: str) -> float | None:
    """The deciding figure of an answer; None where there is none."""
    return found.get(DECIDES[kind][0])


def ratio(row: dict[str, Any], kind: str, who: str = "jaxconv", peer: str = "lax") -> float | None:
    """A peer's figure over a contender's: above 1 the contender needs less."""
    ours, theirs = (value(row["contenders"].get(name, {}), kind) for name in (who, peer))
    return theirs / ours if ours and theirs else None


def _cell(found: dict[str, Any], kind: str) -> str:
    if "failed" in found:
        return found["failed"][:40]
    _, unit, scale = DECIDES[kind]
    return f"{(value(found, kind) or 0) / scale:,.1f} {unit}, {(found['temporary_bytes'] or 0) / 2**20:.0f} MiB"


def _remarks(found: dict[str, Any]) -> str:
    """What the deciding figure leaves out."""
    out = []
    if found.get("uncounted"):
        names = ", ".join(f"{n} {kind}" for kind, n in found["uncounted"].items())
        out.append(f"uncounted: {names} ({found['uncounted_bytes'] / 2**20:.1f} MiB)")
    if "calls" in found:
        out.append(", ".join(f"{n} {kind}" for kind, n in found["calls"].items()) or "no products")
        out.append(f"{sum(found['kernels'].values())} other kernels, {found['moved_bytes'] / 2**20:.1f} MiB")
    if found.get("wide_windows"):
        out.append(f"{found['wide_windows']} windows of the image's size")
    return "; ".join(out)


def line(row: dict[str, Any], kind: str) -> str:
    """One row in plain text."""
    cells = [f"{who} {_cell(found, kind)}" for who, found in row["contenders"].items()]
    found = ratio(row, kind)
    return f"{row['what']}, {row['task']}: {' | '.join(cells)}" + (f" | lax / ours {found:.2f}" if found else "")


def summaries(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Geometric mean and worst of lax's figure over a contender's, by kind of row, task and contender."""
    kind, out = record["kind"], []
    groups = dict.fromkeys((row["kind"], row["task"]) for row in record["rows"])
    for (what, task), who in ((g, w) for g in groups for w in ("jaxconv", "accelerate")):
        peer = BASE.get(what, "lax")
        ratios = {
            row["what"]: found
            for row in record["rows"]
            if (row["kind"], row["task"]) == (what, task) and (found := ratio(row, kind, who, peer)) is not None
        }
        if ratios:
            worst = min(ratios, key=ratios.__getitem__)
            mean = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
            out.append({"kind": what, "task": task, "contender": who, "peer": peer, "count": len(ratios),
                        "mean": mean, "worst": ratios[worst], "at": worst,
                        "losses": sum(v < 1 / 1.02 for v in ratios.values())})  # fmt: skip
    return out


def _rows(record: dict[str, Any]) -> Iterable[list[str]]:
    kind, _, scale = record["kind"], *DECIDES[record["kind"]][1:]
    for row in record["rows"]:
        for who, found in row["contenders"].items():
            if "failed" in found:
                yield [row["what"], row["task"], who, found["failed"][:60], "", "", "", ""]
                continue
            against = ratio(row, kind, who, BASE.get(row["kind"], "lax"))
            yield [
                row["what"], row["task"], who, f"{(value(found, kind) or 0) / scale:,.1f}",
                f"{against:.2f}" if against else "-", f"{(found['temporary_bytes'] or 0) / 2**20:.1f}",
                f"{found['seconds']['all']:.1f}", _remarks(found),
            ]  # fmt: skip


def show(record: dict[str, Any]) -> None:
    """Print the table and its summary in the terminal."""
    from rich.console import Console
    from rich.table import Table

    unit = DECIDES[record["kind"]][1]
    console = Console()
    seen = Table(title=f"{record['target']}, {record['dtype']}, as its compiler has it", title_justify="left")
    heads = ("what", "task", "contender", unit, "lax / this", "temporaries, MiB", "compiled in, s", "beside")
    for name in heads:
        seen.add_column(name, justify="left" if name in ("what", "task", "contender", "beside") else "right")
    last = None
    for cells in _rows(record):
        first = (cells[0], cells[1])
        seen.add_row(*(cells if first != last else ["", "", *cells[2:]]))
        last = first
    console.print(seen)
    for s in summaries(record):
        console.print(
            f"{s['kind']}, {s['task']}: {s['peer']} / {s['contender']} mean {s['mean']:.2f}, worst {s['worst']:.2f} "
            f"({s['at']}), {s['losses']} of {s['count']} worse by more than 2%"
        )


def markdown(record: dict[str, Any]) -> str:
    """The summary as a Markdown table, for pages."""
    out = ["| what | task | | mean | worst | at | rows | worse by more than 2% |", "|---|---|---|---|---|---|---|---|"]
    for s in summaries(record):
        out.append(
            f"| {s['kind']}s | {s['task']} | {s['peer']} / {s['contender']} | {s['mean']:.2f} | {s['worst']:.2f} | "
            f"{s['at']} | {s['count']} | {s['losses']} |"
        )
    return "\n".join(out)


def worse(record: dict[str, Any], timed: Mapping[tuple[str, str], float] | None = None) -> list[str]:
    """Rows in which jaxconv's own operations need more than lax's by over 2%, the worst first.

    Args:
        record: of `compile_for`.
        timed: lax's time over ours where a card has measured it, by name and task; it is said beside.

    Returns:
        One phrase a row; where lax's program has a window of the image's size, or moves more by instructions without an
        estimate, or where the same layer was compiled inside a network's operations, it says so.
    """
    inner = {(row["what"], row["task"]): ratio(row, record["kind"]) for row in record["rows"]
             if row["kind"] == "inner layer"}  # fmt: skip
    found = [(ratio(row, record["kind"]), row) for row in record["rows"]]
    out = []
    for r, row in sorted(((r, row) for r, row in found if r is not None and r < 1 / 1.02), key=lambda pair: pair[0]):
        beside = [f"{r:.2f}"]
        if (time := (timed or {}).get((row["what"], row["task"]))) is not None:
            beside.append(f"timed {time:.2f}")
        if row["kind"] == "layer" and (within := inner.get((row["what"], row["task"]))) is not None:
            beside.append(f"inner {within:.2f}")
        if row["contenders"]["lax"].get("wide_windows"):
            beside.append("lax's window has the image's size")
        bare = [row["contenders"][who].get("uncounted_bytes", 0) / 2**20 for who in ("lax", "jaxconv")]
        if bare[0] > bare[1]:
            beside.append(f"without an estimate {bare[0]:.1f} / {bare[1]:.1f} MiB")
        name = f"{row['what']}, inner" if row["kind"] == "inner layer" else row["what"]
        out.append(f"{name}, {row['task']} ({', '.join(beside)})")
    return out


def networks(rows: Sequence[dict[str, Any]], kind: str) -> str:
    """Networks one by one as Markdown: the deciding figure, temporaries, and what that figure leaves out."""
    key, unit, scale = DECIDES[kind]
    beside = "MiB without an estimate" if kind == "tpu" else "float32 operands, fused activations"
    heads = (f"{unit}, lax / accelerate / jaxconv", "temporaries, MiB", "compiled in, s", beside)
    out = [f"| network | {' | '.join(heads)} |", "|---|---|---|---|---|"]

    def cells(row: dict[str, Any], value: Callable[[dict[str, Any]], str]) -> str:
        found = [row["contenders"].get(who, {}) for who in ("lax", "accelerate", "jaxconv")]
        return " / ".join(value(f) if key in f else "-" for f in found)

    for row in rows:
        columns = (
            cells(row, lambda f: f"{f[key] / scale:,.0f}"),
            cells(row, lambda f: f"{(f['temporary_bytes'] or 0) / 2**20:,.0f}"),
            cells(row, lambda f: f"{f['seconds']['all']:.0f}"),
            cells(row, lambda f: f"{f['uncounted_bytes'] / 2**20:,.0f}" if kind == "tpu" else
                  f"{f['float32_operands']}, {f['fused_activations']}"),
        )  # fmt: skip
        out.append(f"| {row['what']}, {row['task']} | {' | '.join(columns)} |")
    return "\n".join(out)


def models(record: dict[str, Any]) -> str:
    """Training steps of models as Markdown: lax's figure over ours, temporaries and compile times of both."""
    kind = record["kind"]
    _, unit, scale = DECIDES[kind]
    heads = ("input", f"{unit}, lax / jaxconv", "ratio", "temporaries, MiB", "compiled in, s")
    out = [f"| model | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    left = []
    for row in (row for row in record["rows"] if row["kind"] == "model"):
        both = [row["contenders"].get(who, {}) for who in ("lax", "jaxconv")]
        found = ratio(row, kind)
        if found is None:
            failed = (f"{who}: {f.get('failed', 'not tried')}" for who, f in zip(("lax", "jaxconv"), both, strict=True)
                      if value(f, kind) is None)  # fmt: skip
            left.append(f"{row['what']} ({', '.join(failed)})")
            continue
        columns = (
            " x ".join(map(str, row["shape"])),
            " / ".join(f"{(value(f, kind) or 0) / scale:,.0f}" for f in both),
            f"{found:.2f}",
            " / ".join(f"{(f['temporary_bytes'] or 0) / 2**20:,.0f}" for f in both),
            " / ".join(f"{f['seconds']['all']:.0f}" for f in both),
        )
        out.append(f"| {row['what']} | {' | '.join(columns)} |")
    said = [f"Not compiled: {'; '.join(left)}."] if left else []
    return "\n".join(["\n".join(out), *([""] * bool(said)), *said])
