"""Processor time on one core, of training steps beside PyTorch's or of ONNX files beside onnxruntime.

    taskset -c 0 python benchmarks/processor_time.py networks [--cases FSRCNN U-Net]
    taskset -c 0 python benchmarks/processor_time.py onnx NET.onnx:1,3,48,160 [...]

For machines that others use at the same time, where wall time says little: every library runs on one thread, calls go
in turn, and the least processor time counts. Memory is how far the process grows during a call, and no less than what
the compiler says of a program's temporaries. A shape is given for every input, SHAPE:SHAPE after the file's name; a
lone number is a whole number as a value.
"""

import argparse
import copy
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.benchmark import backends, networks
from jaxconv.benchmark.memory import resident_bytes

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))  # PyTorch's networks


def least(calls, repeats, count=1):
    """Least processor seconds of each call over interleaved repeats of `count` calls."""
    for call in calls.values():
        call()
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.process_time()
            for _ in range(count):
                call()
            best[name] = min(best[name], (time.process_time() - start) / count)
    return best


def of_networks(cases, repeats):
    import torch

    torch.set_num_threads(1)
    print("| network | jaxconv, ms | PyTorch, ms | jaxconv, MiB | PyTorch, MiB |\n|---|---|---|---|---|")
    for net in networks.ON_CPU:
        if cases and not any(c.lower() in net.name.lower() for c in cases):
            continue
        task, module = backends.TASKS[0], backends.statement(net)
        ready = backends.prepare(net, "jaxconv", "float32", task)
        calls = {"jaxconv": ready.call}
        for layout in backends.torch_formats(net.rank):
            calls[str(layout)] = backends.torch_step(layout, net, "float32", task, copy.deepcopy(module))
        took, grown = least(calls, repeats), {name: resident_bytes(call) or 0 for name, call in calls.items()}
        grown["jaxconv"] = max(grown["jaxconv"], ready.temporary_bytes or 0)
        ours = took.pop("jaxconv")
        peer = min(took, key=took.get)  # the better memory format
        cells = (
            f"{1e3 * ours:.1f} | {1e3 * took[peer]:.1f} | {grown['jaxconv'] / 2**20:.0f} | {grown[peer] / 2**20:.0f}"
        )
        print(f"| {net.name} | {cells} |", flush=True)


def of_onnx(files, repeats):
    import onnxruntime

    from jaxconv.convert import onnx_function

    print("| file | jaxconv, ms | onnxruntime, ms |\n|---|---|---|")
    for word in files:
        path, *shapes = word.split(":")
        sizes = [tuple(map(int, shape.split(","))) for shape in shapes]
        rng = np.random.default_rng(0)
        values = [0.3 * rng.normal(size=s).astype(np.float32) if len(s) > 1 else np.asarray(s[0]) for s in sizes]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        fed = {i.name: v for i, v in zip(session.get_inputs(), values, strict=False)}
        fn, params = onnx_function(path)
        values = values[: len(fn.inputs)]
        live = [i for i, v in enumerate(values) if v.dtype.kind == "f"]

        @jax.jit
        def call(params, *moving, fn=fn, live=live, values=values):
            given = dict(zip(live, moving, strict=True))
            return fn(params, *(given.get(i, v) for i, v in enumerate(values)))

        moving = [jnp.asarray(values[i]) for i in live]
        took = least(
            {
                "ours": lambda call=call, p=params, m=moving: jax.block_until_ready(call(p, *m)),
                "theirs": lambda s=session, f=fed: s.run(None, f),
            },
            repeats,
            3,
        )
        print(f"| {pathlib.Path(path).name} | {1e3 * took['ours']:.2f} | {1e3 * took['theirs']:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("networks", "onnx"))
    parser.add_argument("files", nargs="*")
    parser.add_argument("--cases", nargs="+", default=())
    parser.add_argument("--repeats", type=int, default=12)
    options = parser.parse_args()
    if options.kind == "networks":
        of_networks(options.cases, options.repeats)
    else:
        of_onnx(options.files, options.repeats)


if __name__ == "__main__":
    main()
