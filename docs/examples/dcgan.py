"""Two networks and two optimisers in one step: a DCGAN learns the textures of photographs.

jaxconv train docs/examples/dcgan.py:DCGAN --steps 600 --out runs/dcgan --set batch_size=32
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxconv.models import DCGANDiscriminator, DCGANGenerator
from jaxconv.train.mosaic import load_photographs


class DCGAN:
    """Generator and discriminator of 32x32 gray patches of brick, grass and gravel, each with an Adam of its own."""

    def __init__(self, latent: int = 32, width: int = 16, photographs: tuple[str, ...] = ("brick", "grass", "gravel")):
        self.latent, self.photographs = latent, [load_photographs((name,))[name] for name in photographs]
        self.make = [
            lambda rngs: DCGANGenerator(latent=latent, width=width, channels=1, size=32, rngs=rngs),
            lambda rngs: DCGANDiscriminator(width=width, channels=1, size=32, rngs=rngs),
        ]
        self.adam = optax.adam(2e-4, b1=0.5)
        self.graphs = [nnx.split(nnx.eval_shape(lambda make=make: make(nnx.Rngs(0))))[0] for make in self.make]

    def init(self, key):
        """Parameters, batch statistics and Adam's moments of both networks."""
        state = {}
        for name, make, own in zip(("generator", "discriminator"), self.make, jax.random.split(key), strict=True):
            _, params, stats = nnx.split(make(nnx.Rngs(own)), nnx.Param, ...)
            state[name] = {"params": params, "stats": stats, "adam": self.adam.init(params)}
        return state

    def batch(self, start, count):
        """Patches ``start ..`` of the photographs, -1..1."""
        patches = []
        for index in range(start, start + count):
            rng = np.random.default_rng([7, index])
            photograph = self.photographs[rng.integers(len(self.photographs))]
            row, column = (rng.integers(0, (n - 64) // 2) * 2 for n in photograph.shape)
            patches.append(photograph[row : row + 64, column : column + 64].reshape(32, 2, 32, 2).mean((1, 3)))
        return (np.stack(patches)[..., None] / 127.5 - 1,)

    def step(self, state, key, real):
        """The discriminator learns to tell, then the generator to deceive it."""
        graphs, noise = self.graphs, jax.random.normal(key, (len(real), self.latent))
        generator, discriminator = state["generator"], state["discriminator"]

        def judge(params, stats, images):
            model = nnx.merge(graphs[1], params, stats, copy=True)
            logits = model(images).reshape(-1)
            return logits, nnx.split(model, nnx.Param, ...)[2]

        def drawn(params):
            model = nnx.merge(graphs[0], params, generator["stats"], copy=True)
            images = model(noise)
            return images, nnx.split(model, nnx.Param, ...)[2]

        def tells(params):
            real_logits, stats = judge(params, discriminator["stats"], real)
            fake_logits, stats = judge(params, stats, drawn(generator["params"])[0])
            return (jax.nn.softplus(-real_logits) + jax.nn.softplus(fake_logits)).mean(), stats

        def deceives(params):
            images, stats = drawn(params)
            return jax.nn.softplus(-judge(discriminator["params"], discriminator["stats"], images)[0]).mean(), stats

        (told, stats), grads = jax.value_and_grad(tells, has_aux=True)(discriminator["params"])
        discriminator = self.updated(discriminator, grads, stats)
        (deceived, stats), grads = jax.value_and_grad(deceives, has_aux=True)(generator["params"])
        generator = self.updated(generator, grads, stats)
        return {"generator": generator, "discriminator": discriminator}, {"discriminator": told, "generator": deceived}

    def updated(self, part, grads, stats):
        """One step of a network's Adam."""
        updates, adam = self.adam.update(grads, part["adam"], part["params"])
        return {"params": optax.apply_updates(part["params"], updates), "stats": stats, "adam": adam}

    def images(self, state, count):
        """The generator's images of fixed noise."""
        model = nnx.merge(self.graphs[0], state["generator"]["params"], state["generator"]["stats"], copy=True)
        model.eval()
        return jnp.asarray(model(jax.random.normal(jax.random.key(1), (count, self.latent)))[..., 0])

    def metrics(self, state):
        """Minus the distance of mean log power spectra, generated and real, in nats: 0 is best."""
        spectra = [
            np.log(np.abs(np.fft.rfft2(np.asarray(images))) ** 2 + 1e-3).mean(0)
            for images in (self.images(state, 64), self.batch(10**6, 64)[0][..., 0])
        ]
        return {"minus_spectral_distance": -float(np.abs(spectra[0] - spectra[1]).mean())}

    def picture(self, state):
        """Above the generator's images, below real ones."""
        rows = np.stack([np.asarray(self.images(state, 12)), self.batch(10**6, 12)[0][..., 0]])
        return 127.5 * (1 + np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))
