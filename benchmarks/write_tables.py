"""Write the tables of docs/benchmarks.md, docs/accelerators.md and the README from the records in benchmarks/results/.

    python benchmarks/write_tables.py [--check]

A page marks a table with the comment `table: NAME` and ends it with `end`; what stands between is replaced. With
--check nothing is written, and the exit status says whether the page agrees with the records.
"""

import argparse
import itertools
import json
import math
import re
import sys
from pathlib import Path

from jaxconv.benchmark import resizing
from jaxconv.benchmark.cases import REAL
from jaxconv.benchmark.report import rows_of_json
from jaxconv.benchmark.runner import summarise
from jaxconv.benchmark.targets import described, read_records, targets_table
from jaxconv.offline import table as offline_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = tuple(ROOT / name for name in ("docs/benchmarks.md", "docs/accelerators.md", "docs/models.md", "README.md"))
PICTURE = ROOT / "docs" / "pictures" / "scaling-cpu.png"
MARK = re.compile(r"(<!-- table: ([a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


class NotRecorded(Exception):
    """There is no such record; the page says so."""


def record_of(name):
    if not (RESULTS / name).exists():
        raise NotRecorded
    return json.loads((RESULTS / name).read_text("utf-8"))


def targets():
    """What is aimed at, beside every record of layers that there is."""
    return targets_table(read_records(sorted(RESULTS.glob("layers-*.json"))))


def speed():
    """The README's: means and worst cases over layers and networks."""
    about = record_of("layers-cpu.json")
    rows = {part: rows_of_json(about[part]) for part in ("real", "unseen")}
    of = {"real": "layers of published networks", "unseen": "layers drawn at random"}
    titles = {"lax": "lax", "flax": "Flax", "equinox": "Equinox", "torch": "PyTorch"}
    titles = {p: t for p, t in titles.items() if any(p in row.seconds for row in rows["real"])}
    found = {}
    for (part, measured), (task, name) in itertools.product(
        rows.items(), (("forward", "forward"), ("gradients", "both gradients"))
    ):
        found[f"{name}, {len({row.layer for row in measured})} {of[part]}"] = {
            peer: [(row.ratio(peer), row.layer) for row in measured if row.task == task and row.ratio(peer)]
            for peer in titles
        }
    networks = record_of("networks-cpu.json")["networks"]
    for task in ("training step", "inference"):
        these = {name: row["seconds"] for name, row in networks.items() if name.endswith(task)}
        found[f"{task}, {len(these)} networks"] = {
            peer: [(took[peer] / took["jaxconv"], name) for name, took in these.items() if peer in took]
            for peer in titles
        }
    out = ["Their times over jaxconv's, geometric mean and worst case:", "", f"| | {' | '.join(titles.values())} |"]
    out.append("|---" * (1 + len(titles)) + "|")
    for name, peers in found.items():
        means = [summarise(ratios, min) for ratios in peers.values()]
        cells = ["-" if m is None else f"{m.mean:.2f} ({m.worst:.2f})" for m in means]
        out.append(f"| {name} | {' | '.join(cells)} |")
    out += ["", f"{described(about)}."]
    return "\n".join(out)


def _family(layer):
    """What the page's first table counts a registry layer as."""
    if layer.groups > 1:
        return "depthwise" if layer.groups == layer.channels_in else "groups"
    if layer.channels_out % 8:
        return "last layers, 3 to 21 channels"
    if len(layer.size) != 2:
        return f"{len(layer.size)}-D"
    if layer.transposed:
        return "transposed, 2-D"
    return "dilated, 2-D" if layer.dilation > 1 else "dense, 2-D"


FAMILIES = (
    "dense, 2-D",
    "dilated, 2-D",
    "transposed, 2-D",
    "last layers, 3 to 21 channels",
    "depthwise",
    "groups",
    "1-D",
    "3-D",
    "networks, training step",
    "networks, inference",
)
CHIPS = {"AVX2": "-avx2", "AVX-512": ""}  # by the end of their records' names


def _chip_ratios(chip):
    """{family: {(task, peer): ratios}} of one instruction set."""
    kinds = {layer.name: _family(layer) for layer in REAL}
    found = {}
    for row in rows_of_json(record_of(f"layers-cpu{CHIPS[chip]}.json")["real"]):
        for peer in ("torch", "lax"):
            if row.layer in kinds and row.ratio(peer):
                found.setdefault(kinds[row.layer], {}).setdefault((row.task, peer), []).append(row.ratio(peer))
    try:
        nets = record_of(f"networks-cpu{CHIPS[chip]}.json")["networks"]
    except NotRecorded:
        nets = {}
    for name, row in nets.items():
        task = "training step" if name.endswith("training step") else "inference"
        for peer in ("torch", "lax"):
            if peer in row["seconds"]:
                ratio = row["seconds"][peer] / row["seconds"]["jaxconv"]
                # A training step stands under gradients, as an inference under the forward pass.
                key = ("gradients" if task == "training step" else "forward", peer)
                found.setdefault(f"networks, {task}", {}).setdefault(key, []).append(ratio)
    return found


def families():
    """The page's first table: geometric means by kind of layer, with each instruction set."""
    chips = {chip: _chip_ratios(chip) for chip in CHIPS}
    columns = list(itertools.product(chips, ("forward", "gradients"), ("torch", "lax")))
    titles = {"torch": "PyTorch", "lax": "lax"}
    out = ["| | count | " + " | ".join(f"{chip}, {task}, {titles[peer]}" for chip, task, peer in columns) + " |"]
    out.append("|---" * (2 + len(columns)) + "|")
    for family in FAMILIES:
        cells, count = [], 0
        for chip, task, peer in columns:
            ratios = chips[chip].get(family, {}).get((task, peer), [])
            count = max(count, len(ratios))
            cells.append(f"{math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}" if ratios else "-")
        if count:
            out.append(f"| {family} | {count} | {' | '.join(cells)} |")
    about = [f"{chip}: {described(record_of(f'layers-cpu{end}.json'))}" for chip, end in CHIPS.items()]
    return "\n".join([*out, "", *(f"- {line}." for line in about)])


def draw_families(path):
    """The same as a picture: a dot for each layer or network, on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    marks = {"forward": "o", "gradients": "s"}
    for panel, (peer, title) in zip(panels, (("torch", "PyTorch"), ("lax", "lax"))):
        for shift, (chip, colour) in zip((-0.2, 0.2), (("AVX2", "#1f77b4"), ("AVX-512", "#d62728"))):
            found = _chip_ratios(chip)
            for task, mark in marks.items():
                points = [
                    (ratio, FAMILIES.index(family) + shift + (0.08 if task == "gradients" else -0.08))
                    for family, by in found.items()
                    for ratio in by.get((task, peer), ())
                ]
                if points:
                    panel.scatter(
                        *zip(*points), s=16, marker=mark, color=colour, alpha=0.7, label=f"{chip}, {task}", zorder=3
                    )
        panel.set_xscale("log")
        panel.axvline(1, color="black", linewidth=1)
        panel.set_xlabel(f"{title}'s time / jaxconv's", fontsize=9)
        panel.grid(alpha=0.3)
        ticks = (0.5, 1, 2, 4, 8) if peer == "torch" else (1, 10, 100, 1000)
        panel.set_xticks(ticks, [str(t) for t in ticks])
        panel.minorticks_off()
    panels[0].set_yticks(range(len(FAMILIES)), FAMILIES, fontsize=9)
    panels[0].set_ylim(len(FAMILIES) - 0.5, -0.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=9)
    figure.savefig(path, dpi=130)


def layers():
    """Every real layer: our time and each peer's over it, by task."""
    return layers_of(record_of("layers-cpu.json"))


def halves():
    """The same in bfloat16, after means and worst cases."""
    record = record_of("bfloat16-layers-avx512bf16.json")
    rows = rows_of_json(record["real"])
    out = [described(record), "", "| task | against | layers | mean | worst | at |", "|---|---|---|---|---|---|"]
    for task, peer in itertools.product(("forward", "gradients"), ("lax", "torch")):
        found = summarise(((row.ratio(peer), row.layer) for row in rows if row.task == task and row.ratio(peer)), min)
        cells = f"{found.count} | {found.mean:.2f} | {found.worst:.2f} | {found.layer}"
        out.append(f"| {task} | {peer} | {cells} |")
    return "\n".join([*out, "", layers_of(record)])


def layers_of(record):
    """A record's real layers."""
    rows = rows_of_json(record["real"])
    peers = [peer for peer in ("lax", "flax", "equinox", "torch") if any(peer in row.seconds for row in rows)]
    tasks = ("forward", "gradients")
    head = [f"{task}, ms | {' | '.join(peers)}" for task in tasks]
    out = [f"| layer | {' | '.join(head)} |", "|---" * (1 + len(tasks) * (1 + len(peers))) + "|"]
    for layer in dict.fromkeys(row.layer for row in rows):
        cells = [layer]
        for task in tasks:
            row = next(row for row in rows if (row.layer, row.task) == (layer, task))
            ratios = [row.ratio(peer) for peer in peers]
            cells += [f"{1e3 * row.seconds['jaxconv']:.2f}", *("-" if r is None else f"{r:.2f}" for r in ratios)]
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out)


