"""Tables and figures of docs/experiments/upsamplers.md."""

import math

import numpy as np
from matplotlib.figure import Figure

from benchmarks.experiments import common, digits, published, upsamplers
from benchmarks.experiments.tables import ranked, runs_of, said, start_over_end, table, values
from benchmarks.write_tables import NotRecorded

MOMENTS = ("start", "middle", "end")
FLOORS = (1e-4, 1e-4, 3e-3)  # of a score, a relative pattern and a share of the spectrum that are taken seriously

AGREEMENT = "Rank correlation of what is predicted with what is measured"


def excess(moment, part=""):
    """The share of the spectrum at the lines, what lies around them taken off."""
    lines, around = moment[f"{part}lines"], moment[f"{part}around"]
    return math.sqrt(max(lines**2 - around**2, 0))


def points(experiment, part=""):
    """(kind, moment, score, pattern / spread, measured) of every run; what is below the floors counts as none."""
    found = []
    for variant, runs in runs_of(experiment, part).items():
        for run in runs:
            for when, moment in run["moments"].items():
                relative = moment["pattern"] / max(moment["spread"], 1e-9)
                measured = excess(moment, "smooth_")
                numbers = (max(number, floor) for number, floor in zip((moment["score"], relative, measured), FLOORS))
                found.append((variant.partition(";")[0], when, *numbers))
    return found


def board_cells(runs):
    """Measured on smooth images and predicted at the three moments, as means over the seeds."""
    measured = [np.mean([excess(run["moments"][when], "smooth_") for run in runs]) for when in MOMENTS]
    predicted = [np.mean([run["moments"][when]["score"] for run in runs]) for when in MOMENTS]
    return [f"{m:.3f}" for m in measured], [f"{p:.2g}" if p >= 1e-6 else "0" for p in predicted]


def correlations(found):
    """Rank correlations of points with what was measured, by moment and of all."""
    sentences = []
    for when in (*MOMENTS, "all"):
        these = [p for p in found if when in (p[1], "all")]
        _, _, score, relative, measured = zip(*these)
        named = {"score": score, "pattern / spread": relative}
        sentences.append(f"- {when}, {len(these)} networks: {ranked(named, measured)}")
    return "\n".join([f"{AGREEMENT}:", "", *sentences])


def digit_scores():
    """DCGAN: distance to real digits, what the judge sees in them, checkerboards measured and predicted."""
    rows = []
    found = runs_of(digits)
    for variant, runs in found.items():
        measured, predicted = board_cells(runs)
        single = np.mean([excess(run["moments"]["end"]) for run in runs])
        quality = said(values(runs, "scores", "frechet"), 2), said(values(runs, "scores", "classes"), 1)
        rows.append([variant, *quality, *measured, f"{single:.3f}", *predicted])
    real = next(iter(found.values()))[0]["real"]
    quality = f"{real['scores']['frechet']:.2f}", f"{real['scores']['classes']:.1f}"
    shown = [f"{excess(real['moment'], part):.3f}" for part in ("smooth_", "")]
    rows.append(["real digits", *quality, "-", "-", *shown, "-", "-", "-"])
    head = ["upsampler", "Fréchet distance", "classes", *(f"measured, {when}" for when in MOMENTS), "single, end",
            *(f"predicted, {when}" for when in MOMENTS)]  # fmt: skip
    return "\n".join([table(head, rows), "", correlations(points(digits))])


def published_boards():
    """Published weights, measured and predicted."""
    rows, columns = [], []
    for variant, (run, *_) in runs_of(published).items():
        moment = run["moment"]
        measured = excess(moment, "smooth_")
        columns.append((moment["score"], moment["pattern"] / max(moment["spread"], 1e-9), measured))
        rows.append([variant, published.NETWORKS[variant][0], f"{measured:.4f}", f"{excess(moment):.4f}",
                     f"{moment['score']:.2g}", f"{moment['pattern']:.2g}", f"{moment['counts']:.2g}"])  # fmt: skip
    score, relative, measured = zip(*columns)
    named = {"score": score, "pattern / spread": relative}
    head = ["weights", "enlarges by", "measured, smooth images", "measured, photographs", "score", "pattern", "counts"]
    said = f"Rank correlation with what is measured on smooth images, {len(rows)} networks: {ranked(named, measured)}."
    return "\n".join([table(head, rows), "", said])


