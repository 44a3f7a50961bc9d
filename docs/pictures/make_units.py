"""Draws the pictures of the page on visualisation: units of a small texture classifier, trained here.

python docs/pictures/make_units.py
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import skimage.data

import jaxconv as jc
from jaxconv import figures

HERE = pathlib.Path(__file__).resolve().parent
NAMES = ("brick", "grass", "gravel", "coins", "text", "page")


def textures():
    for name in NAMES:
        picture = getattr(skimage.data, name)().astype(np.float32)
        yield (picture - picture.mean()) / picture.std()


def crops(rng, pictures, count, size):
    """Random crops of random textures, and which texture each is of."""
    labels = rng.integers(len(pictures), size=count)
    images = np.empty((count, size, size, 1), np.float32)
    for image, label in zip(images, labels):
        top, left = (rng.integers(n - size) for n in pictures[label].shape)
        image[..., 0] = pictures[label][top : top + size, left : left + size]
    return images, labels


def start(key, shapes=((5, 5, 1, 12), (3, 3, 12, 16), (3, 3, 16, 16))):
    *keys, last = jax.random.split(key, len(shapes) + 1)
    kernels = [jax.random.normal(k, s) * np.sqrt(2 / np.prod(s[:-1])) for k, s in zip(keys, shapes)]
    biases = [jnp.zeros(s[-1]) for s in shapes]
    return {"kernels": kernels, "biases": biases, "head": jax.random.normal(last, (shapes[-1][-1], len(NAMES))) / 4}


def features(x, weights):
    for level, (w, b) in enumerate(zip(weights["kernels"], weights["biases"])):
        x = x if level == 0 else jc.max_pool(x, 2)
        x = jax.nn.relu(jc.conv(x, w, padding="SAME") + b)
    return x


def loss(weights, images, labels):
    scores = features(images, weights).mean((1, 2)) @ weights["head"]
    return -jax.nn.log_softmax(scores)[jnp.arange(len(labels)), labels].mean()


@jax.jit
def step(weights, momentum, images, labels):
    gradient = jax.grad(loss)(weights, images, labels)
    momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, gradient)
    return jax.tree.map(lambda w, m: w - 0.02 * m, weights, momentum), momentum


def trained(rng, pictures, steps=300):
    weights = start(jax.random.key(0))
    momentum = jax.tree.map(jnp.zeros_like, weights)
    for _ in range(steps):
        weights, momentum = step(weights, momentum, *crops(rng, pictures, 32, 32))
    return weights


def main():
    rng, pictures = np.random.default_rng(0), list(textures())
    weights = trained(rng, pictures)
    images, _ = crops(rng, pictures, 96, 64)
    strength = np.asarray(features(images, weights).max((0, 1, 2)))
    best = None
    for rank, channel in enumerate(np.argsort(-strength)[1:3], 1):
        found = jc.analysis.strongest_patches(features, images, weights, channel=int(channel), count=7)
        seen = [jc.analysis.visualise(features, images[p.image][None], weights, unit=(0, *p.unit[1:])) for p in found]
        figures.patches(found, seen).savefig(HERE / f"unit_{rank}.png", dpi=80)
        best = best or found[0]
    methods = ("exact", "deconvnet", "guided")
    image, unit = images[best.image][None], (0, *best.unit[1:])
    seen = [jc.analysis.visualise(features, image, weights, unit=unit, method=m) for m in methods]
    figures.visualisation(seen, box=best.box).savefig(HERE / "projections.png", dpi=64)
    print(seen[-1].why)


if __name__ == "__main__":
    main()
