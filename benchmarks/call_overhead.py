"""What a call costs beside lax's where the computation is small: one 8x8 image of 16 channels, on one core.

    taskset -c 0 python benchmarks/call_overhead.py

Calls go in turn, the best of many counts. "layers" traces, lowers and compiles 300 layers with their activations.
"""

import time

import jax
import jax.numpy as jnp
from jax import lax

import jaxconv as jc

X, W, CW = jnp.ones((1, 8, 8, 16)), jnp.ones((3, 3, 16, 16)), jnp.ones((3, 3, 1, 16))
XT, WT = X.transpose(0, 3, 1, 2), W.transpose(3, 2, 0, 1)
LAST, FIRST = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")
SAME = ((1, 1), (1, 1))


def lax_conv(x, w, numbers=LAST, groups=1):
    return lax.conv_general_dilated(x, w, (1, 1), SAME, dimension_numbers=numbers, feature_group_count=groups)


JIT, ACCELERATED = jax.jit(lax_conv), jax.jit(jc.accelerate(lax_conv))
CALLS = {
    "conv": (lambda: jc.conv(X, W, padding=1), lambda: lax_conv(X, W)),
    "conv, depthwise": (lambda: jc.conv(X, CW, padding=1, groups=16), lambda: lax_conv(X, CW, groups=16)),
    "conv_transpose": (
        lambda: jc.conv_transpose(X, W, stride=2, padding="SAME"),
        lambda: lax.conv_transpose(X, W, (2, 2), "SAME"),
    ),
    "conv_kernel": (lambda: jc.conv_kernel(X, X, (3, 3), padding=1), lambda: lax_conv(X, W)),
    "max_pool": (
        lambda: jc.max_pool(X, 2),
        lambda: lax.reduce_window(X, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    ),
    "resize": (lambda: jc.resize(X, 16), lambda: jax.image.resize(X, (1, 16, 16, 16), "linear")),
    "dialects.torch.conv2d": (
        lambda: jc.dialects.torch.conv2d(XT, WT, padding=1),
        lambda: lax_conv(XT, WT, FIRST),
    ),
    "dialects.torch.conv_transpose2d": (
        lambda: jc.dialects.torch.conv_transpose2d(XT, WT, stride=2, padding=1),
        lambda: lax.conv_transpose(XT, WT, (2, 2), "SAME", dimension_numbers=FIRST),
    ),
    "dialects.tensorflow.conv2d": (
        lambda: jc.dialects.tensorflow.conv2d(X, W, [1, 1, 1, 1], "SAME"),
        lambda: lax_conv(X, W),
    ),
    "dialects.onnx.Conv": (
        lambda: jc.dialects.onnx.Conv(XT, WT, pads=[1, 1, 1, 1]),
        lambda: lax_conv(XT, WT, FIRST),
    ),
    "dialects.lax.conv_transpose": (
        lambda: jc.dialects.lax.conv_transpose(X, W, (2, 2), "SAME"),
        lambda: lax.conv_transpose(X, W, (2, 2), "SAME"),
    ),
    "jit(accelerate(f)), compiled": (lambda: ACCELERATED(X, W), lambda: JIT(X, W)),
}


def per_call(function, count=60):
    start = time.perf_counter()
    for _ in range(count):
        result = function()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / count


def compiled(layer, wrap=lambda f: f):
    def layers(x, kernels):
        for w in kernels:
            x = jax.nn.relu(layer(x, w))
        return x

    jax.clear_caches()
    start = time.perf_counter()
    jax.jit(wrap(layers)).lower(X, [W] * 300).compile()
    return time.perf_counter() - start


def main():
    """Print a table."""
    print(f"{'us a call':<34} {'jaxconv':>8} {'lax':>8} {'ratio':>6}")
    for name, functions in CALLS.items():
        for function in functions:
            jax.block_until_ready(function())
        ours, theirs = (
            min(times) for times in zip(*([per_call(f) for f in functions] for _ in range(30)), strict=True)
        )
        print(f"{name:<34} {ours * 1e6:>8.1f} {theirs * 1e6:>8.1f} {ours / theirs:>6.2f}")
    ways = {"conv": (lambda x, w: jc.conv(x, w, padding=1), lambda f: f), "lax": (lax_conv, lambda f: f),
            "accelerate": (lax_conv, jc.accelerate)}  # fmt: skip
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(5):
        best = {name: min(best[name], compiled(*way)) for name, way in ways.items()}
    print("ms to trace, lower and compile 300 layers: " + ", ".join(f"{n} {s * 1e3:.0f}" for n, s in best.items()))


if __name__ == "__main__":
    main()
