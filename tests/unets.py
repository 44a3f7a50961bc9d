"""One U-Net as flax NNX, linen, equinox, haiku and Keras build it: a training step of each, with its own jax.grad.

Each function gives (step, arguments) of a step that returns (loss, new parameters and statistics).
"""

import os

import jax
import jax.numpy as jnp
import numpy as np

RATE = 0.01


def images(batch, size, channels=3):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.standard_normal((batch, size, size, channels)), jnp.float32)


def loss_of(logits, x):
    return jnp.mean((logits.astype(jnp.float32) - jnp.mean(x, -1, keepdims=True)) ** 2)


def updated(params, gradient):
    return jax.tree.map(lambda p, g: p - RATE * g, params, gradient)


def nnx(widths, batch, size):
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, into, out, rngs):
            self.convs = nnx.List([nnx.Conv(i, out, (3, 3), rngs=rngs) for i in (into, out)])
            self.norms = nnx.List([nnx.BatchNorm(out, rngs=rngs) for _ in range(2)])

        def __call__(self, x):
            for conv, norm in zip(self.convs, self.norms, strict=True):
                x = nnx.relu(norm(conv(x)))
            return x

    class UNet(nnx.Module):
        def __init__(self, rngs):
            self.down = nnx.List([Block(i, o, rngs) for i, o in zip((3, *widths), widths)])
            steps = list(zip(widths[::-1], widths[-2::-1]))
            self.up = nnx.List([nnx.ConvTranspose(i, o, (2, 2), strides=(2, 2), rngs=rngs) for i, o in steps])
            self.after = nnx.List([Block(2 * o, o, rngs) for _, o in steps])
            self.head = nnx.Conv(widths[0], 1, (1, 1), rngs=rngs)

        def __call__(self, x):
            skips = []
            for level, block in enumerate(self.down):
                x = block(nnx.max_pool(x, (2, 2), (2, 2)) if level else x)
                skips.append(x)
            for up, block, skip in zip(self.up, self.after, skips[-2::-1]):
                x = block(jnp.concatenate([skip, up(x)], -1))
            return self.head(x)

    model = nnx.jit(lambda: UNet(nnx.Rngs(0)))()
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def step(params, rest, x):
        def loss(params):
            model = nnx.merge(graph, params, rest, copy=True)
            return loss_of(model(x), x), nnx.split(model, nnx.Param, ...)[2]

        (value, new), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return value, updated(params, gradient), new

    return step, (params, rest, images(batch, size))


def linen(widths, batch, size):
    from flax import linen as nn

    class Block(nn.Module):
        out: int

        @nn.compact
        def __call__(self, x):
            for _ in range(2):
                x = nn.relu(nn.BatchNorm(use_running_average=False)(nn.Conv(self.out, (3, 3))(x)))
            return x

    class UNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            skips = []
            for level, width in enumerate(widths):
                x = Block(width)(nn.max_pool(x, (2, 2), (2, 2)) if level else x)
                skips.append(x)
            for width, skip in zip(widths[-2::-1], skips[-2::-1]):
                x = Block(width)(jnp.concatenate([skip, nn.ConvTranspose(width, (2, 2), (2, 2))(x)], -1))
            return nn.Conv(1, (1, 1))(x)

    model, x = UNet(), images(batch, size)
    variables = jax.jit(model.init)(jax.random.key(0), x)

    def step(variables, x):
        def loss(params):
            logits, new = model.apply({**variables, "params": params}, x, mutable=["batch_stats"])
            return loss_of(logits, x), new

        (value, new), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return value, updated(variables["params"], gradient), new

    return step, (variables, x)


