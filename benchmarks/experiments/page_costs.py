"""Tables of docs/experiments/index.md: what the runs took, and what a step of each variant costs."""

import importlib

from benchmarks.experiments import common, costs
from benchmarks.experiments.tables import runs_of, table, values
from benchmarks.write_tables import NotRecorded


def experiments():
    """Their modules."""
    return [importlib.import_module(f"benchmarks.experiments.{name}") for name in common.NAMES]


def times():
    """What a training step of every variant costs: the least of all rounds, and the TPU's compiler's estimate."""
    found, rows = runs_of(costs), []
    for name in costs.TASKS:
        timed, estimate = found.get(f"CPU; {name}"), found.get(f"TPU; {name}")
        if timed is not None:
            cycles = "-" if estimate is None else f"{estimate[0]['scores']['thousands']:,.0f}"
            least = values(timed, "scores", "cpu_ms").min()
            rows.append([*name.split(": ", 1), f"{timed[0]['parameters']:,}", f"{least:.1f}", cycles])
    target = costs.SETTINGS["full"]["target"].partition(":")[0]
    return table(["experiment", "variant", "parameters", "CPU ms", f"thousand cycles, TPU {target}"], rows)


def totals():
    """How many runs there are, how long they took, and on what."""
    rows = []
    for experiment in experiments():
        runs = [run for run in common.read(experiment.NAME) if run["settings"] == experiment.SETTINGS["full"]]
        if runs:
            wall, cpu = (sum(run["seconds"][clock] for run in runs) / 60 for clock in ("wall", "cpu"))
            load = [run["load"] for run in runs]
            at = runs[0]["machine"]
            on = f"{at['cores']}-core {at['device']}, jax {at['versions']['jax']}, {at['date']}"
            loads = f"{min(load):.0f} to {max(load):.0f}"
            rows.append([experiment.NAME, len(runs), f"{cpu:.1f}", f"{wall:.1f}", loads, on])
    if not rows:
        raise NotRecorded
    return table(["experiment", "runs", "CPU minutes", "minutes by the wall", "load", "machine"], rows)


TABLES = {"times": times, "totals": totals}
FIGURES = {}
