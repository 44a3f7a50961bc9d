"""Dilation schedules in one backbone: scores, gridding, effective fields before and after training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxconv as jc
from benchmarks.experiments.common import (
    CLASSES,
    cross_entropy,
    examples,
    held_out,
    packed,
    runner,
    segmentation_scores,
    train,
)
from jaxconv.nn import Conv, ConvBlock

NAME = "schedules"
SETTINGS = {
    "full": {"steps": 400, "examples": 3200, "width": 16, "held_out": 32},
    "reduced": {"steps": 40, "examples": 320, "width": 16, "held_out": 16},
    "smallest": {"steps": 2, "examples": 16, "width": 4, "held_out": 2},
}
PYRAMID = (2, 4, 7)
DESCENDING = "6, 2, 1, 1, 1, 1"
RATES = {
    "all 1": (1, 1, 1, 1, 1, 1),
    "all 2": (2, 2, 2, 2, 2, 2),
    "sawtooth 1, 2, 3": (1, 2, 3, 1, 2, 3),
    "1, 2, 5": (1, 2, 5, 1, 2, 5),
    "2, 4, 8": (2, 4, 8, 2, 4, 8),
    "1, 2, 9": (1, 2, 9, 1, 2, 9),
    # Without holes, of the fields of all 2, of 1, 2, 5 and of 2, 4, 8: the most even that there are, by
    # `jc.analysis.search_rates`, one of them the other way round, and the nearest to the two grids.
    "1, 1, 1, 1, 2, 6": (1, 1, 1, 1, 2, 6),
    DESCENDING: (6, 2, 1, 1, 1, 1),
    "1, 1, 1, 1, 3, 9": (1, 1, 1, 1, 3, 9),
    "1, 1, 1, 2, 6, 17": (1, 1, 1, 2, 6, 17),
    "1, 2, 2, 2, 2, 3": (1, 2, 2, 2, 2, 3),
    "1, 4, 8, 2, 4, 9": (1, 4, 8, 2, 4, 9),
    "ASPP": (1, 1, 1, 1, 1, PYRAMID),
    "strided": (1, 1, 1, 1, 1, 1),
}
# Where the dilated layers read: features of a strided convolution, as in published networks, or the pixels themselves,
# as in the textbook's drawings.
ON_PIXELS = ("all 1", "all 2", "sawtooth 1, 2, 3", "1, 2, 5")
VARIANTS = [f"{name}; backbone" for name in RATES] + [f"{name}; pixels" for name in ON_PIXELS]
FEW = ["all 1; backbone", "all 2; backbone", "sawtooth 1, 2, 3; backbone"]


class Stack(nnx.Module):
    """Six 3x3 convolutions, dilated by a schedule, on strided features or on the pixels; logits of the input's size."""

    def __init__(self, name, where, width, rngs, channels=1, classes=CLASSES):
        rates = RATES[name]
        width = width if where == "backbone" else width // 2
        self.stem = ConvBlock(channels, width, (5, 5), stride=2, padding=2, rngs=rngs) if where == "backbone" else None
        self.layers = nnx.List(
            nnx.List(
                ConvBlock(width if self.stem or number else channels, width, (3, 3), padding=rate, dilation=rate,
                          stride=2 if name == "strided" and number == 0 else 1, rngs=rngs)
                for rate in (rates[number] if isinstance(rates[number], tuple) else (rates[number],))
            )
            for number in range(len(rates))
        )  # fmt: skip
        self.head = Conv(width, classes, (1, 1), rngs=rngs)

    def dilated(self, x):
        """What the six layers make of their input."""
        for branches in self.layers:
            x = sum(branch(x) for branch in branches)
        return x

    def __call__(self, x):
        """Logits (*batch, H, W, classes) of x (*batch, H, W, channels)."""
        y = x if self.stem is None else self.stem(x)
        y = self.head(self.dilated(y))
        return y if y.shape[1:3] == x.shape[1:3] else jc.resize(y, x.shape[1:3])


def effective(model, images):
    """The effective field of the middle output: radius in pixels, area of 95.45% of the energy, the energy itself."""
    field = jc.analysis.effective_receptive_field(
        model, jax.ShapeDtypeStruct(images[:1].shape, jnp.float32), draws=8, images=list(images[:8, None])
    )
    energy = field.energy**0.25  # a picture of few levels
    return {
        "radius": round(float(np.mean(field.radius)), 3), "area": field.area(),
        "box": [part.stop - part.start for part in field.box], "energy": packed(255 * energy / energy.max()),
    }  # fmt: skip


@functools.cache
def gridding(name, where):
    """Size, coverage and evenness of the six layers' field and of the whole network's, without borders."""
    model = Stack(name, where, 4, nnx.Rngs(0))
    model.eval()
    found = {}
    for key, fn, channels in (("stack", model.dilated, 4 if model.stem else 1), ("network", model, 1)):
        one = jc.analysis.gridding(fn, jax.ShapeDtypeStruct((1, 160, 160, channels), jnp.float32)).output
        found[key] = {"size": one.size[0], "coverage": round(one.coverage, 4), "evenness": round(one.evenness, 4)}
    return found


def run(variant, seed, settings):
    """One training and all that is measured on it."""
    name, where = variant.split("; ")
    model = Stack(name, where, settings["width"], nnx.Rngs(seed))
    images, labels = held_out(settings["held_out"])
    model.eval()
    before = effective(model, images)
    run = runner(model)
    logged = train(
        model, settings["steps"], examples("train", seed, settings["examples"]), cross_entropy,
    )  # fmt: skip
    logits = run(images)
    found = {"scores": segmentation_scores(logits, labels), **logged, **gridding(name, where)}
    found["effective"] = {"before": before, "after": effective(model, images)}
    found["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    if seed == 0:
        found["predictions"] = packed(logits[:2].argmax(-1))
    else:
        for one in found["effective"].values():
            del one["energy"]
    return found
