"""The tables and figures of docs/experiments, all made of the records."""

import io
import math
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import spearmanr

from benchmarks.experiments import bilinear, common, schedules, upsamplers
from benchmarks.write_tables import NotRecorded, filled

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = (*sorted((DOCS / "experiments").glob("*.md")), DOCS / "zh" / "experiments.md")
PICTURES = DOCS / "experiments"
EXPERIMENTS = (schedules, upsamplers, bilinear)
MOMENTS = ("start", "middle", "end")
FLOORS = (1e-4, 1e-4, 3e-3)  # of a score, a relative pattern and a share of the spectrum that are taken seriously
COLOURS = np.array([[31, 119, 180], [44, 160, 44], [140, 86, 75], [255, 187, 120], [227, 119, 194], [23, 23, 80],
                    [255, 230, 0]], np.uint8)  # fmt: skip


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


# ----------------------------------------------------------------------------------------------------------- schedules
def schedule_scores(where):
    """Scores of the schedules beside coverage and evenness."""
    found, rows, columns = runs_of(schedules, f"; {where}"), [], {}
    for variant, runs in found.items():
        stack, net = runs[0]["stack"], runs[0]["network"]
        rows.append([
            variant.partition(";")[0], f"{stack['size']}", f"{stack['coverage']:.2f}", f"{stack['evenness']:.2f}",
            *([f"{net['size']}", f"{net['evenness']:.2f}"] if where == "backbone" else []),
            *(said(values(runs, "scores", name)) for name in ("miou", "boundary", "wire")),
            said(values(runs, "scores", "speckles"), 2),
        ])  # fmt: skip
        facts = {"coverage": stack["coverage"], "evenness": stack["evenness"], "size of the field": stack["size"],
                 "evenness of the whole network": net["evenness"],
                 "effective radius at the start": values(runs, "effective", "before", "radius").mean(),
                 "effective radius at the end": values(runs, "effective", "after", "radius").mean()}  # fmt: skip
        if where != "backbone":
            del facts["evenness of the whole network"]
        for name, value in facts.items():
            columns.setdefault(name, []).append(value)
        for name in ("miou", "wire", "speckles"):
            columns.setdefault(name, []).append(values(runs, "scores", name).mean())
    targets = {name: columns.pop(name) for name in ("miou", "wire", "speckles")}
    titles = {"miou": "mIoU", "wire": "the wires' IoU", "speckles": "speckles"}
    sentences = [f"- with {titles[name]}: {ranked(columns, target)}" for name, target in targets.items()]
    head = ["schedule", "field", "coverage", "evenness",
            *(["field, network", "evenness, network"] if where == "backbone" else []),
            "mIoU", "boundary IoU", "wires' IoU", "speckles, %"]  # fmt: skip
    return "\n".join([table(head, rows), "", f"Rank correlations over the {len(rows)} schedules:", "", *sentences])


def fields():
    """Effective fields before and after training."""
    rows = []
    for variant, runs in runs_of(schedules).items():
        box = runs[0]["effective"]["after"]["box"][0]
        radius, area = ([values(runs, "effective", when, key) for when in ("before", "after")]
                        for key in ("radius", "area"))  # fmt: skip
        rows.append([variant, box, *(said(r, 2) for r in radius), *(said(a, 0) for a in area),
                     f"{area[1].mean() / box**2:.2f}"])  # fmt: skip
    head = ["network", "field, pixels", "radius, start", "radius, end", "area, start", "area, end", "area / field, end"]
    return table(head, rows)


