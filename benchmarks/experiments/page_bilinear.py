"""Table and figure of docs/experiments/bilinear-start.md."""

import numpy as np
from matplotlib.figure import Figure

from benchmarks.experiments import bilinear
from benchmarks.experiments.tables import runs_of, said, table, values


def bilinear_scores():
    """Scores along the way and what the kernels became."""
    rows = []
    for variant, runs in runs_of(bilinear).items():
        curves = np.array([[score for _, score in run["curve"]] for run in runs])
        kernel = [said(values(runs, "kernel", name), 2) for name in ("distance", "others", "alike", "score")]
        rows.append(
            [variant, *(said(curves[:, at]) for at in (1, 2, 4, 8)), said(values(runs, "scores", "boundary")), *kernel]
        )
    steps = [number for number, _ in next(iter(runs_of(bilinear).values()))[0]["curve"]]
    head = ["kernel", *(f"mIoU, step {steps[at]}" for at in (1, 2, 4, 8)), "boundary IoU", "distance",
            "to other classes", "cosine", "checkerboard score"]  # fmt: skip
    return table(head, rows)


def draw_bilinear():
    """Curves with the range of the seeds, and the mean kernel of a class to itself."""
    found = runs_of(bilinear)
    figure = Figure(figsize=(9.5, 3), layout="constrained")
    axes = figure.subplots(1, 1 + len(found), width_ratios=[1.8, *(1 for _ in found)])
    for number, (variant, runs) in enumerate(found.items()):
        steps = [step for step, _ in runs[0]["curve"]]
        curves = np.array([[score for _, score in run["curve"]] for run in runs])
        axes[0].plot(steps, curves.mean(0), color=f"C{number}", label=variant)
        axes[0].fill_between(steps, curves.min(0), curves.max(0), color=f"C{number}", alpha=0.2)
        kernel = np.array(runs[0]["mean_kernel"])
        axes[1 + number].imshow(kernel, cmap="RdBu_r", vmin=-abs(kernel).max(), vmax=abs(kernel).max())
        axes[1 + number].set(xticks=[], yticks=[], title=variant)
    axes[0].set(xlabel="step", ylabel="mIoU, held out")
    axes[0].legend(fontsize=8)
    return figure


TABLES = {"bilinear": bilinear_scores}
FIGURES = {"bilinear": draw_bilinear}