def upsampler_scores(network):
    """Quality and checkerboards, measured and predicted."""
    rows, found = [], runs_of(upsamplers, f"; {network}")
    for variant, runs in found.items():
        quality = (
            said(values(runs, "scores", "psnr"), 2) if network == "generator" else said(values(runs, "scores", "miou"))
        )
        measured, predicted = board_cells(runs)
        detailed = np.mean([excess(run["moments"]["end"]) for run in runs])
        rows.append([variant.partition(";")[0], quality, *measured, f"{detailed:.3f}", *predicted])
    head = ["upsampler", "PSNR, dB" if network == "generator" else "mIoU",
            *(f"measured, {when}" for when in MOMENTS), "on detail, end",
            *(f"predicted, {when}" for when in MOMENTS)]  # fmt: skip
    end = [np.mean([excess(run["moments"]["end"], "smooth_") for run in runs]) for runs in found.values()]
    best = [values(runs, "scores", "psnr" if network == "generator" else "miou").mean() for runs in found.values()]
    return "\n".join([
        table(head, rows), "", correlations(points(upsamplers, f"; {network}")), "",
        f"Over the {len(rows)} upsamplers, {head[1]} with {ranked({'what is measured at the end': end}, best)}.",
    ])  # fmt: skip


def gradients():
    """Checkerboards in the U-Net's gradient at its input."""
    rows, sentences = [], []
    found = runs_of(upsamplers, "; unet")
    for variant, runs in found.items():
        cells = [f"{np.mean([excess(run['moments'][when], 'gradient_') for run in runs]):.3f}" for when in MOMENTS]
        cells += [f"{np.mean([run['moments'][when]['gradient_score'] for run in runs]):.2g}" for when in MOMENTS]
        rows.append([variant.partition(";")[0], *cells])
    for when in MOMENTS:
        moments = [run["moments"][when] for runs in found.values() for run in runs]
        measured = [excess(moment, "gradient_") for moment in moments]
        named = {"score": [moment["gradient_score"] for moment in moments]}
        sentences.append(f"- {when}, {len(moments)} networks: {ranked(named, measured)}")
    head = ["upsampler", *(f"measured, {when}" for when in MOMENTS), *(f"predicted, {when}" for when in MOMENTS)]
    return "\n".join([table(head, rows), "", f"{AGREEMENT}:", "", *sentences])


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
        for kind, when, score, _, measured in points(upsamplers, f"; {network}"):
            ax.plot(score, measured, {"start": "o", "middle": "^", "end": "s"}[when],
                    color=colours[kind], ms=5, alpha=0.7)  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel="predicted score", ylabel="measured at the lines", title=network)
        for kind in dict.fromkeys(p[0] for p in points(upsamplers, f"; {network}")):
            ax.plot([], [], "o", color=colours[kind], label=kind)
    figure.axes[-1].legend(fontsize=7)
    return figure


def draw_generated():
    """The generators' image of one held-out mosaic, at the start and at the end."""
    columns = {
        name.partition(";")[0]: [runs[0]["pictures"][when] for when in ("start", "end")]
        for name, runs in runs_of(upsamplers, "; generator").items()
        if "pictures" in runs[0]
    }

    def draw(ax, packed):
        picture = common.unpacked(packed).astype(float)[8:40, 8:40]
        low, high = np.percentile(picture, (1, 99))
        ax.imshow(picture, cmap="gray", vmin=low, vmax=max(high, low + 1), interpolation="nearest")

    return start_over_end(columns, 1.5, 3.4, draw)


TABLES = {
    "generator": lambda: upsampler_scores("generator"),
    "unet": lambda: upsampler_scores("unet"),
    "gradients": gradients,
    "digits": digit_scores,
    "published": published_boards,
}
FIGURES = {"checkerboards": draw_checkerboards, "generated": draw_generated}
