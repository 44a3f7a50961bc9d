"""FCN's transposed convolution of kernel 16 and stride 8: frozen as bilinear, learned from it, learned from random."""

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
    runner,
    segmentation_scores,
    train,
)
from jaxconv.nn import Conv, ConvBlock, ConvTranspose

NAME = "bilinear"
SETTINGS = {
    "full": {"steps": 400, "examples": 3200, "width": 24, "held_out": 32, "looks": 8},
    "reduced": {"steps": 80, "examples": 640, "width": 24, "held_out": 16, "looks": 4},
    "smallest": {"steps": 2, "examples": 16, "width": 4, "held_out": 2, "looks": 1},
}
VARIANTS = ["frozen", "from bilinear", "from random"]


class FCN(nnx.Module):
    """Three strided convolutions, two more, scores, and one transposed convolution to the input's size."""

    def __init__(self, start, width, rngs):
        self.body = nnx.Sequential(
            ConvBlock(1, width, (5, 5), stride=2, padding=2, rngs=rngs),
            ConvBlock(width, width, (3, 3), stride=2, padding=1, rngs=rngs),
            ConvBlock(width, width, (3, 3), stride=2, padding=1, rngs=rngs),
            ConvBlock(width, width, (3, 3), padding=1, rngs=rngs),
            Conv(width, CLASSES, (1, 1), rngs=rngs),
        )
        init = {} if start == "from random" else {"kernel_init": jc.initializers.bilinear()}
        self.up = ConvTranspose(CLASSES, CLASSES, (16, 16), stride=8, padding=4, use_bias=False, rngs=rngs, **init)

    def __call__(self, x):
        """Logits (*batch, H, W, classes) of x (*batch, H, W, 1)."""
        return self.up(self.body(x))


def kernel_facts(kernel):
    """What a kernel (16, 16, classes, classes) has become.

    "distance" is |K - B| / |B| to the bilinear kernel B, "others" the share of its energy that leads from one class to
    another, "alike" the cosine between the mean kernel of a class to itself and bilinear interpolation.
    """
    start = np.asarray(jc.initializers.bilinear()(None, kernel.shape))
    own = kernel[..., np.arange(CLASSES), np.arange(CLASSES)]
    mean, tent = own.mean(-1), start[..., 0, 0]
    return {
        "distance": float(np.linalg.norm(kernel - start) / np.linalg.norm(start)),
        "others": float(1 - (own**2).sum() / (kernel**2).sum()),
        "alike": float((mean * tent).sum() / np.linalg.norm(mean) / np.linalg.norm(tent)),
    }, mean


def run(variant, seed, settings):
    """One training with scores along the way."""
    model = FCN(variant, settings["width"], nnx.Rngs(seed))
    images, labels = held_out(settings["held_out"])
    outputs, curve = runner(model), []
    steps, looks = settings["steps"], settings["looks"]

    def look(number):
        curve.append([number, segmentation_scores(outputs(images), labels)["miou"]])

    at = {steps * n // looks: lambda n=n: look(steps * n // looks) for n in range(looks)}
    frozen = ("up",) if variant == "frozen" else ()
    logged = train(model, steps, examples("train", seed, settings["examples"]), cross_entropy, frozen=frozen, at=at)
    look(steps)
    facts, mean = kernel_facts(np.asarray(model.up.kernel[...]))
    board = jc.analysis.checkerboard(
        model,
        jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32),
        fixes=False,
        draws=4,
        images=list(images[:, None]),
    )
    facts["score"] = board.score
    return {
        "scores": segmentation_scores(outputs(images), labels), **logged, "curve": curve,
        "kernel": {name: round(value, 4) for name, value in facts.items()},
        "mean_kernel": np.round(mean, 4).tolist(),
    }  # fmt: skip