def equinox(widths, batch, size):
    import equinox as eqx

    class Block(eqx.Module):
        convs: list
        norms: list

        def __init__(self, into, out, key):
            keys = jax.random.split(key)
            self.convs = [eqx.nn.Conv2d(i, out, 3, padding=1, key=k) for i, k in zip((into, out), keys)]
            self.norms = [eqx.nn.GroupNorm(4, out) for _ in range(2)]

        def __call__(self, x):
            for conv, norm in zip(self.convs, self.norms, strict=True):
                x = jax.nn.relu(norm(conv(x)))
            return x

    class UNet(eqx.Module):
        down: list
        up: list
        after: list
        head: eqx.nn.Conv2d
        pool: eqx.nn.MaxPool2d

        def __init__(self, key):
            keys = iter(jax.random.split(key, 4 * len(widths)))
            self.down = [Block(i, o, next(keys)) for i, o in zip((3, *widths), widths)]
            steps = list(zip(widths[::-1], widths[-2::-1]))
            self.up = [eqx.nn.ConvTranspose2d(i, o, 2, 2, key=next(keys)) for i, o in steps]
            self.after = [Block(2 * o, o, next(keys)) for _, o in steps]
            self.head = eqx.nn.Conv2d(widths[0], 1, 1, key=next(keys))
            self.pool = eqx.nn.MaxPool2d(2, 2)

        def __call__(self, x):
            skips = []
            for level, block in enumerate(self.down):
                x = block(self.pool(x) if level else x)
                skips.append(x)
            for up, block, skip in zip(self.up, self.after, skips[-2::-1]):
                x = block(jnp.concatenate([skip, up(x)], 0))
            return self.head(x)

    model = eqx.filter_jit(UNet)(jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_array)

    def step(params, x):
        def loss(params):
            logits = jax.vmap(eqx.combine(params, static))(jnp.moveaxis(x, -1, 1))
            return loss_of(jnp.moveaxis(logits, 1, -1), x)

        value, gradient = jax.value_and_grad(loss)(params)
        return value, updated(params, gradient)

    return step, (params, images(batch, size))


def haiku(widths, batch, size):
    import haiku as hk

    def block(x, out):
        for _ in range(2):
            x = hk.BatchNorm(True, True, 0.99)(hk.Conv2D(out, 3)(x), is_training=True)
            x = jax.nn.relu(x)
        return x

    def unet(x):
        skips = []
        for level, width in enumerate(widths):
            x = block(hk.MaxPool(2, 2, "SAME")(x) if level else x, width)
            skips.append(x)
        for width, skip in zip(widths[-2::-1], skips[-2::-1]):
            x = block(jnp.concatenate([skip, hk.Conv2DTranspose(width, 2, 2)(x)], -1), width)
        return hk.Conv2D(1, 1)(x)

    network, x = hk.without_apply_rng(hk.transform_with_state(unet)), images(batch, size)
    params, state = jax.jit(network.init)(jax.random.key(0), x)

    def step(params, state, x):
        def loss(params):
            logits, new = network.apply(params, state, x)
            return loss_of(logits, x), new

        (value, new), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return value, updated(params, gradient), new

    return step, (params, state, x)


def keras(widths, batch, size):
    os.environ["KERAS_BACKEND"] = "jax"
    import keras
    from keras import layers

    if keras.backend.backend() != "jax":
        raise ModuleNotFoundError("Keras runs on another backend in this process", name="keras")

    def block(x, out):
        for _ in range(2):
            x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(out, 3, padding="same")(x)))
        return x

    inputs = x = keras.Input((size, size, 3))
    skips = []
    for level, width in enumerate(widths):
        x = block(layers.MaxPooling2D()(x) if level else x, width)
        skips.append(x)
    for width, skip in zip(widths[-2::-1], skips[-2::-1]):
        x = block(layers.Concatenate()([skip, layers.Conv2DTranspose(width, 2, 2)(x)]), width)
    model = keras.Model(inputs, layers.Conv2D(1, 1)(x))
    trainable = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]

    def step(trainable, others, x):
        def loss(trainable):
            logits, new = model.stateless_call(trainable, others, x, training=True)
            return loss_of(logits, x), new

        (value, new), gradient = jax.value_and_grad(loss, has_aux=True)(trainable)
        return value, updated(trainable, gradient), new

    return step, (trainable, others, images(batch, size))


LIBRARIES = {"flax NNX": nnx, "flax linen": linen, "equinox": equinox, "haiku": haiku, "Keras on JAX": keras}


def difference(a, b):
    """The largest difference of two trees of arrays, relative to the largest entry of each array."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    worst = 0.0
    for p, q in pairs:
        if jnp.issubdtype(p.dtype, jnp.inexact):
            p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
            worst = max(worst, float(np.abs(p - q).max() / max(np.abs(q).max(), 1e-3)))
    return worst
