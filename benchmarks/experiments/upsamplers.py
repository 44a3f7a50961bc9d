"""Eight upsamplers in a U-Net and in a generator: quality, checkerboards measured in spectra, and predicted."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy import ndimage

import jaxconv as jc
from benchmarks.experiments.common import (
    CLASSES,
    cross_entropy,
    examples,
    held_out,
    mosaics,
    packed,
    runner,
    segmentation_scores,
    spectrum_lines,
    train,
)
from jaxconv.nn import Conv, ConvBlock, ConvTranspose

NAME = "upsamplers"
SETTINGS = {
    "full": {"steps": {"unet": 300, "generator": 300}, "examples": 2400, "width": 8, "held_out": 32},
    "reduced": {"steps": {"unet": 30, "generator": 30}, "examples": 240, "width": 8, "held_out": 16},
    "smallest": {"steps": {"unet": 2, "generator": 2}, "examples": 16, "width": 2, "held_out": 2},
}
KINDS = (
    "transposed k2 s2", "transposed k3 s2", "transposed k4 s2", "resize-convolution", "pixel shuffle",
    "pixel shuffle, ICNR", "bilinear", "unpooling",
)  # fmt: skip
# Unpooling needs the places of an encoder's maxima, which a generator has not.
VARIANTS = [f"{kind}; generator" for kind in KINDS[:-1]] + [f"{kind}; unet" for kind in KINDS]
FEW = [f"{kind}; {network}" for kind in ("transposed k3 s2", "resize-convolution") for network in ("generator", "unet")]


class Up(nnx.Module):
    """Twice the size, from ``into`` to ``out`` channels, by one of `KINDS`."""

    def __init__(self, kind, into, out, rngs):
        self.kind = kind
        if kind.startswith("transposed"):
            k = int(kind[12])
            self.layer = ConvTranspose(into, out, (k, k), stride=2, padding=(k - 1) // 2, rngs=rngs)
        elif kind.startswith("pixel shuffle"):
            normal = jax.nn.initializers.lecun_normal()
            start = jc.initializers.icnr(normal, 2) if "ICNR" in kind else normal
            self.layer = Conv(into, 4 * out, (3, 3), padding=1, kernel_init=start, rngs=rngs)
        else:
            k = 3 if kind == "resize-convolution" else 1
            self.layer = Conv(into, out, (k, k), padding=k // 2, rngs=rngs)

    def __call__(self, x, indices=None):
        """(*batch, 2 H, 2 W, out) of x (*batch, H, W, into); ``indices`` of the encoder's pooling for "unpooling"."""
        size = tuple(2 * n for n in x.shape[-3:-1])
        if self.kind.startswith("transposed"):
            return self.layer(x, output_size=size)
        if self.kind.startswith("pixel shuffle"):
            return jc.pixel_shuffle(self.layer(x), (2, 2))
        if self.kind == "resize-convolution":
            return self.layer(jc.resize(x, size, method="nearest"))
        if self.kind == "bilinear":
            return jc.resize(self.layer(x), size)
        return jc.max_unpool(self.layer(x), indices, size)


class UNet(nnx.Module):
    """Three levels of one convolution each, skips; logits of the input's size."""

    def __init__(self, kind, width, rngs):
        widths = (width, 2 * width, 4 * width)

        def level(into, out):
            return ConvBlock(into, out, (3, 3), padding=1, rngs=rngs)

        self.encoder = nnx.List(level(i, o) for i, o in zip((1, *widths), widths))
        self.ups = nnx.List(Up(kind, 2 * n, n, rngs) for n in widths[1::-1])
        self.decoder = nnx.List(level(2 * n, n) for n in widths[1::-1])
        self.head = Conv(width, CLASSES, (1, 1), rngs=rngs)

    def __call__(self, x):
        """Logits (*batch, H, W, classes) of x (*batch, H, W, 1)."""
        skips = []
        for number, level in enumerate(self.encoder):
            if number:
                x, indices = jc.max_pool(x, (2, 2), return_indices=True)
                skips[-1] = skips[-1], indices
            x = level(x)
            skips.append(x)
        for up, level, (skip, indices) in zip(self.ups, self.decoder, skips[-2::-1]):
            x = level(jnp.concatenate([skip, up(x, indices)], axis=-1))
        return self.head(x)