def draw_predictions():
    """Labels and predictions of two held-out mosaics, on the pixels and on the backbone."""
    found = runs_of(schedules)
    images, labels = common.held_out(2)
    kept = {name: runs[0]["predictions"] for name, runs in found.items() if "predictions" in runs[0]}
    shown = [
        ("mosaic", images),
        ("labels", labels),
        *((k.replace("; ", "\n"), common.unpacked(v)) for k, v in kept.items()),
    ]
    rows = -(-len(shown) // 7)
    figure = Figure(figsize=(10.5, 3.4 * rows), layout="constrained")
    for ax, (name, pair) in zip(figure.subplots(2 * rows, 7).reshape(rows, 2, 7).swapaxes(1, 2).reshape(-1, 2), shown):
        for one, picture in zip(ax, pair):
            one.imshow(picture[..., 0] if picture.ndim == 3 else COLOURS[picture], cmap="gray", interpolation="nearest")
        ax[0].set_title(name, fontsize=8)
    for ax in figure.axes:
        ax.set_axis_off()
    return figure


def draw_fields():
    """Gradient energy of the middle output at the start and at the end."""
    kept = {
        name: runs[0]["effective"]
        for name, runs in runs_of(schedules).items()
        if "energy" in runs[0]["effective"]["after"]
    }
    figure = Figure(figsize=(1.05 * len(kept), 2.8), layout="constrained")
    for column, (name, found) in zip(figure.subplots(2, len(kept), squeeze=False).T, kept.items()):
        for ax, when in zip(column, ("before", "after")):
            ax.imshow(common.unpacked(found[when]["energy"]), cmap="viridis", vmin=0, vmax=255)
            ax.set(xticks=[], yticks=[])
        column[0].set_title(name.replace("; ", "\n").replace("sawtooth ", ""), fontsize=7)
    figure.axes[0].set_ylabel("start", fontsize=8)
    figure.axes[len(kept)].set_ylabel("end", fontsize=8)
    return figure


# ---------------------------------------------------------------------------------------------------------- upsamplers
def excess(moment, part=""):
    """The share of the spectrum at the lines, what lies around them taken off."""
    lines, around = moment[f"{part}lines"], moment[f"{part}around"]
    return math.sqrt(max(lines**2 - around**2, 0))


def points(network):
    """(kind, moment, score, pattern / spread, measured) of every run; what is below the floors counts as none."""
    found = []
    for variant, runs in runs_of(upsamplers, f"; {network}").items():
        for run in runs:
            for when, moment in run["moments"].items():
                relative = moment["pattern"] / max(moment["spread"], 1e-9)
                measured = excess(moment, "smooth_")
                numbers = (max(number, floor) for number, floor in zip((moment["score"], relative, measured), FLOORS))
                found.append((variant.partition(";")[0], when, *numbers))
    return found


def upsampler_scores(network):
    """Quality and checkerboards, measured and predicted."""
    rows = []
    for variant, runs in runs_of(upsamplers, f"; {network}").items():
        quality = (
            said(values(runs, "scores", "psnr"), 2) if network == "generator" else said(values(runs, "scores", "miou"))
        )
        measured = [np.mean([excess(run["moments"][when], "smooth_") for run in runs]) for when in MOMENTS]
        detailed = np.mean([excess(run["moments"]["end"]) for run in runs])
        predicted = [np.mean([run["moments"][when]["score"] for run in runs]) for when in MOMENTS]
        rows.append([variant.partition(";")[0], quality, *(f"{m:.3f}" for m in measured), f"{detailed:.3f}",
                     *(f"{p:.2g}" if p >= 1e-6 else "0" for p in predicted)])  # fmt: skip
    head = ["upsampler", "PSNR, dB" if network == "generator" else "mIoU",
            *(f"measured, {when}" for when in MOMENTS), "on detail, end",
            *(f"predicted, {when}" for when in MOMENTS)]  # fmt: skip
    sentences = []
    for when in (*MOMENTS, "all"):
        these = [p for p in points(network) if when in (p[1], "all")]
        _, _, score, relative, measured = zip(*these)
        named = {"score": score, "pattern / spread": relative}
        sentences.append(f"- {when}, {len(these)} networks: {ranked(named, measured)}")
    return "\n".join(
        [table(head, rows), "", "Rank correlation of what is predicted with what is measured:", "", *sentences]
    )


def gradients():
    """Checkerboards in the U-Net's gradient at its input."""
    rows = []
    for variant, runs in runs_of(upsamplers, "; unet").items():
        cells = [f"{np.mean([excess(run['moments'][when], 'gradient_') for run in runs]):.3f}" for when in MOMENTS]
        cells += [f"{np.mean([run['moments'][when]['gradient_score'] for run in runs]):.2g}" for when in MOMENTS]
        rows.append([variant.partition(";")[0], *cells])
    head = ["upsampler", *(f"measured, {when}" for when in MOMENTS), *(f"predicted, {when}" for when in MOMENTS)]
    return table(head, rows)


def draw_checkerboards():
    """Predicted against measured, one point a network and moment."""
    networks = [
        name for name in ("generator", "unet") if any(name in run["variant"] for run in common.read(upsamplers.NAME))
    ]
    if not networks:
        raise NotRecorded
    figure = Figure(figsize=(4.6 * len(networks), 3.9), layout="constrained")
    colours = {kind: f"C{number}" for number, kind in enumerate(upsamplers.KINDS)}
    for ax, network in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks):
        for kind, when, score, _, measured in points(network):
            ax.plot(score, measured, {"start": "o", "middle": "^", "end": "s"}[when],
                    color=colours[kind], ms=5, alpha=0.7)  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel="predicted score", ylabel="measured at the lines", title=network)
        for kind in dict.fromkeys(p[0] for p in points(network)):
            ax.plot([], [], "o", color=colours[kind], label=kind)
    figure.axes[-1].legend(fontsize=7)
    return figure


