"""What a factor, a bias and a ReLU cost around a layer: as XLA's own loops, and as part of the kernels' call.

    python benchmarks/following.py [--repeats 9] [--cases ResNet DCGAN]

Times of the benchmark's 34 real layers in turn, relative to the layer alone.
"""

import argparse
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv import accelerate, trilinear
from jaxconv.benchmark.cases import REAL
from jaxconv.benchmark.runner import time_in_turn
from jaxconv.native import keep_memory


def programs(layer):
    """Calls of the layer alone, of the layer in a network, and of that accelerated."""
    rng, geometry = np.random.default_rng(0), layer.geometry
    data, face = ("y", trilinear.adjoint) if layer.transposed else ("x", trilinear.apply)
    x, w = (jnp.asarray(rng.standard_normal(layer.shapes[name]), jnp.float32) for name in (data, "w"))
    scale, bias = (jnp.asarray(rng.standard_normal(layer.shapes[layer.result][-1]), jnp.float32) for _ in range(2))

    def alone(x, w, scale, bias):
        return face(x, w, geometry)

    def followed(x, w, scale, bias):
        return jax.nn.relu(face(x, w, geometry) * scale + bias)

    def call(fn):
        program = jax.jit(fn).lower(x, w, scale, bias).compile()
        return lambda: jax.block_until_ready(program(x, w, scale, bias))

    return {"alone": call(alone), "loops": call(followed), "one call": call(accelerate(followed))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--cases", nargs="*", default=[])
    chosen = parser.parse_args()
    keep_memory()
    print("| layer | alone, ms | with XLA's loops | in one call |\n|---|---|---|---|")
    ratios = []
    for layer in REAL:
        if chosen.cases and not any(c.lower() in layer.name.lower() for c in chosen.cases):
            continue
        took = time_in_turn(programs(layer), chosen.repeats)
        ratios.append([took[name] / took["alone"] for name in ("loops", "one call")])
        print(f"| {layer.name} | {1e3 * took['alone']:.3f} | {ratios[-1][0]:.2f} | {ratios[-1][1]:.2f} |", flush=True)
    means = [statistics.geometric_mean(column) for column in zip(*ratios, strict=True)]
    print(f"| geometric mean | | {means[0]:.2f} | {means[1]:.2f} |")


if __name__ == "__main__":
    main()
