"""Everything worth knowing of jaxconv on the accelerator of this machine, in a few minutes.

    python benchmarks/on_accelerator.py [--budget 280] [--out FILE.json] [--sections tests,networks,...] [--rehearse]

Sections, in this order, each written to the record as it ends: `tests` (those marked gpu), `networks` (training steps
and inference in bfloat16), `layers` (every face of the registry in bfloat16), `neighbours` (pooling, unpooling,
resizing, windows), `tf32` (the faces in float32, products in TF32), `compile` (compilation alone, in fresh processes).
Each has a share of the time that is left; what does not fit is skipped and named.

Contenders: jaxconv and, in turn in the same process, PyTorch in its channels-last format with cuDNN's benchmark mode,
where it is installed; then, in a process of their own that can be ended, lax as flax calls it and `jaxconv.accelerate`
of it: XLA tries the algorithms of a convolution while it compiles, and some of lax's take minutes. Programs are
compiled one by one, since compilations side by side disturb each other's trials. The record is
benchmarks/results/accelerator-DEVICE.json, and --out too.

Needs jax, numpy and pytest alone; runs from a checkout as `PYTHONPATH=. python benchmarks/on_accelerator.py`.
`--rehearse` runs all of it at tiny sizes on a CPU, and writes --out only.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import queue
import re
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # PyTorch's networks live beside the tests that compare with them
# PyTorch and the compilers' trials need memory beside what jax takes at its start.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.4")

# Sections in order of worth, and the weight of each in what is left of the budget.
SECTIONS = {"tests": 3, "networks": 7, "layers": 6, "neighbours": 2, "tf32": 4, "compile": 1}
# Seconds that one program of a peer may take to compile before it is given up, and the share of a section's time that
# is kept for the peers.
PATIENCE = 25
PEERS_SHARE = 0.45
# Elements of a layer's three tensors together: well beyond a GPU's cache.
ELEMENTS = 2**26
WORST = 8


class Run:
    """The record of a run, its clock and its sizes."""

    def __init__(self, options, measure_peaks=True):
        import jax

        from jaxconv.benchmark import hardware, report, runner

        self.options, self.rehearse = options, options.rehearse
        self.h, self.write_json = hardware, report.write_json
        self.end = time.monotonic() + options.budget
        self.torch = find_torch(self)
        device = jax.devices()[0]
        slug = re.sub("[^a-z0-9]+", "-", device.device_kind.lower()).strip("-")
        self.paths = [options.out] if options.out else []
        if not self.rehearse:
            self.paths.insert(0, ROOT / "benchmarks" / "results" / f"accelerator-{slug}.json")
        self.record = {**runner.machine(), "budget": options.budget, "rehearsal": self.rehearse, "sections": {}}
        self.data = hardware.Data(size=2**20 if self.rehearse else hardware.POOL)
        size, long = (256, 2**20) if self.rehearse else (8192, 2**29)
        self.timing = {"repeats": 1, "sample": 1e-3} if self.rehearse else {}
        if measure_peaks:
            self.peaks = {d: hardware.peaks(d, size, long) for d in ("bfloat16", "float32")}
            self.record["peaks"] = self.peaks
            self.record["queueing_seconds"] = hardware.queueing_seconds()

    def say(self, text):
        print(f"[{self.left():4.0f} s left] {text}", flush=True)

    def left(self):
        return self.end - time.monotonic()

    def save(self):
        for path in self.paths:
            self.write_json(pathlib.Path(path), self.record)


def find_torch(run):
    try:
        import torch
    except ModuleNotFoundError:
        return None
    if not torch.cuda.is_available() and not run.rehearse:
        return None
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    return torch


def torch_wait(torch):
    return (lambda out: torch.cuda.synchronize()) if torch.cuda.is_available() else (lambda out: out)


# ------------------------------------------------------------------------------------------------------------ sections
def section_tests(run, until):
    """The tests marked gpu, in a process of their own."""
    command = [sys.executable, "-m", "pytest", "tests/test_gpu.py", "-m", "gpu", "-q", "-rfEs", "--tb=short"]
    command += ["-o", "addopts=", "-W", "default", "--noconftest", "-p", "no:cacheprovider"]
    command += ["-k", "bfloat16 and (up or pooled or linear)"] if run.rehearse else []
    env = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONPATH": str(ROOT)}
    env["XLA_FLAGS"] = env.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"  # values, not speed
    limit = max(until - time.monotonic(), 5)
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as late:
        return {"verdict": f"not ended within {limit:.0f} s", "passed": False, "output": said_so_far(late)[-3000:]}
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-500:]]
    passed = done.returncode == 0
    out = {"verdict": lines[-1], "passed": passed}
    return out if passed else {**out, "output": (done.stdout + done.stderr)[-6000:]}


def said_so_far(late):
    return late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""


def timed_row(run, contenders, calls, dtype):
    """One row of the record from compiled contenders and calls that are ready (PyTorch's among them)."""
    seconds = run.h.time_in_turn(calls, **run.timing) if calls else {}
    programs = {name: one.program for name, one in contenders.items()}
    ours = programs["jaxconv"]
    return {
        "what": ours.what,
        "task": ours.task,
        "seconds": seconds,
        "share": {
            name: run.h.share(ours, took, run.peaks[dtype])
            for name, took in seconds.items()
            if ours.bytes or ours.multiply_adds
        },
        "compile": {name: one.seconds for name, one in contenders.items() if one.seconds is not None},
        "temporary_bytes": {
            name: int(one.executable.memory_analysis().temp_size_in_bytes)
            for name, one in contenders.items()
            if one.executable is not None
        },
        "absent": {name: one.why for name, one in contenders.items() if one.why},
    }


def say_row(run, row):
    took = row["seconds"]
    if "jaxconv" not in took:
        return run.say(f"{row['what']}, {row['task']}: {row['absent']}")
    cells = [f"{name} {took[name] / took['jaxconv']:.2f}" for name in took if name != "jaxconv"]
    cells += [f"no {name}" for name in row["absent"]]
    reached = f"  {row['share']['jaxconv']:.0%}" if row.get("share") else ""
    run.say(f"{row['what'][:36]:36} {row['task']:15} {1e3 * took['jaxconv']:8.3f} ms{reached}  {'  '.join(cells)}")


def time_rows(run, programs, until, dtype, prepare, peers, forget=None):
    """Compile and time row by row until the section's time is over; `prepare(program, compiled)` gives the calls.

    `peers` are the arguments of a process that times the same rows for a peer: (contender, section, task or "").
    """
    rows, skipped, last = [], [], None
    mine = time.monotonic() + (1 - PEERS_SHARE * bool(peers)) * (until - time.monotonic())
    for program in programs:
        if time.monotonic() > mine:
            skipped.append(" ".join(program.row))
            continue
        if forget is not None and last != program.what:
            forget()
        last = program.what
        try:
            start = time.perf_counter()
            executable = program.lower().compile()
            contenders = {"jaxconv": run.h.Compiled(program, executable, time.perf_counter() - start)}
            calls, notes = prepare(program, contenders)
            rows.append(timed_row(run, contenders, calls, dtype))
            rows[-1]["absent"].update(notes)
        except Exception as error:  # the other rows are still worth their time
            absent = {"jaxconv": f"{type(error).__name__}: {str(error)[:300]}"}
            rows.append({"what": program.what, "task": program.task, "seconds": {}, "absent": absent})
        say_row(run, rows[-1])
    if forget is not None:
        forget()
    for i, (who, section, task) in enumerate(peers):
        share = (until - time.monotonic()) / (len(peers) - i)
        wanted = [r for r in rows if r["seconds"] and task in ("", r["task"])]
        ask_peer(run, who, section, wanted, time.monotonic() + share)
    if skipped:
        run.say(f"no time for {len(skipped)} rows: {'; '.join(skipped[:6])} ...")
    return {"dtype": dtype, "rows": rows, "skipped": skipped}


def ask_peer(run, who, section, rows, until):
    """Let a process of its own compile and time a peer's programs, row after row; begin anew behind one that hangs."""
    left = list(rows)
    while left and time.monotonic() < until:
        names = json.dumps([[r["what"], r["task"]] for r in left])
        command = [sys.executable, __file__, "--peer", who, "--peer-section", section, "--rows", names]
        command += ["--rehearse"] * run.rehearse
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        lines = queue.Queue()
        threading.Thread(target=pass_on, args=(child.stdout, lines), daemon=True).start()
        while left:
            patience = min(PATIENCE, until - time.monotonic())
            try:
                line = lines.get(timeout=max(patience, 0.1))
            except queue.Empty:
                row = left.pop(0)
                row["absent"][who] = f"not compiled and timed within {patience:.0f} s"
                break
            if not line:  # it ended without a word on this row
                left.pop(0)["absent"][who] = f"ended with status {child.wait()}"
                break
            if line.startswith("{"):
                row, found = left.pop(0), json.loads(line)
                for key, value in found.items():
                    row[key][who] = value
                if "seconds" in found:
                    say_row(run, row)
        child.kill()
        child.wait()
    for row in left:
        row["absent"][who] = "no time was left"


def pass_on(stream, lines):
    """Lines as they come, and "" at the end."""
    for line in stream:
        lines.put(line)
    lines.put("")


def peer_main(options):
    """What `ask_peer` starts: one line of JSON a row."""
    run = Run(options, measure_peaks=False)
    programs, operands = peer_programs(run, options.peer, options.peer_section)
    for name in json.loads(options.rows):
        program = programs[tuple(name)]
        try:
            start = time.perf_counter()
            executable = program.lower().compile()
            took = time.perf_counter() - start
            call = run.h.call_of(executable, operands(program))
            found = {"seconds": run.h.time_in_turn({"peer": call}, **run.timing)["peer"], "compile": took}
            found["temporary_bytes"] = int(executable.memory_analysis().temp_size_in_bytes)
        except Exception as error:  # the next row may do
            found = {"absent": f"{type(error).__name__}: {str(error)[:200]}"}
        run.data.forget()
        print(json.dumps(found), flush=True)


def peer_programs(run, who, section):
    """The programs of a section for a peer, by row, and a function of one that gives its operands."""
    from jaxconv.benchmark import backends, programs

    if section == "networks":
        nets = {net.name: net for net in networks_of(run)}
        found = programs.network_programs(list(nets.values()), "bfloat16", (who,))
        return {p.row: p for p in found}, lambda p: backends.inputs(nets[p.what], p.task, "bfloat16")
    if section == "neighbours":
        found = [p for p in programs.neighbour_programs(operations_of(run), "bfloat16") if p.contender == who]
    else:
        dtype = "float32" if section == "tf32" else "bfloat16"
        found = programs.layer_programs(layers_of(run), dtype, contenders=(who,))
    return {p.row: p for p in found}, lambda p: run.data.of(p.operands)


def ready_calls(run, contenders):
    return {
        name: run.h.call_of(one.executable, run.data.of(one.program.operands))
        for name, one in contenders.items()
        if one.executable is not None
    }


def working(calls):
    """The calls that can be made at all, and what the others said (out of memory, say)."""
    kept, notes = {}, {}
    for name, call in calls.items():
        try:
            call.wait(call.queue())
            kept[name] = call
        except RuntimeError as why:
            notes[name] = f"{type(why).__name__}: {str(why)[:200]}"
    return kept, notes


def loss_of(call):
    loss = call.queue()[0]
    return float(loss.detach() if hasattr(loss, "detach") else loss)


def networks_of(run):
    """The networks, the most telling first."""
    from jaxconv.benchmark import networks

    if run.rehearse:
        return tiny_networks()
    return sorted(networks.ON_GPU, key=lambda net: net.model not in ("unet", "deeplabv3", "dcgan_generator"))


def tiny_networks():
    """What is small enough for a rehearsal."""
    from jaxconv.benchmark.networks import Network

    unet = (("in_channels", 3), ("classes", 2), ("widths", (4, 8)))
    stack = (("classes", 8), ("residual", 4), ("dilated", 4), ("skip", 4), ("end", 4), ("layers", 2), ("blocks", 1))
    return Network("U-Net", "unet", (1, 16, 16, 3), unet), Network("WaveNet", "wavenet", (1, 12, 8), stack)


def section_networks(run, until):
    """Training steps and inference of whole networks."""
    from jaxconv.benchmark import backends, contenders, programs

    nets = networks_of(run)
    by_name = {net.name: net for net in nets}
    found = programs.network_programs(nets, "bfloat16", ("jaxconv",))
    found = sorted(found, key=lambda p: p.task != "training step")
    torch = run.torch

    def forget():
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def prepare(program, ready):
        net = by_name[program.what]
        held = backends.inputs(net, program.task, "bfloat16")
        calls = {name: run.h.call_of(one.executable, held) for name, one in ready.items()}
        if torch is not None:
            with contextlib.suppress(contenders.Absent):
                step = backends.torch_step(contenders.torch_formats(net.rank)[-1], net, "bfloat16", program.task)
                calls["torch"] = run.h.Call(step, torch_wait(torch))
        calls, notes = working(calls)
        if program.task == "training step":
            # PyTorch's network has its own random weights.
            losses = {name: loss_of(call) for name, call in calls.items() if name != "torch"}
            if max(losses.values()) > 1.05 * min(losses.values()):
                notes["the same loss"] = f"losses differ: {losses}"
        return calls, notes

    peers = [("lax", "networks", "training step"), ("accelerate", "networks", "training step")]
    return time_rows(run, found, until, "bfloat16", prepare, peers, forget)


def sized(run, layer):
    """A registry layer with a batch that a GPU is busy with; for a rehearsal a small one."""
    if run.rehearse:
        least = 4 if layer.transposed else layer.dilation * (layer.kernel[0] - 1) // 2 + 2
        return dataclasses.replace(layer, batch=1, size=tuple(min(n, max(6, least)) for n in layer.size))
    factor = max(1.0, ELEMENTS / layer.elements)
    return dataclasses.replace(layer, batch=layer.batch * 2 ** round(math.log2(factor)))


def layers_of(run):
    """The registry's layers, or a few of them, in the order of their kinds: every third, then the rest."""
    from jaxconv.benchmark import cases

    layers = cases.REAL[6::15] if run.rehearse else [v for i in range(3) for v in cases.REAL[i::3]]
    return [sized(run, layer) for layer in layers]


def section_layers(run, until, dtype="bfloat16"):
    """Every face of the registry's layers."""
    from jaxconv.benchmark import contenders, programs

    layers = layers_of(run)
    by_name = {layer.name: layer for layer in layers}
    found = programs.layer_programs(layers, dtype, contenders=("jaxconv",))
    torch, device = run.torch, "cpu" if run.rehearse else "cuda"

    def prepare(program, ready):
        calls, layer = ready_calls(run, ready), by_name[program.what]
        if torch is None:
            return working(calls)
        kind = getattr(torch, dtype)
        a = {name: torch.randn(shape, device=device, dtype=kind) for name, shape in layer.shapes.items()}
        layout = contenders.torch_formats(layer.geometry.rank)[-1]
        try:
            operands = contenders.torch_operands(layer, program.task, **a)
        except contenders.Absent as why:
            calls, notes = working(calls)
            return calls, {**notes, "torch": str(why)}
        operands = [t.contiguous(memory_format=layout) for t in operands]
        operation = contenders.torch_operation(layer, program.task)

        def call():
            with torch.no_grad():
                return operation(*operands)

        return working({**calls, "torch": run.h.Call(call, torch_wait(torch))})

    peers = [("lax", "layers" if dtype == "bfloat16" else "tf32", "")]
    out = time_rows(run, found, until, dtype, prepare, peers, run.data.forget)
    return {**out, "layers": {layer.name: layer.shapes for layer in layers}}


def section_tf32(run, until):
    """The faces in float32 as both frameworks compute them there by default: products in TF32."""
    return section_layers(run, until, "float32")


TORCH_NEIGHBOURS = {
    "max_pool 2": lambda f, x: f.max_pool2d(x, 2),
    "max_pool 3 s2": lambda f, x: f.max_pool2d(x, 3, stride=2, padding=1),
    "max_pool 2, indices": lambda f, x: f.max_pool2d(x, 2, return_indices=True),
    "max_pool 3 s2, indices": lambda f, x: f.max_pool2d(x, 3, stride=2, padding=1, return_indices=True),
    "max_unpool": lambda f, x, at: f.max_unpool2d(x, at, 2),
    "avg_pool 2": lambda f, x: f.avg_pool2d(x, 2),
    "resize nearest, x2": lambda f, x: f.interpolate(x, scale_factor=2, mode="nearest"),
    "resize linear, x2": lambda f, x: f.interpolate(x, scale_factor=2, mode="bilinear"),
    "resize cubic, x2": lambda f, x: f.interpolate(x, scale_factor=2, mode="bicubic"),
    "resize linear, x0.5, antialias": lambda f, x: f.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True),
    "pixel_shuffle 2": lambda f, x: f.pixel_shuffle(x, 2),
    "unfold 3": lambda f, x: f.unfold(x, 3, padding=1),
    "unfold 16 s16": lambda f, x: f.unfold(x, 16, stride=16),
}


