"""Collectives in training steps that are compiled for a slice of TPUs, as JSON: opcode, shapes, and bytes of the
largest array of each.

A program of its own, because what the TPUs' compiler is told must be set before jax starts:
``python tests/tpu_sharding_checks.py v5e:4x4 unet height``.
"""

import json
import math
import os
import sys

from jaxconv.offline import hlo, read_target

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
BATCH, SIZE, WIDTH, CLASSES = 16, 128, 32, 8
KERNELS = {
    "unet": {
        "down0": (3, 3, 8, WIDTH), "half0": (2, 2, WIDTH, WIDTH), "down1": (3, 3, WIDTH, 64), "half1": (2, 2, 64, 64),
        "middle": (3, 3, 64, 64), "twice1": (4, 4, 64, 64), "up1": (3, 3, 128, WIDTH), "twice0": (2, 2, WIDTH, WIDTH),
        "up0": (3, 3, 64, WIDTH), "head": (1, 1, WIDTH, CLASSES),
    },
    "deeplab": {
        "stem": (3, 3, 8, WIDTH), "second": (3, 3, WIDTH, 64), "atrous": (3, 3, 64, 64), "rate2": (3, 3, 64, WIDTH),
        "rate4": (3, 3, 64, WIDTH), "head": (1, 1, WIDTH, CLASSES),
    },
}  # fmt: skip


def unet(p, x):
    """Two levels, the lower one read back by a kernel that overlaps itself, the upper one by one that does not."""
    skips = []
    for level in range(2):
        x = jax.nn.relu(jc.conv(x, p[f"down{level}"], padding=1))
        skips.append(x)
        x = jax.nn.relu(jc.conv(x, p[f"half{level}"], stride=2))
    x = jax.nn.relu(jc.conv(x, p["middle"], padding=1))
    for level, padding in ((1, 1), (0, 0)):
        x = jax.nn.relu(jc.conv_transpose(x, p[f"twice{level}"], stride=2, padding=padding))
        x = jax.nn.relu(jc.conv(jnp.concatenate([x, skips[level]], -1), p[f"up{level}"], padding=1))
    return jc.conv(x, p["head"])


def deeplab(p, x):
    """Strides, a dilated block, two rates side by side, and logits that are resized."""
    size = x.shape[1:3]
    x = jax.nn.relu(jc.conv(x, p["stem"], stride=2, padding=1))
    x = jax.nn.relu(jc.conv(x, p["second"], stride=2, padding=1))
    x = jax.nn.relu(jc.conv(x, p["atrous"], padding=2, dilation=2)) + x
    x = sum(jc.conv(x, p[f"rate{rate}"], padding=rate, dilation=rate) for rate in (2, 4))
    return jc.resize(jc.conv(jax.nn.relu(x), p["head"]), size)


def collectives(topology: str, network: str, how: str) -> list[dict]:
    """Of one step of gradient descent, the images split by "batch", "height" or "both"."""
    devices = read_target(topology).devices()
    mesh = Mesh(np.array(devices).reshape(math.isqrt(len(devices)), -1), ("data", "height"))
    spec = {"batch": P(("data", "height")), "height": P(None, ("data", "height")), "both": P("data", "height")}[how]
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, spec)
    net = {"unet": unet, "deeplab": deeplab}[network]

    def step(p, x, y):
        def loss(p):
            return jnp.mean((net(p, x) - y).astype(jnp.float32) ** 2)

        value, gradient = jax.value_and_grad(loss)(p)
        return value, jax.tree.map(lambda a, b: a - 0.1 * b, p, gradient)

    def struct(shape, sharding):
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)

    kernels = {name: struct(shape, whole) for name, shape in KERNELS[network].items()}
    x, y = (struct((BATCH, SIZE, SIZE, channels), split) for channels in (8, CLASSES))
    text = jax.jit(step, out_shardings=(whole, whole)).lower(kernels, x, y).compile().as_text()
    found = [(i, i.opcode.removesuffix("-start")) for i in hlo.parse(text).instructions.values()]
    return [
        {
            "opcode": name,
            "shapes": [shape for _, shape in i.arrays],
            "bytes": max(hlo.SIZES.get(kind, 4) * math.prod(shape) for kind, shape in i.arrays),
        }
        for i, name in found
        if name in COLLECTIVES
    ]


if __name__ == "__main__":
    os.environ.update(read_target(sys.argv[1]).environment)

    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

    import jaxconv as jc

    print(json.dumps(collectives(*sys.argv[1:])))
