"""Seven upsamplers in a DCGAN on MNIST: how good the digits are, checkerboards measured in spectra, and predicted."""

import functools
import gzip

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxconv as jc
from benchmarks.experiments.common import rounded, runner, shared, spectrum_lines, train
from benchmarks.experiments.upsamplers import KINDS, Up
from jaxconv.models import DCGANDiscriminator
from jaxconv.nn import Conv, ConvBlock, ConvTranspose, batch_norm

NAME = "digits"
SETTINGS = {
    "full": {"steps": 500, "batch": 32, "latent": 32, "width": 16, "samples": 1000, "judge": 2500},
    "reduced": {"steps": 50, "batch": 32, "latent": 32, "width": 16, "samples": 500, "judge": 500},
    "smallest": {"steps": 2, "batch": 2, "latent": 4, "width": 2, "samples": 40, "judge": 2},
}
VARIANTS = list(KINDS[:-1])
FEW = ["transposed k3 s2", "resize-convolution"]
FACTOR = 4  # of the last two upsamplings: what the first one leaves has the width of the strokes
FEATURES = 16


@functools.cache
def digits():
    """Images (10000, 32, 32, 1) of -1..1, padded with black, and labels."""
    packed = (shared("mnist") / "t10k-images-idx3-ubyte.gz").read_bytes()
    pixels = np.frombuffer(gzip.decompress(packed), np.uint8, offset=16).reshape(-1, 28, 28)
    labels = np.frombuffer((shared("mnist") / "t10k-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    padded = np.pad(pixels, ((0, 0), (2, 2), (2, 2)))[..., None]
    return padded.astype(np.float32) / 127.5 - 1, labels.astype(np.int32)


class Generator(nnx.Module):
    """DCGAN's way from noise to 4x4 features, then three upsamplings, and a tanh after the last."""

    def __init__(self, kind, latent, width, rngs):
        widths = [4 * width, 2 * width, width]
        self.first = ConvTranspose(latent, widths[0], (4, 4), rngs=rngs)
        self.norms = nnx.List(batch_norm(n, rngs=rngs) for n in widths)
        self.ups = nnx.List(Up(kind, i, o, rngs) for i, o in zip(widths, (*widths[1:], 1)))

    def features(self, z):
        """(n, 4, 4, 4 width) of z (n, latent)."""
        return jax.nn.relu(self.norms[0](self.first(z[:, None, None])))

    def images(self, x):
        """(n, 8 h, 8 w, 1) of features (n, h, w, 4 width)."""
        for up, norm in zip(self.ups, self.norms[1:]):
            x = jax.nn.relu(norm(up(x)))
        return jnp.tanh(self.ups[-1](x))

    def __call__(self, z):
        """Images (n, 32, 32, 1) of z (n, latent)."""
        return self.images(self.features(z))


class Judge(nnx.Module):
    """A small classifier of digits, whose features say how far generated digits are from real ones."""

    def __init__(self, rngs):
        widths = (1, 16, 32, 32)
        blocks = (ConvBlock(i, o, (3, 3), stride=2, padding=1, rngs=rngs) for i, o in zip(widths, widths[1:]))
        self.body = nnx.Sequential(*blocks, Conv(32, FEATURES, (4, 4), rngs=rngs), jax.nn.relu)
        self.head = Conv(FEATURES, 10, (1, 1), rngs=rngs)

    def __call__(self, x):
        """Logits (n, 10) of images (n, 32, 32, 1)."""
        return self.head(self.body(x))[:, 0, 0]

    def both(self, x):
        """Features (n, 16) and logits (n, 10)."""
        features = self.body(x)
        return jnp.concatenate([features, self.head(features)], axis=-1)[:, 0, 0]


@functools.cache
def judge(steps):
    """The judge, trained on the first 5000 digits, and its accuracy on the others."""
    model = Judge(nnx.Rngs(0))
    images, labels = digits()

    def loss(logits, labels):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    train(model, steps, (images[:5000], labels[:5000]), loss, rate=2e-3)
    both = runner(model, Judge.both)
    found = both(images[5000:])[:, FEATURES:].argmax(-1)
    return both, float(np.mean(found == labels[5000:]))


def frechet(a, b):
    """|m_a - m_b|^2 + trace(C_a + C_b - 2 (C_a C_b)^1/2) of features (n, f).

    Source: Heusel et al. 2017 (arXiv:1706.08500), with this small classifier's features for Inception's.
    """
    (m, c), (n, d) = ((f.mean(0), np.cov(f, rowvar=False)) for f in (a.astype(np.float64), b.astype(np.float64)))
    shared_part = np.sqrt(np.linalg.eigvals(c @ d).real.clip(0)).sum()  # trace((C_a C_b)^1/2)
    return float(((m - n) ** 2).sum() + np.trace(c + d) - 2 * shared_part)


def quality(images, steps):
    """Distance to the digits that nothing was trained on, and what the judge takes the images for."""
    both, accuracy = judge(steps)
    real = both(digits()[0][5000:])[:, :FEATURES]
    found = both(images)
    shares = np.asarray(jax.nn.softmax(found[:, FEATURES:]))
    mean = shares.mean(0)
    scores = {
        "frechet": frechet(found[:, :FEATURES], real),
        "confidence": shares.max(-1).mean(),
        "classes": 2 ** -(mean * np.log2(mean + 1e-12)).sum(),
    }
    return rounded(scores), round(accuracy, 4)


def lines(images):
    """Of the images, and of their mean, in which the strokes vanish and what all of them share stays."""
    found = spectrum_lines(images, FACTOR, whole=True)
    return found | {f"smooth_{n}": v for n, v in spectrum_lines(images.mean(0)[None], FACTOR, whole=True).items()}


def game(generator, discriminator):
    """One step of both players, each with an Adam of its own: (states, real, z) -> states and the two losses.

    The discriminator learns five times slower: at one rate it soon wins every time, and the digits get worse.

    Source: Goodfellow et al. 2014, with the generator's loss that does not saturate; Radford et al. 2016 for Adam's
    first decay of 0.5.
    """
    parts = [nnx.split(model, nnx.Param, ...) for model in (generator, discriminator)]
    graphs = [graph for graph, _, _ in parts]
    adams = [optax.adam(rate, b1=0.5) for rate in (1e-3, 2e-4)]
    states = [
        (*jax.tree.map(jnp.copy, (params, rest)), adam.init(params)) for (_, params, rest), adam in zip(parts, adams)
    ]

    def call(who, params, rest, x):
        model = nnx.merge(graphs[who], params, rest, copy=True)
        y = model(x)
        return y, nnx.split(model, nnx.Param, ...)[2]

    @functools.partial(jax.jit, donate_argnums=0)
    def step(states, real, z):
        (g, g_rest, g_adam), (d, d_rest, d_adam) = states
        fake, g_rest = call(0, g, g_rest, z)

        def of_discriminator(d):
            true, rest = call(1, d, d_rest, real)
            false, rest = call(1, d, rest, fake)
            return (jax.nn.softplus(-true) + jax.nn.softplus(false)).mean(), rest

        (d_loss, d_rest), grads = jax.value_and_grad(of_discriminator, has_aux=True)(d)
        updates, d_adam = adams[1].update(grads, d_adam)
        d = optax.apply_updates(d, updates)

        def of_generator(g):
            image, rest = call(0, g, g_rest, z)
            return jax.nn.softplus(-call(1, d, d_rest, image)[0]).mean(), rest

        (g_loss, g_rest), grads = jax.value_and_grad(of_generator, has_aux=True)(g)
        updates, g_adam = adams[0].update(grads, g_adam)
        return [(optax.apply_updates(g, updates), g_rest, g_adam), (d, d_rest, d_adam)], (d_loss, g_loss)

    return step, states


def run(variant, seed, settings):
    """One game, with checkerboards measured and predicted at its start, in its middle and at its end."""
    latent, width = settings["latent"], settings["width"]
    generator = Generator(variant, latent, width, nnx.Rngs(seed))
    discriminator = DCGANDiscriminator(width=width, channels=1, size=32, rngs=nnx.Rngs(seed + 100))
    generator.train()
    discriminator.train()
    step, states = game(generator, discriminator)
    seen = np.random.default_rng(7).standard_normal((settings["samples"], latent)).astype(np.float32)
    outputs, features, moments = runner(generator), runner(generator, Generator.features), {}

    def look(moment):
        nnx.update(generator, *jax.tree.map(jnp.copy, states[0][:2]))
        generator.eval()
        board = jc.analysis.checkerboard(
            generator.images, jax.ShapeDtypeStruct((1, 8, 8, 4 * width), jnp.float32), fixes=False, draws=8,
            images=features(seen[:64]),
        )  # fmt: skip
        found = {"score": board.score, "counts": board.counts, "pattern": board.pattern, "spread": board.spread}
        moments[moment] = rounded({**lines(outputs(seen)), **found})

    rng, (real, _), losses = np.random.default_rng([seed, 5]), digits(), []
    look("start")
    generator.train()
    for number in range(settings["steps"]):
        if number == settings["steps"] // 2:
            look("middle")
            generator.train()
        places = rng.integers(0, 5000, settings["batch"])
        z = rng.standard_normal((settings["batch"], latent)).astype(np.float32)
        states, loss = step(states, real[places], z)
        if number % max(settings["steps"] // 10, 1) == 0:
            losses.append([number, *(round(float(one), 4) for one in loss)])
    look("end")
    scores, accuracy = quality(outputs(seen), settings["judge"])
    floor, _ = quality(real[:5000], settings["judge"])
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(generator, nnx.Param)))
    return {
        "scores": scores, "loss": losses, "moments": moments, "parameters": size, "judge_accuracy": accuracy,
        "real": {"scores": floor, "moment": rounded(lines(real[5000:]))},
    }  # fmt: skip
