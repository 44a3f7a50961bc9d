"""Error of bfloat16 and float16 results against float64, jaxconv's beside lax's own.

    python benchmarks/half_precision.py [--dtype bfloat16] [--out FILE.json]

Operands are rounded to the type first; the reference is computed from the rounded values in float64. An error is the
root mean square of the difference over that of the reference; rounding a perfect result to bfloat16 alone gives about
1.7e-3, to float16 2.1e-4. Gradients are those that jax's differentiation of each makes.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.benchmark import report, runner
from jaxconv.benchmark.cases import REAL, Layer
from jaxconv.benchmark.contenders import arrays, lax_forward, plain_kernel
from jaxconv.trilinear import adjoint, apply

TASKS = ("forward", "data gradient", "kernel gradient")


def small(layer: Layer) -> Layer:
    """The layer with at most 24 positions an axis, which float64 reaches in a moment."""
    least = max(layer.kernel[0] * layer.dilation // 2 + 2, 12) if not layer.transposed else 4
    return dataclasses.replace(layer, batch=1, size=tuple(min(n, max(24, least)) for n in layer.size))


def outputs(forward, data, w, ct):
    """Result and both gradients."""
    out, pull = jax.vjp(forward, data, w)
    return dict(zip(TASKS, (out, *pull(ct)), strict=True))


def error(got, want):
    """Root mean square of the difference over that of the reference."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return float(np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)))


def measured(layer: Layer, dtype: str) -> dict:
    """Errors of one layer by task, of jaxconv and of lax."""
    rounded = {k: jnp.asarray(v, dtype) for k, v in arrays(layer).items()}
    exact = {k: jnp.asarray(v, jnp.float64) for k, v in rounded.items()}
    data, ct = ("y", "x") if layer.transposed else ("x", "y")
    face = adjoint if layer.transposed else apply

    def ours(a, w):
        return face(a, w, geometry=layer.geometry)

    theirs = lax_forward(layer)

    def flip(w):
        return jnp.asarray(plain_kernel(layer, np.asarray(w)))

    want = jax.jit(lambda a, w, c: outputs(theirs, a, w, c))(exact[data], flip(exact["w"]), exact[ct])
    lax_out = jax.jit(lambda a, w, c: outputs(theirs, a, w, c))(rounded[data], flip(rounded["w"]), rounded[ct])
    our_out = jax.jit(lambda a, w, c: outputs(ours, a, w, c))(rounded[data], rounded["w"], rounded[ct])
    our_out["kernel gradient"] = flip(our_out["kernel gradient"])
    return {
        task: {"jaxconv": error(our_out[task], want[task]), "lax": error(lax_out[task], want[task])} for task in TASKS
    }


def main():
    """Measure and print; write the record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    record = {**runner.machine(), "dtype": options.dtype, "layers": {}}
    for layer in map(small, REAL):
        row = record["layers"][layer.name] = measured(layer, options.dtype)
        cells = "  ".join(f"{task} {e['jaxconv']:.2e} / {e['lax']:.2e}" for task, e in row.items())
        print(f"{layer.name:40} jaxconv / lax: {cells}", flush=True)
    if options.out:
        report.write_json(options.out, record)


if __name__ == "__main__":
    main()