class Generator(nnx.Module):
    """An image from its 4x smaller self: three convolutions, then two upsamplings and nothing after them (as DCGAN)."""

    def __init__(self, kind, width, rngs):
        widths = (1, 4 * width, 4 * width, 4 * width)
        self.body = nnx.Sequential(*(ConvBlock(i, o, (3, 3), padding=1, rngs=rngs) for i, o in zip(widths, widths[1:])))
        self.first, self.second = Up(kind, 4 * width, 2 * width, rngs), Up(kind, 2 * width, 1, rngs)

    def __call__(self, x):
        """(*batch, 4 H, 4 W, 1) of x (*batch, H, W, 1)."""
        return self.second(jax.nn.relu(self.first(self.body(x))))


def smaller(images):
    """Means over 4x4 pixels."""
    n, h, w, c = images.shape
    return images.reshape(n, h // 4, 4, w // 4, 4, c).mean((2, 4))


def photographs(split, seed, count):
    """Mosaics without wires, and their 4x smaller selves as inputs."""
    images = (mosaics(split, seed).batch(0, count)[0].astype(np.float32) - 128) / 45
    return smaller(images), images


def smooth(images):
    """Without their detail, so that what stands at the frequencies of an upsampling is the network's own."""
    return ndimage.gaussian_filter(images, (0, 8, 8, 0), mode="nearest")


def squared_error(output, target):
    """Mean over all pixels."""
    return ((output - target) ** 2).mean()


def run(variant, seed, settings):
    """One training, with checkerboards measured and predicted at its start, in its middle and at its end."""
    kind, network = variant.split("; ")
    of = {"unet": UNet, "generator": Generator}[network]
    model = of(kind, settings["width"], nnx.Rngs(seed))
    steps = settings["steps"][network]
    if network == "unet":
        pairs, (x, y), loss = (
            examples("train", seed, settings["examples"]),
            held_out(settings["held_out"]),
            cross_entropy,
        )
    else:
        pairs, loss = photographs("train", seed, settings["examples"]), squared_error
        x, y = photographs("test", 0, settings["held_out"])
    calm = smooth(held_out(settings["held_out"])[0] if network == "unet" else y)
    calm = calm if network == "unet" else smaller(calm)
    outputs = runner(model)
    moments, pictures = {}, {}

    @nnx.jit
    def gradient(model, x, cotangent):
        return jax.vjp(lambda x: model(x), x)[1](cotangent)[0]

    def look(moment):
        found = outputs(x)
        board = jc.analysis.checkerboard(
            model, jax.ShapeDtypeStruct((1, *x.shape[1:]), jnp.float32), fixes=False, draws=4, images=list(x[:, None])
        )
        moments[moment] = {
            **spectrum_lines(found, 4),
            **{f"smooth_{name}": value for name, value in spectrum_lines(outputs(calm), 4).items()},
            "score": board.score, "counts": board.counts, "pattern": board.pattern, "spread": board.spread,
        }  # fmt: skip
        if network == "unet":  # the generator's input is smaller than its phases
            cotangent = np.random.default_rng(3).standard_normal(found.shape).astype(np.float32)
            back = spectrum_lines(np.asarray(gradient(model, x, cotangent)), 4)
            moments[moment] |= {"gradient_lines": back["lines"], "gradient_around": back["around"],
                                "gradient_score": board.gradient_score}  # fmt: skip
        moments[moment] = {name: None if v is None else float(f"{v:.4g}") for name, v in moments[moment].items()}
        if network == "generator" and seed == 0:
            pictures[moment] = packed(np.clip(np.rint(found[0, ..., 0] * 45 + 128), 0, 255))

    at = {0: lambda: look("start"), steps // 2: lambda: look("middle")}
    logged = train(model, steps, pairs, loss, at=at)
    look("end")
    found = outputs(x)
    if network == "unet":
        scores = segmentation_scores(found, y)
    else:
        error = np.mean((np.clip(found * 45 + 128, 0, 255) - (y * 45 + 128)) ** 2, dtype=np.float64)
        scores = {"psnr": round(float(10 * np.log10(255**2 / error)), 3)}
    found = {"scores": scores, **logged, "moments": moments}
    found["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    return found | ({"pictures": pictures} if pictures else {})