def operations_of(run):
    """The operations beside the convolutions."""
    from jaxconv.benchmark import programs

    return programs.neighbours(2, 16, 8)[::3] if run.rehearse else programs.neighbours(16, 256, 64)


def section_neighbours(run, until):
    """Pooling, unpooling, resizing, shuffles and windows, with their gradients."""
    from jaxconv.benchmark import programs

    by_name = {operation.name: operation for operation in operations_of(run)}
    found = [p for p in programs.neighbour_programs(list(by_name.values()), "bfloat16") if p.contender == "jaxconv"]
    torch, device = run.torch, "cpu" if run.rehearse else "cuda"

    def prepare(program, ready):
        calls = ready_calls(run, ready)
        if torch is None or program.what not in TORCH_NEIGHBOURS:
            return working(calls)
        image, *rest = by_name[program.what].shapes
        x = torch.randn(image, device=device, dtype=torch.bfloat16).movedim(-1, 1)
        x.requires_grad_(program.task == "gradient")
        at = [torch.from_numpy(run.h.positions(shape)).to(device).long().movedim(-1, 1) for shape in rest]

        def value():
            return TORCH_NEIGHBOURS[program.what](torch.nn.functional, x, *at)

        call = value
        if program.task == "gradient":
            try:
                out = value()
            except RuntimeError as why:  # PyTorch lacks it in this dtype
                calls, notes = working(calls)
                return calls, {**notes, "torch": f"{type(why).__name__}: {str(why)[:200]}"}
            out = out[0] if isinstance(out, tuple) else out
            pulled = torch.randn_like(out)

            def call():
                return torch.autograd.grad(out, x, pulled, retain_graph=True)

        return working({**calls, "torch": run.h.Call(call, torch_wait(torch))})

    peers = [("lax", "neighbours", "")]
    return time_rows(run, found, until, "bfloat16", prepare, peers, run.data.forget)


