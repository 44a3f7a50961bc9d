"""Tables and figure of docs/experiments/super-resolution.md and membranes.md."""

import numpy as np
from matplotlib.figure import Figure

from benchmarks.experiments import common, membranes, super_resolution
from benchmarks.experiments.page_upsamplers import excess
from benchmarks.experiments.tables import runs_of, said, table, values


def super_resolution_scores():
    """PSNR of the trained, of bicubic interpolation and of the published weights."""
    found = runs_of(super_resolution)
    ours, rows = found["FSRCNN x2"], []
    sets = [("psnr", "bicubic", "test strips"), ("Set5, luma", "Set5 bicubic, luma", "Set5, luma"),
            ("Set5, three planes", "Set5 bicubic, three planes", "Set5, three planes")]  # fmt: skip
    published = found.get(super_resolution.PUBLISHED, [{"scores": {}}])[0]["scores"]
    for mine, theirs, name in sets:
        if mine in ours[0]["scores"]:
            other = f"{published[mine]:.2f}" if mine in published else "-"
            rows.append([name, said(values(ours, "scores", mine), 2), f"{ours[0]['scores'][theirs]:.2f}", other])
    return table(["PSNR, dB", "from scratch", "bicubic", "published weights"], rows)


def super_resolution_boards():
    """Checkerboards of the trained and the published weights."""
    rows = []
    for variant, runs in runs_of(super_resolution).items():
        cells = [
            (values(runs, "checkerboard", "score"), 4), (values(runs, "checkerboard", "pattern"), 5),
            ([excess(run["checkerboard"]) for run in runs], 3), (values(runs, "checkerboard", "around"), 3),
        ]  # fmt: skip
        once = variant in super_resolution.ONCE
        rows.append([variant, *(f"{n[0]:.{digits}f}" if once else said(n, digits) for n, digits in cells)])
    return table(["weights", "score", "pattern", "measured at the lines", "around the lines"], rows)


def draw_super_resolution():
    """Bicubic, FSRCNN, the truth."""
    picture = common.unpacked(runs_of(super_resolution)["FSRCNN x2"][0]["picture"])
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for ax, part, name in zip(figure.subplots(1, 3), np.split(picture, 3, axis=1), ("bicubic", "FSRCNN", "truth")):
        ax.imshow(part, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        ax.set(title=name)
        ax.set_axis_off()
    return figure


def membrane_scores():
    """Slices whole, by exact tiles and by tiles apart."""
    (runs,) = runs_of(membranes).values()
    rows = []
    for way in runs[0]["ways"]:
        name, _, tile = way.partition(", ")
        of = [run["ways"][way] for run in runs]
        rows.append([
            {"whole": "whole slices", "exact": f"exact tiles of {tile}", "apart": f"tiles of {tile}, each apart"}[name],
            *(said(values(of, key)) for key in ("pixel", "pixel_half", "rand", "information")),
            said(values(of, "differing"), 3), f"{values(of, 'largest').max():.1g}",
        ])  # fmt: skip
    head = ["computed on", "pixel error", "pixel error at 0.5", "Rand F", "information F", "pixels that differ, %",
            "largest difference"]  # fmt: skip
    return table(head, rows)


TABLES = {
    "superresolution": super_resolution_scores,
    "superboards": super_resolution_boards,
    "membranes": membrane_scores,
}
FIGURES = {"super_resolution": draw_super_resolution}
