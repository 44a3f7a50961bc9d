"""A huge uint8 image from a memory map through a small U-Net, tile by tile, its labels into a uint8 memory map.

python benchmarks/tile_large_image.py --size 12000 --tile 1024

Prints the time, the peak memory of the process, and compares windows of the result with the network on a cut-out.
"""

import argparse
import pathlib
import resource
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc

SHAPES = {"in": (3, 3, 3, 8), "down": (3, 3, 8, 16), "deep": (3, 3, 16, 16), "up": (2, 2, 8, 16), "out": (3, 3, 16, 4)}
KERNELS = {
    name: jnp.asarray(np.random.default_rng(i).standard_normal(s) / np.sqrt(np.prod(s[:-1])), jnp.float32)
    for i, (name, s) in enumerate(SHAPES.items())
}


def labels(image):
    """The class of every pixel, as uint8: the argmax is inside, so that little comes out of each tile."""
    x = image.astype(jnp.float32) / 127.5 - 1
    fine = jax.nn.relu(jc.conv(x, KERNELS["in"], padding=1))
    coarse = jax.nn.relu(jc.conv(jc.max_pool(fine, 2), KERNELS["down"], padding=1))
    coarse = jax.nn.relu(jc.conv(coarse, KERNELS["deep"], padding=4, dilation=4))
    up = jc.conv_transpose(coarse, KERNELS["up"], stride=2, output_size=fine.shape[1:3])
    scores = jc.conv(jnp.concatenate([fine, up], axis=-1), KERNELS["out"], padding=1)
    return jnp.argmax(scores, axis=-1).astype(jnp.uint8)


def fill(image, rows=500):
    """Blobs and noise, a strip of rows at a time."""
    rng = np.random.default_rng(0)
    across = np.arange(image.shape[2])
    for top in range(0, image.shape[1], rows):
        part = image[:, top : top + rows]
        down = np.arange(top, top + part.shape[1])[:, None, None]
        wave = np.sin(down / [37, 53, 71]) * np.cos(across[:, None] / [41, 29, 67])
        part[0] = np.clip(128 + 90 * wave + rng.normal(0, 20, wave.shape), 0, 255)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=12_000, help="rows and columns of the image")
    parser.add_argument("--tile", type=int, default=1024, help="rows and columns of a tile without its halo")
    options = parser.parse_args()
    n, tile = options.size, options.tile
    with tempfile.TemporaryDirectory() as folder:
        image = np.memmap(pathlib.Path(folder) / "image.raw", np.uint8, "w+", shape=(1, n, n, 3))
        fill(image)
        out = np.memmap(pathlib.Path(folder) / "labels.raw", np.uint8, "w+", shape=(1, n, n))
        run = jc.analysis.tiled(labels, tile, progress=True)
        start = time.perf_counter()
        run(image, out=out)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rng, wrong, seen = np.random.default_rng(1), 0, 0
        once, margin, side = jax.jit(labels), 32, 192
        for _ in range(20):
            # Even corners, so that pooling windows fall as in the image; a margin for the cut-out's own borders.
            top, left = (int(v) * 2 for v in rng.integers((n - side) // 2, size=2))
            window = np.asarray(once(np.asarray(image[:, top : top + side, left : left + side])))
            inner = slice(margin, side - margin)
            part = out[:, top : top + side, left : left + side]
            wrong += int((part[:, inner, inner] != window[:, inner, inner]).sum())
            seen += (side - 2 * margin) ** 2
        print(f"{n} x {n} in {seconds:.0f} s, peak {peak:.2f} GiB, classes {np.bincount(out[0, ::97, ::97].ravel())}")
        print(f"{wrong} of {seen} labels differ from those of cut-outs")


if __name__ == "__main__":
    main()