def section_compile(run, until):
    """Trace, lower and compile two training steps alone, each contender in a process of its own."""
    rows = {}
    for who in ("jaxconv", "lax"):
        limit = max((until - time.monotonic()) * (0.35 if who == "jaxconv" else 1), 5)
        command = [sys.executable, __file__, "--compile-alone", who] + ["--rehearse"] * run.rehearse
        env = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONPATH": str(ROOT)}
        try:
            said = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=limit).stdout
        except subprocess.TimeoutExpired as late:
            said = f"{said_so_far(late)}\nthe rest={limit:.0f} s were not enough\n"
        rows[who] = dict(re.findall(r"^(.*)=(.*)$", said, re.M))
        run.say(f"{who}: {rows[who]}")
    return rows


def compile_alone(who, rehearse):
    """What `section_compile` runs."""
    from jaxconv.benchmark import networks, programs

    for net in tiny_networks()[1:] if rehearse else networks.ON_GPU[1:3]:
        start = time.perf_counter()
        lowered = programs.of_network(net, "training step", who, "bfloat16").lower()
        traced = time.perf_counter() - start
        lowered.compile()
        print(f"{net.name}={traced:.2f} s to trace, {time.perf_counter() - start:.2f} s in all", flush=True)


# ------------------------------------------------------------------------------------------------------------- summary
def summary(record, h):
    """One compact text of everything measured."""
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    out = [f"== {record['device']}, {record['date']}; {versions}"]
    for dtype, rates in record["peaks"].items():
        out.append(
            f"peak {dtype}: {2e-12 * rates['multiply_adds']:.0f} TFLOP/s, copy {1e-12 * rates['bytes']:.2f} TB/s"
        )
    out.append(f"queueing a call: {1e6 * record['queueing_seconds']:.0f} us")
    for name, found in record["sections"].items():
        if "rows" not in found:
            kept = {k: v for k, v in found.items() if k not in ("output", "seconds")}
            out.append(f"-- {name}: {kept}")
            out += [found["output"][-1500:]] if "output" in found else []
            continue
        rows = [r for r in found["rows"] if "jaxconv" in r["seconds"]]
        out.append(f"-- {name}, {found['dtype']}: {len(rows)} rows, {len(found['skipped'])} skipped")
        if name == "networks":
            out += [network_line(r) for r in rows]
        for task in dict.fromkeys(r["task"] for r in rows):
            for peer in ("lax", "accelerate", "torch"):
                ratios = {
                    r["what"]: r["seconds"][peer] / r["seconds"]["jaxconv"]
                    for r in rows
                    if r["task"] == task and peer in r["seconds"]
                }
                if ratios:
                    worst = min(ratios, key=ratios.get)
                    out.append(
                        f"{task:15} {peer:10} / ours: mean {h.geometric_mean(ratios.values()):6.2f}  worst "
                        f"{ratios[worst]:.2f} ({worst}) of {len(ratios)}"
                    )
        if name != "networks":
            out += worst_rows(rows)
        for r in found["rows"]:
            if trouble := {k: v for k, v in r["absent"].items() if not (k == "torch" and "not installed" in v)}:
                out.append(f"   ! {r['what']}, {r['task']}: {str(trouble)[:160]}")
    return "\n".join(out)


