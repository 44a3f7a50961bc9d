"""Tables and figures of docs/experiments/schedules.md."""

from itertools import combinations

import numpy as np
from matplotlib.figure import Figure

from benchmarks.experiments import common, schedules, streets
from benchmarks.experiments.tables import ranked, runs_of, said, start_over_end, table, values

COLOURS = np.array([[31, 119, 180], [44, 160, 44], [140, 86, 75], [255, 187, 120], [227, 119, 194], [23, 23, 80],
                    [255, 230, 0]], np.uint8)  # fmt: skip


def schedule_scores(where):
    """Scores of the schedules beside coverage and evenness."""
    found, rows, columns = runs_of(schedules, f"; {where}"), [], {}
    found = dict(sorted(found.items(), key=lambda one: (one[1][0]["stack"]["size"], one[1][0]["stack"]["evenness"])))
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
    if where == "backbone":
        alike, even = columns["size of the field"], columns["evenness"]
        kept = [number for number, name in enumerate(found) if not name.startswith(schedules.DESCENDING)]
        told = [f"{titles[name]} {of_one_field(kept, alike, even, target)}" for name, target in targets.items()]
        sentences += ["", "Pairs of one field in which the more even schedule has more, the descending one left out: "
                      f"{', '.join(told)}."]  # fmt: skip
    head = ["schedule", "field", "coverage", "evenness",
            *(["field, network", "evenness, network"] if where == "backbone" else []),
            "mIoU", "boundary IoU", "wires' IoU", "speckles, %"]  # fmt: skip
    return "\n".join([table(head, rows), "", f"Rank correlations over the {len(rows)} schedules:", "", *sentences])


def of_one_field(kept, fields, evenness, target):
    """In how many of the pairs of the same field what is more even has more of the target."""
    pairs = [(i, j) for i, j in combinations(kept, 2) if fields[i] == fields[j]]
    more = sum((evenness[i] - evenness[j]) * (target[i] - target[j]) > 0 for i, j in pairs)
    return f"{more} of {len(pairs)}"


def street_scores():
    """CamVid's scores beside coverage and evenness of the stack."""
    rows, columns = [], {}
    names = {"miou": "mIoU", "boundary": "boundary IoU", "pole": "poles' IoU", "sign": "signs' IoU"}
    found = runs_of(streets)
    for variant, runs in found.items():
        stack = runs[0]["stack"]
        rows.append([
            variant, str(stack["size"]), f"{stack['coverage']:.2f}", f"{stack['evenness']:.2f}",
            *(said(values(runs, "scores", name)) for name in names), said(values(runs, "scores", "speckles"), 2),
            said(values(runs, "radius"), 1),
        ])  # fmt: skip
        facts = {"coverage": stack["coverage"], "evenness": stack["evenness"], "size of the field": stack["size"],
                 "effective radius": values(runs, "radius").mean()}  # fmt: skip
        for name, value in facts.items():
            columns.setdefault(name, []).append(value)
    titles = names | {"speckles": "speckles"}
    means = {name: [values(runs, "scores", name).mean() for runs in found.values()] for name in titles}
    sentences = [f"- with {titles[name]}: {ranked(columns, these)}" for name, these in means.items() if any(these)]
    head = ["schedule", "field", "coverage", "evenness", *titles.values(), "effective radius, pixels"]
    head[-2] += ", %"
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
    columns = {
        name.replace("; ", "\n").replace("sawtooth ", ""): [runs[0]["effective"][when] for when in ("before", "after")]
        for name, runs in runs_of(schedules).items()
        if "energy" in runs[0]["effective"]["after"]
    }

    def draw(ax, found):
        ax.imshow(common.unpacked(found["energy"]), cmap="viridis", vmin=0, vmax=255)

    return start_over_end(columns, 1.05, 2.8, draw)


TABLES = {
    "backbone": lambda: schedule_scores("backbone"),
    "pixels": lambda: schedule_scores("pixels"),
    "fields": fields,
    "streets": street_scores,
}
FIGURES = {"predictions": draw_predictions, "fields": draw_fields}
