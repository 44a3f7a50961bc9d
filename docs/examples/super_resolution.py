"""A regression: FSRCNN learns to double the size of scikit-image's photographs.

jaxconv train docs/examples/super_resolution.py:SuperResolution --steps 1500 --out runs/fsrcnn --set batch_size=16
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from PIL import Image

from jaxconv.models import FSRCNN
from jaxconv.train.mosaic import load_photographs, strip

PHOTOGRAPHS = ("camera", "astronaut", "coffee", "chelsea", "rocket", "brick", "grass")


def halved(image):
    """An image (h, w) of 0..1 at half its size."""
    return resized(image, (image.shape[0] // 2, image.shape[1] // 2))


def resized(image, size):
    """Bicubic, antialiased where it shrinks."""
    return np.asarray(Image.fromarray(image.astype(np.float32)).resize(size[::-1], Image.Resampling.BICUBIC))


def psnr(image, truth):
    """Peak signal-to-noise ratio in dB of images of 0..1, four pixels from the border on."""
    return -10 * np.log10(np.mean((np.clip(image, 0, 1) - truth)[4:-4, 4:-4] ** 2))


class SuperResolution:
    """FSRCNN x2 with the mean squared error; the last quarter of each photograph is only scored."""

    def __init__(self, learning_rate: float = 1e-3):
        images = load_photographs(PHOTOGRAPHS)
        parts = {split: [strip(image, split) / 255 for image in images.values()] for split in ("train", "test")}
        self.parts = {split: [part[: len(part) // 2 * 2, : part.shape[1] // 2 * 2] for part in found]
                      for split, found in parts.items()}  # fmt: skip
        self.adam = optax.adam(learning_rate)
        self.graph = nnx.split(nnx.eval_shape(lambda: FSRCNN(2, channels=1, rngs=nnx.Rngs(0))))[0]

    def init(self, key):
        """Parameters and Adam's moments."""
        params = nnx.state(FSRCNN(2, channels=1, rngs=nnx.Rngs(key)))
        return {"params": params, "adam": self.adam.init(params)}

    def batch(self, start, count):
        """Patches of 24x24 and the 48x48 that they are the halves of."""
        small, large = [], []
        for index in range(start, start + count):
            rng = np.random.default_rng([3, index])
            image = self.parts["train"][rng.integers(len(self.parts["train"]))]
            row, column = (int(rng.integers(0, n - 47)) for n in image.shape)
            patch = np.rot90(image[row : row + 48, column : column + 48], int(rng.integers(4)))
            large.append(patch)
            small.append(halved(patch))
        return np.stack(small)[..., None].astype(np.float32), np.stack(large)[..., None].astype(np.float32)

    def step(self, state, key, small, large):
        """One step of Adam on the mean squared error."""

        def error(params):
            return ((nnx.merge(self.graph, params)(small) - large) ** 2).mean()

        value, grads = jax.value_and_grad(error)(state["params"])
        updates, adam = self.adam.update(grads, state["adam"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "adam": adam}, {"mse": value}

    def larger(self, state, image):
        """An image (h, w) at twice its size."""
        return np.asarray(nnx.merge(self.graph, state["params"])(jnp.asarray(image, jnp.float32)[None, ..., None]))[
            0, ..., 0
        ]

    def metrics(self, state):
        """Mean PSNR over the test strips, of the network and of bicubic interpolation."""
        ours = [psnr(self.larger(state, halved(part)), part) for part in self.parts["test"]]
        theirs = [psnr(resized(halved(part), part.shape), part) for part in self.parts["test"]]
        return {"psnr": float(np.mean(ours)), "bicubic_psnr": float(np.mean(theirs))}

    def picture(self, state):
        """Bicubic, the network, the truth."""
        truth = self.parts["test"][0][:128, :128]
        return 255 * np.concatenate([resized(halved(truth), truth.shape), self.larger(state, halved(truth)), truth], 1)
