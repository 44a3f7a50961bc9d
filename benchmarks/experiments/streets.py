"""Dilation schedules on CamVid's streets at a quarter of their resolution: the stack of `schedules`, eleven classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from benchmarks.experiments.common import runner, segmentation_scores, shared, train
from benchmarks.experiments.schedules import Stack, effective, gridding
from jaxconv.train.losses import enet_class_weights

NAME = "streets"
SETTINGS = {
    "full": {"steps": 250, "width": 16, "held_out": 101},
    "reduced": {"steps": 10, "width": 16, "held_out": 8},
    "smallest": {"steps": 2, "width": 4, "held_out": 2},
}
VARIANTS = ["all 1", "all 2", "1, 2, 5", "2, 4, 8", "ASPP"]
FEW = ["all 1", "all 2"]
CLASSES, VOID, POLE, SIGN = 11, 11, 2, 6
MEAN, DEVIATION = 105.0, 75.0  # of all bytes, about


@functools.cache
def streets(split):
    """Images (n, 90, 120, 3) of mean 0 and deviation 1, about, and labels (n, 90, 120).

    An image's pixel is the mean of 4x4, a label's the one near their middle.
    """
    images, labels = [], []
    for path in sorted((shared("camvid") / split).glob("*.png")):
        images.append(np.asarray(Image.open(path).convert("RGB").reduce(4)))
        labels.append(np.asarray(Image.open(shared("camvid") / f"{split}annot" / path.name))[2::4, 2::4])
    return (np.stack(images).astype(np.float32) - MEAN) / DEVIATION, np.stack(labels).astype(np.int32)


@functools.cache
def weights():
    """ENet's, against unbalanced classes."""
    return enet_class_weights(np.bincount(streets("train")[1].ravel(), minlength=VOID + 1)[:VOID])


def weighted_cross_entropy(logits, labels):
    """Weighted mean over the pixels that have a class."""
    share = jax.nn.one_hot(labels, CLASSES) * jnp.asarray(weights())
    return -(share * jax.nn.log_softmax(logits)).sum() / share.sum()


def run(variant, seed, settings):
    """One training on images and their mirror images, scored on the validation images."""
    model = Stack(variant, "backbone", settings["width"], nnx.Rngs(seed), channels=3, classes=CLASSES)
    images, labels = (np.concatenate([part, part[:, :, ::-1]]) for part in streets("train"))
    order = np.random.default_rng([seed, 13]).permutation(len(images))
    logged = train(model, settings["steps"], (images[order], labels[order]), weighted_cross_entropy)
    x, y = (part[: settings["held_out"]] for part in streets("val"))
    outputs = runner(model)
    logits = np.concatenate([outputs(part) for part in np.array_split(x, max(len(x) // 8, 1))])
    radius = effective(model, x)["radius"]
    return {
        "scores": segmentation_scores(logits, y, VOID, (("pole", POLE), ("sign", SIGN))), **logged, "radius": radius,
        "stack": gridding(variant, "backbone")["stack"],
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))),
    }  # fmt: skip