def network_line(r):
    cells = [f"{who} {1e3 * took:.2f}" for who, took in r["seconds"].items()]
    memory = [f"{who} {v >> 20}" for who, v in r["temporary_bytes"].items()]
    return f"{r['what'][:34]:34} {r['task']:13} ms: {', '.join(cells)}; MiB: {', '.join(memory)}"


def worst_rows(rows):
    """The rows in which a peer is faster, the worst first."""
    losses = sorted(
        (took / r["seconds"]["jaxconv"], who, r["what"], r["task"], r["seconds"]["jaxconv"])
        for r in rows
        for who, took in r["seconds"].items()
        if took < 0.98 * r["seconds"]["jaxconv"]
    )
    text = [f"   {ratio:.2f} {who}: {what}, {task} (ours {1e3 * s:.3f} ms)" for ratio, who, what, task, s in losses]
    return [f"   slower than a peer by more than 2%: {len(losses)}", *text[:WORST]]


def main():
    """Run the sections that fit, write the record after each, and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, help="seconds for everything; 280, for a rehearsal 110")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--rehearse", action="store_true", help="all of it at tiny sizes on a CPU")
    for hidden in ("--compile-alone", "--peer", "--peer-section", "--rows"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    wanted = options.sections.split(",")
    if unknown := set(wanted) - set(SECTIONS):
        parser.error(f"unknown sections {sorted(unknown)}; there are {', '.join(SECTIONS)}")
    if options.rehearse:
        os.environ["JAX_PLATFORMS"] = "cpu"
    options.budget = options.budget or (110.0 if options.rehearse else 280.0)
    if options.compile_alone:
        return compile_alone(options.compile_alone, options.rehearse)
    if options.peer:
        return peer_main(options)
    start = time.monotonic()
    run = Run(options)
    run.end = start + options.budget
    sections = [name for name in SECTIONS if name in wanted]
    for i, name in enumerate(sections):
        if run.left() < 5:
            run.record["sections"][name] = {"skipped": "no time was left"}
            run.say(f"{name}: skipped, no time is left")
            continue
        part = SECTIONS[name] / sum(SECTIONS[later] for later in sections[i:])
        begun = time.monotonic()
        run.say(f"=== {name}: up to {part * run.left():.0f} s")
        try:
            found = globals()[f"section_{name}"](run, begun + part * run.left())
        except Exception as error:  # what the other sections show is still worth having
            found = {"failed": f"{type(error).__name__}: {str(error)[:1000]}"}
            run.say(f"{name} failed: {found['failed']}")
        run.record["sections"][name] = {**found, "seconds": round(time.monotonic() - begun, 1)}
        run.save()
    text = summary(run.record, run.h)
    print(text[-11000:], flush=True)
    failed = any("failed" in s or s.get("passed") is False for s in run.record["sections"].values())
    sys.stdout.flush()
    os._exit(int(failed))  # a compilation that was given up would hold the process


if __name__ == "__main__":
    main()