def networks():
    record = record_of("networks-cpu.json")
    peers = ("accelerate", "lax", "torch")
    out = [described(record), "", "| network | jaxconv, ms | " + " | ".join(peers) + " | first call, jaxconv / lax |"]
    out.append("|---" * (3 + len(peers)) + "|")
    for name, row in record["networks"].items():
        took, first = row["seconds"], row["first_call"]
        ratios = [f"{took[peer] / took['jaxconv']:.2f}" if peer in took else "-" for peer in peers]
        out.append(
            f"| {name} | {1e3 * took['jaxconv']:.1f} | {' | '.join(ratios)} | {first['jaxconv'] / first['lax']:.2f} |"
        )
    return "\n".join(out)


def scaling():
    record = record_of("scaling-cpu.json")
    found = record["cliffs"]
    said = [f"{len(found)} findings over {len(record['scaling'])} points:" if found else "No findings.", ""]
    if PICTURE.exists():
        said += [f"![Time against each parameter, on logarithmic axes](pictures/{PICTURE.name})", ""]
    return "\n".join([described(record), "", *said, *(f"- {sentence}" for sentence in found)]).rstrip()


def resize():
    record = record_of("resize-cpu.json")
    return f"{described(record)}\n\n{resizing.table(record['resize'])}"


def libraries():
    record = record_of("accelerate-cpu.json")
    out = [described(record), "", "| library | plain, ms | accelerated, ms | speed-up | largest difference | faces |"]
    out.append("|---|---|---|---|---|---|")
    for name, row in record["libraries"].items():
        plain, fast = (1e3 * row["seconds"][kind] for kind in ("plain", "accelerated"))
        faces = ", ".join(f"{count} {face}" for face, count in sorted(row["faces"].items()))
        faces += f", {row['left_alone']} left alone" if row["left_alone"] else ""
        out.append(f"| {name} | {plain:.1f} | {fast:.1f} | {plain / fast:.2f} | {row['difference']:.0e} | {faces} |")
    return "\n".join(out)