def draw_generated():
    """The generators' image of one held-out mosaic, at the start and at the end."""
    kept = {
        name: runs[0]["pictures"] for name, runs in runs_of(upsamplers, "; generator").items() if "pictures" in runs[0]
    }
    figure = Figure(figsize=(1.5 * len(kept), 3.4), layout="constrained")
    for column, (name, pictures) in zip(figure.subplots(2, len(kept), squeeze=False).T, kept.items()):
        for ax, when in zip(column, ("start", "end")):
            picture = common.unpacked(pictures[when]).astype(float)[8:40, 8:40]
            low, high = np.percentile(picture, (1, 99))
            ax.imshow(picture, cmap="gray", vmin=low, vmax=max(high, low + 1), interpolation="nearest")
            ax.set(xticks=[], yticks=[])
        column[0].set_title(name.partition(";")[0], fontsize=7)
    figure.axes[0].set_ylabel("start", fontsize=8)
    figure.axes[len(kept)].set_ylabel("end", fontsize=8)
    return figure


# ------------------------------------------------------------------------------------------------------------ bilinear
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


# --------------------------------------------------------------------------------------------------------------- times
def times():
    """Processor time of a training step of every variant."""
    rows = []
    for experiment in EXPERIMENTS:
        try:
            for variant, runs in runs_of(experiment).items():
                size = f"{runs[0]['parameters']:,}" if "parameters" in runs[0] else "-"
                rows.append([experiment.NAME, variant, size, f"{np.median(values(runs, 'step_ms', 'cpu')):.0f}"])
        except NotRecorded:
            continue
    return table(["experiment", "variant", "parameters", "CPU ms a step of 8 mosaics"], rows)


def totals():
    """How many runs there are, how long they took, and on what."""
    rows = []
    for experiment in EXPERIMENTS:
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


TABLES = {
    "backbone": lambda: schedule_scores("backbone"),
    "pixels": lambda: schedule_scores("pixels"),
    "fields": fields,
    "generator": lambda: upsampler_scores("generator"),
    "unet": lambda: upsampler_scores("unet"),
    "gradients": gradients,
    "bilinear": bilinear_scores,
    "times": times,
    "totals": totals,
}
FIGURES = {
    "predictions": draw_predictions,
    "fields": draw_fields,
    "checkerboards": draw_checkerboards,
    "generated": draw_generated,
    "bilinear": draw_bilinear,
}


def write(check=False):
    """Fill the pages and draw the figures; or say which page disagrees with the records."""
    for page in PAGES:
        old = page.read_text("utf-8")
        new = filled(old, TABLES)
        if check and new != old:
            sys.exit(f"{page.name} does not say what the records say: python -m benchmarks.experiments --pages")
        if not check:
            page.write_text(new, "utf-8")
    for name, draw in FIGURES.items():
        if check:
            break
        try:
            figure = draw()
        except NotRecorded:
            continue
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=72)
        Image.open(drawn).convert("RGB").quantize(64).save(PICTURES / f"{name}.png", optimize=True)
