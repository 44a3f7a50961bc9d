"""Time ENet's forward pass in jaxconv and in PyTorch, in turn, in one process.

    python benchmarks/enet_vs_torch.py [--batches 1 8] [--repeats 15] [--weights enet.pth] [--blocks] [--cpu-time]
        [--out FILE.json]

Images are 480 x 360 and random; weights are random unless a PyTorch state_dict is given (the times are the same). The
best of the interleaved repeats counts, since machines are shared. PyTorch runs in both memory formats and the better
one is compared. On a machine that others use at the same time, --cpu-time compares processor time. With --blocks the
blocks are timed one by one as well, each on its real input.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
import torch
from flax import nnx

from jaxconv.convert import load_tensors
from jaxconv.models import ENet

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import enet_torch  # noqa: E402 - the peer lives beside the tests that compare with it


def best_in_turn(contenders, repeats, clock):
    """Best time of each contender in seconds by this clock; every round runs all of them once."""
    for run in contenders.values():
        run()
        run()
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(repeats):
        for name, run in contenders.items():
            start = clock()
            run()
            best[name] = min(best[name], clock() - start)
    return best


def on_torch(module, *inputs):
    """A call of a PyTorch module in inference mode."""

    def run():
        with torch.inference_mode():
            return module(*inputs)

    return run


def on_jax(module, *inputs):
    """A compiled call of an NNX module, and the seconds that its first call took."""
    graph, state = nnx.split(module)
    function = jax.jit(lambda state, *inputs: nnx.merge(graph, state)(*inputs))
    start = time.perf_counter()
    jax.block_until_ready(function(state, *inputs))
    first = time.perf_counter() - start
    return lambda: jax.block_until_ready(function(state, *inputs)), first


def channels_first(x):
    """A PyTorch tensor of the same values, channels first; its indices are 64-bit."""
    tensor = torch.from_numpy(np.moveaxis(np.array(x), -1, 1).copy())
    return tensor if tensor.is_floating_point() else tensor.long()


def compare(mine, peer, inputs, repeats, clock):
    """Times of one module in both frameworks."""
    flat = [channels_first(x) for x in inputs]
    last = [x.contiguous(memory_format=torch.channels_last) for x in flat]
    run, first = on_jax(mine, *map(jax.numpy.asarray, inputs))
    times = best_in_turn(
        {"jaxconv": run, "torch": on_torch(peer, *flat), "torch channels-last": on_torch(peer, *last)}, repeats, clock
    )
    return {**times, "first call": first}


def line(name, times, images):
    """One row of the table: milliseconds an image, and the better PyTorch's time over ours."""
    ms = {
        key: 1e3 * value / images for key, value in times.items() if key in ("jaxconv", "torch", "torch channels-last")
    }
    ratio = min(ms["torch"], ms["torch channels-last"]) / ms["jaxconv"]
    columns = "  ".join(f"{key} {value:8.2f}" for key, value in ms.items())
    return f"{name:<18} {columns}  ratio {ratio:5.2f}  first call {times['first call']:5.1f} s"


def block_inputs(peer, x):
    """The inputs of every block of the PyTorch network on images x, channels last, in order of execution."""
    seen = {}
    hooks = [
        child.register_forward_pre_hook(lambda _, inputs, name=name: seen.setdefault(name, inputs))
        for name, child in peer.named_children()
    ]
    with torch.inference_mode():
        peer(x)
    for hook in hooks:
        hook.remove()
    as_jax = lambda a: np.moveaxis(a.numpy(), 1, -1).copy()  # noqa: E731
    return {
        name: [as_jax(a) if a.is_floating_point() else as_jax(a).astype(np.int32) for a in inputs if torch.is_tensor(a)]
        for name, inputs in seen.items()
    }


def models(weights):
    """ENet in both frameworks with the same weights."""
    torch.manual_seed(0)
    peer = enet_torch.ENet(12).eval()
    if weights:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        peer.load_state_dict(state, strict=False)
    mine = nnx.eval_shape(lambda: ENet(12, rngs=nnx.Rngs(0)))
    load_tensors(mine, peer.state_dict())
    mine.eval()
    return mine, peer


def main():
    """Parse, run, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--blocks", action="store_true")
    parser.add_argument("--cpu-time", action="store_true", help="processor time of all threads, PyTorch on one")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    clock = time.process_time if options.cpu_time else time.perf_counter
    if options.cpu_time:
        torch.set_num_threads(1)  # its waiting threads spin, and would count
    mine, peer = models(options.weights)
    print(
        f"jax {jax.__version__} ({jax.default_backend()}), torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    kind = "processor" if options.cpu_time else "wall"
    print(f"milliseconds of {kind} time an image; ratio = better PyTorch / jaxconv, above 1 jaxconv is faster")
    rng, rows = np.random.default_rng(0), []
    for batch in options.batches:
        x = rng.uniform(size=(batch, 360, 480, 3)).astype(np.float32)
        rows.append({"name": "network", "batch": batch, **compare(mine, peer, [x], options.repeats, clock)})
        print(line(f"network x{batch}", rows[-1], batch))
        for name, inputs in block_inputs(peer, channels_first(x)).items() if options.blocks else ():
            if name == "transposed_conv":
                continue  # called with an output size: part of the network's time
            times = compare(getattr(mine, name), getattr(peer, name), inputs, options.repeats, clock)
            rows.append({"name": name, "batch": batch, **times})
            print(line(f"{name} x{batch}", rows[-1], batch))
    if options.out:
        about = {"clock": kind, "backend": jax.default_backend(), "jax": jax.__version__, "torch": torch.__version__}
        options.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