def precision():
    record = record_of("bfloat16-cpu.json")
    out = [described(record), "", "| task | layers | largest error, jaxconv | largest error, lax | largest ratio |"]
    out.append("|---|---|---|---|---|")
    for task in ("forward", "data gradient", "kernel gradient"):
        pairs = [(row[task]["jaxconv"], row[task]["lax"]) for row in record["layers"].values()]
        worst = summarise(((ours / lax, name) for (ours, lax), name in zip(pairs, record["layers"])), max)
        ours, lax = (max(column) for column in zip(*pairs))
        out.append(f"| {task} | {len(pairs)} | {ours:.2e} | {lax:.2e} | {worst.worst:.2f} ({worst.layer}) |")
    return "\n".join(out)


def _timed():
    """lax's time over ours in bfloat16 by (layer, task), where a card has both."""
    out = {}
    for path in RESULTS.glob("accelerator-*.json"):
        for section in json.loads(path.read_text("utf-8"))["sections"].values():
            for row in section.get("rows", ()) if section.get("dtype") == "bfloat16" else ():
                if {"jaxconv", "lax"} <= set(row["seconds"]):
                    out[row["what"], row["task"]] = row["seconds"]["lax"] / row["seconds"]["jaxconv"]
    return out


def compiled():
    """What compilers make of layers and networks, one part an accelerator."""
    records = [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("compiled-*.json"))]
    if not records:
        raise NotRecorded
    out = []
    for record in records:
        unit = "estimated cycles" if record["kind"] == "tpu" else "FLOP executed by products"
        settings = f"{record['dtype']}, batches of the registry's layers times {record['batch_factor']}"
        out += [f"**{record['target']}**, {unit}: {settings}, {record['date']}", ""]
        out += [offline_table.markdown(record), ""]
        worse = offline_table.worse(record, _timed() if record["kind"] == "gpu" else None)
        said = "Worse than lax by more than 2%" + ", in brackets lax / jaxconv and that of times on an H200" * any(
            "timed" in phrase for phrase in worse
        )
        out += [f"{said}: {'; '.join(worse)}." if worse else "No row is worse by 2%.", ""]
        networks = [row for row in record["rows"] if row["kind"] == "network"]
        if networks:
            out += [offline_table.networks(networks, record["kind"]), ""]
    return "\n".join(out).rstrip()


