"""What tables and figures share: runs of a record, means with deviations, rank correlations, pictures over pictures."""

import math
from itertools import groupby

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from benchmarks.experiments import common
from benchmarks.write_tables import NotRecorded


def runs_of(experiment, part=""):
    """Variant to its full runs, in the experiment's order."""
    found = common.read(experiment.NAME)
    found = [run for run in found if run["settings"] == experiment.SETTINGS["full"] and part in run["variant"]]
    if not found:
        raise NotRecorded
    order = {variant: number for number, variant in enumerate(experiment.VARIANTS)}
    found.sort(key=lambda run: (order[run["variant"]], run["seed"]))
    return {variant: list(runs) for variant, runs in groupby(found, key=lambda run: run["variant"])}


def values(runs, *path):
    """A number of each run."""
    found = []
    for run in runs:
        for key in path:
            run = run[key]
        found.append(run)
    return np.array(found, float)


def said(numbers, digits=3, scale=1.0):
    """Mean and standard deviation over the seeds; one seed is marked as such."""
    numbers = scale * np.asarray(numbers)
    if len(numbers) == 1:
        return f"{numbers[0]:.{digits}f} (one seed)"
    few = "" if len(numbers) > 2 else " (two seeds)"
    return f"{numbers.mean():.{digits}f} ± {numbers.std(ddof=1):.{digits}f}{few}"


def table(head, rows):
    """A table in Markdown."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def ranked(named, target):
    """Spearman's rank correlations of lists with a target, as a sentence."""
    found = {name: spearmanr(one, target)[0] for name, one in named.items() if min(len(set(one)), len(set(target))) > 1}
    return ", ".join(f"{name} {'none' if math.isnan(value) else f'{value:+.2f}'}" for name, value in found.items())


def start_over_end(columns, width, height, draw):
    """A figure with a column of two pictures for each title, the start of a training over its end.

    Args:
        columns: title to a pair of whatever ``draw(axes, one)`` draws.
        width: of a column, in inches.
        height: of the figure, in inches.
        draw: draws one picture.
    """
    figure = Figure(figsize=(width * len(columns), height), layout="constrained")
    for column, (title, pair) in zip(figure.subplots(2, len(columns), squeeze=False).T, columns.items()):
        for ax, one in zip(column, pair):
            draw(ax, one)
            ax.set(xticks=[], yticks=[])
        column[0].set_title(title, fontsize=7)
    figure.axes[0].set_ylabel("start", fontsize=8)
    figure.axes[len(columns)].set_ylabel("end", fontsize=8)
    return figure
