"""Measure every lowering that serves, for every face of real and random layers, and record the times.

Run pinned to one core, such as ``taskset -c 1 python benchmarks/measure_lowerings.py OUT.json``: times are CPU seconds
of the process, the best of several, so that a busy machine disturbs them little. ``benchmarks/fit_costs.py`` fits the
cost model on the file. The model serves where the compiled kernels cannot run, so they are off, also inside of what
`phases`, `space_to_batch` and `blocks` leave; ``JAXCONV_NATIVE=1 ... --methods cpu_kernels`` adds their times.
"""

import argparse
import functools
import json
import os
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

os.environ.setdefault("JAXCONV_NATIVE", "0")  # read at the first convolution

from jaxconv import lowering, trilinear  # noqa: E402
from jaxconv.benchmark.cases import REAL, random_layers  # noqa: E402
from jaxconv.lowering import Call  # noqa: E402

OPERANDS = {"apply": ("x", "w"), "adjoint": ("y", "w"), "kernel": ("x", "y")}


def cpu_seconds(f, *args, repeats: int, budget: float) -> float:
    """The best CPU time of a few calls."""
    best, spent = float("inf"), 0.0
    for _ in range(repeats):
        start = time.process_time()
        jax.block_until_ready(f(*args))
        took = time.process_time() - start
        best, spent = min(best, took), spent + took
        if spent > budget:
            break
    return best


def measure(layer, methods, repeats, budget):
    """One row a face: seconds by method."""
    rng = np.random.default_rng(0)
    arrays = {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in layer.shapes.items()}
    g, f32 = layer.geometry, np.dtype("float32")
    for face, (a, b) in OPERANDS.items():
        found = {}
        call = Call(face, g, layer.batch, *layer.conv_channels, f32, f32, None, "cpu", True)
        for method in methods:
            if not lowering.METHODS[method].serves(call):
                continue
            f = jax.jit(functools.partial(getattr(trilinear, face), geometry=g, method=method))
            jax.block_until_ready(f(arrays[a], arrays[b]))
            found[method] = cpu_seconds(f, arrays[a], arrays[b], repeats=repeats, budget=budget)
        yield {"layer": layer.name, "face": face, "seconds": found}


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--random", type=int, default=40, help="how many random layers beside the real ones")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--methods", nargs="+", help="measure these only, and keep the others of an existing record")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--budget", type=float, default=0.3, help="CPU seconds a method may take in all")
    args = parser.parse_args()
    earlier: dict[tuple[str, str], dict[str, float]] = {}
    if args.methods:
        with open(args.out) as file:
            record = json.load(file)
        args.random, args.seed = record["random"], record["seed"]
        for row in record["rows"]:
            earlier[row["layer"], row["face"]] = {lowering.named(m): t for m, t in row["seconds"].items()}
    rows = []
    for layer in (*REAL, *random_layers(args.random, args.seed)):
        for row in measure(layer, args.methods or lowering.METHODS, args.repeats, args.budget):
            row["seconds"] = earlier.get((row["layer"], row["face"]), {}) | row["seconds"]
            rows.append(row)
            ranked = sorted(row["seconds"].items(), key=lambda item: item[1])
            print(row["layer"], row["face"], " ".join(f"{m}={1e3 * t:.2f}" for m, t in ranked), flush=True)
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.processor() or platform.machine(),
        "jax": jax.__version__,
        "backend": jax.default_backend(),
        "kernels": "off",
        "random": args.random,
        "seed": args.seed,
        "rows": rows,
    }
    with open(args.out, "w") as file:
        json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