def compiled_models():
    """What compilers make of a training step of each registered model, one part an accelerator."""
    records = [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("models-*.json"))]
    if not records:
        raise NotRecorded
    out = []
    for record in records:
        out += [f"**{record['target']}**, {record['dtype']}, {record['date']}.", "", offline_table.models(record), ""]
        for found in offline_table.summaries(record):
            if found["contender"] == "jaxconv":
                figures = f"{found['mean']:.2f} on the geometric mean, {found['worst']:.2f} at the least"
                out += [f"The ratio is {figures} ({found['at']}), over {found['count']} models.", ""]
    return "\n".join(out).rstrip()


def hardware():
    """What was timed on accelerators: networks, and the faces of layers."""
    records = [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("accelerator-*.json"))]
    if not records:
        raise NotRecorded
    out = []
    for record in records:
        versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        out += [f"**{record['device']}**, {record['date']}; {versions}", ""]
        out += ["| section | task | against | rows | mean | worst | at |", "|---|---|---|---|---|---|---|"]
        for name, section in record["sections"].items():
            rows = [row for row in section.get("rows", ()) if "jaxconv" in row["seconds"]]
            tasks = dict.fromkeys(row["task"] for row in rows)
            for task, peer in itertools.product(tasks, ("lax", "accelerate", "torch")):
                found = summarise(
                    (row["seconds"][peer] / row["seconds"]["jaxconv"], row["what"])
                    for row in rows
                    if row["task"] == task and peer in row["seconds"]
                )
                if found is not None:
                    cells = f"{found.count} | {found.mean:.2f} | {found.worst:.2f} | {found.layer}"
                    out.append(f"| {name}, {section['dtype']} | {task} | {peer} | {cells} |")
        out.append("")
        networks = [r for r in record["sections"].get("networks", {}).get("rows", ()) if "jaxconv" in r["seconds"]]
        if networks:
            out += ["| network | jaxconv, ms | accelerate, ms | lax, ms | PyTorch, ms |", "|---|---|---|---|---|"]
            for row in networks:
                times = (row["seconds"].get(who) for who in ("jaxconv", "accelerate", "lax", "torch"))
                cells = " | ".join("-" if t is None else f"{1e3 * t:.2f}" for t in times)
                out.append(f"| {row['what']}, {row['task']} | {cells} |")
            out.append("")
    return "\n".join(out).rstrip()


TABLES = {
    "families": families,
    "speed": speed,
    "targets": targets,
    "layers": layers,
    "networks": networks,
    "scaling": scaling,
    "resize": resize,
    "libraries": libraries,
    "precision": precision,
    "halves": halves,
    "compiled": compiled,
    "models": compiled_models,
    "hardware": hardware,
}


def filled(text, tables=None):
    """The page with every table from its record; ``tables`` are names and functions, these here by default."""

    def table(found):
        try:
            said = (tables or TABLES)[found[2]]()
        except NotRecorded:
            said = "Not recorded yet."
        return f"{found[1]}\n{said}\n\n{found[3]}"

    return MARK.sub(table, text)


def main():
    """Write the pages, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    for page in PAGES:
        old = page.read_text("utf-8")
        new = filled(old)
        if options.check and new != old:
            sys.exit(f"{page.name} does not say what the records say: run python benchmarks/write_tables.py")
        if not options.check:
            part = page.with_suffix(".part")
            part.write_text(new, "utf-8")
            part.replace(page)
    if not options.check:
        draw_families(ROOT / "docs" / "pictures" / "families.png")


if __name__ == "__main__":
    main()
