"""Counts against the gradient of the same network with all-ones kernels and width one, on random graphs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxconv as jc
from jaxconv.analysis import receptive_field

SIZE = 12


class Builder:
    """One random network at two widths: as users write it (`width` 3, with nonlinearities), and as its linear judge."""

    def __init__(self, rng, width, judge):
        self.rng, self.width, self.judge = rng, width, judge

    def ones(self, k, i, o):
        return jnp.ones((*k, i, o))

    def act(self, x):
        """Pointwise work on one source: identity for the judge."""
        choice = self.rng.integers(4)
        if self.judge:
            return x
        if choice == 0:
            return x * jax.nn.sigmoid(x)
        if choice == 1:
            return jax.nn.relu(x * 2.0 + jnp.arange(x.shape[-1]))
        if choice == 2:
            mean = x.mean(-1, keepdims=True)
            return (x - mean) / jnp.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-3)
        return jax.nn.softmax(x, axis=-1) + x

    def conv(self, x, k=None, out=1, stride=1, rate=1, base=1, pads="SAME", groups=1):
        k = (int(self.rng.integers(1, 4)), int(self.rng.integers(1, 4))) if k is None else (k, k)
        w = self.ones(k, x.shape[-1] // groups, out * self.width)
        return lax.conv_general_dilated(
            x, w, (stride,) * 2, pads, (base,) * 2, (rate,) * 2, ("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    def window_sum(self, x, k, s, pads):
        real = not self.judge
        start, op = (-jnp.inf, lax.max) if real else (0.0, lax.add)
        return lax.reduce_window(x, start, op, (1, k, k, 1), (1, s, s, 1), pads)

    # -- the blocks; each takes and gives `width` channels -----------------------------------------------------------
    def plain(self, x):
        return self.conv(x, rate=int(self.rng.integers(1, 4)))

    def odd_pads(self, x):
        a, b, c, d = (int(v) for v in self.rng.integers(0, 3, 4))
        return self.conv(x, k=2, pads=[(a, b), (c, d)])

    def strided(self, x):
        return self.conv(x, k=3, stride=2, pads=[(1, 0), (1, 1)])

    def skip(self, x):
        return x + self.act(self.conv(self.act(self.conv(x, k=3))))

    def branches(self, x):
        joined = jnp.concatenate([self.conv(x, k=3, rate=2), x, self.conv(x, k=1)], axis=-1)
        return self.conv(self.act(joined), k=3)

    def asymmetric_branches(self, x):
        """Branches whose fields begin and end at different places, one of them in two steps."""
        left = self.conv(x, k=2, rate=2, pads=[(2, 0), (0, 2)])
        right = self.conv(self.act(self.conv(x, k=3, pads=[(0, 2), (2, 0)])), k=2, pads=[(0, 1), (1, 0)])
        return self.act(left + right) + x

    def split_after_concat(self, x):
        joined = jnp.concatenate([self.conv(x, k=3), self.conv(x, k=3, rate=3)], axis=-1)
        joined = joined if self.judge else jax.nn.relu(joined)  # a norm over channels would mix the branches
        first, second = jnp.split(joined, 2, axis=-1)
        return self.conv(first, k=2) + self.conv(self.conv(second, k=1), k=3)

    def padded_skip(self, x):
        wide = self.conv(x, k=3, out=1 if self.judge else 3)
        extra = wide.shape[-1] - x.shape[-1]
        return self.conv(self.act(wide + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, extra)))), k=2)

    def pool(self, x):
        return self.conv(self.window_sum(x, 3, 2, ((0, 0), (1, 1), (1, 1), (0, 0))), k=2)

    def library_pool(self, x):
        which = jc.max_pool if self.rng.integers(2) else jc.avg_pool
        if self.judge:
            return self.window_sum(x, 3, 2, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return which(x, 3, stride=2, padding=1)

    def transposed(self, x):
        return self.conv(x, k=3, base=2, pads=[(1, 2), (2, 1)])

    def library_transposed(self, x):
        w = self.ones((4, 3), self.width, x.shape[-1])
        return jc.conv_transpose(x, w, stride=2, padding=1)

    def library_conv(self, x):
        mode = ("zeros", "reflect", "circular", "replicate")[self.rng.integers(4)]
        return jc.conv(x, self.ones((3, 3), x.shape[-1], self.width), padding=2, dilation=2, padding_mode=mode)

    def nearest(self, x):
        n, h, w, c = x.shape
        return self.conv(jax.image.resize(x, (n, 2 * h, 2 * w, c), "nearest"), k=3)

    def linear(self, x):
        n, h, w, c = x.shape
        if not self.judge:
            return jax.image.resize(x, (n, 2 * h, w, c), "linear")
        support = jax.image.resize(jnp.eye(h), (2 * h, h), "linear") != 0
        return jnp.einsum("uh,nhwc->nuwc", support.astype(x.dtype), x)

    def shuffle(self, x):
        x = self.act(self.conv(x, k=3, out=4))
        n, h, w, _ = x.shape
        x = x.reshape(n, h, w, 2, 2, self.width).transpose(0, 1, 3, 2, 4, 5)
        return self.conv(x.reshape(n, 2 * h, 2 * w, self.width), k=3)

    def unshuffle(self, x, k=2):
        n, h, w, c = x.shape
        x = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
        return self.conv(self.act(x.reshape(n, h // 2, w // 2, 4 * c)), k=k)

    def repeat_unshuffle(self, x):
        return self.unshuffle(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), k=1)

    def depthwise(self, x):
        return self.conv(self.conv(x, k=3, groups=self.width), k=1)

    def crop(self, x):
        return self.conv(x[:, 1:-1:2, 2:], k=3)

    def reflect(self, x):
        return self.conv(jnp.pad(x, ((0, 0), (1, 1), (2, 1), (0, 0)), mode="reflect"), k=3, pads="VALID")

    def to_batch(self, x):
        n, h, w, c = x.shape
        x = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(2, 4, 0, 1, 3, 5).reshape(4 * n, h // 2, w // 2, c)
        x = self.conv(x, k=3)
        x = x.reshape(2, 2, n, h // 2, w // 2, c).transpose(2, 3, 0, 4, 1, 5)
        return x.reshape(n, h, w, c)

    def overwrite(self, x):
        return self.conv(x.at[:, 1:3, 2:4].set(0.0), k=3)


BLOCKS = [
    name for name in vars(Builder) if name not in ("ones", "act", "conv", "window_sum") and not name.startswith("_")
]
NEEDS_EVEN = {"unshuffle", "to_batch"}


def network(seed, width, judge, depth=4):
    """A function of one image, the same graph for the same seed at any width."""

    def run(x):
        rng = np.random.default_rng(seed)
        builder = Builder(rng, width, judge)
        x = builder.conv(x)
        for _ in range(depth):
            name = BLOCKS[rng.integers(len(BLOCKS))]
            if min(x.shape[1:3]) < 5 or max(x.shape[1:3]) > 2 * SIZE and name in GROWS:
                name = "nearest" if min(x.shape[1:3]) < 5 else "strided"
            if name in NEEDS_EVEN and (x.shape[1] % 2 or x.shape[2] % 2):
                name = "plain"
            x = builder.act(getattr(builder, name)(x))
        return x

    return run


GROWS = {"transposed", "library_transposed", "nearest", "linear", "shuffle"}


def judged(fn, size, indices):
    """Gradients of the width-one network at several outputs."""
    x = jnp.ones((1, *size, 1))
    y, pull = jax.vjp(jax.jit(fn), x)
    hot = jnp.stack([jnp.zeros_like(y).at[0, i, j].set(1.0) for i, j in indices])
    return np.asarray(jax.jit(jax.vmap(lambda ct: pull(ct)[0]))(hot))[:, 0, :, :, 0]


def compare(seed, size=(SIZE, SIZE + 2), depth=4):
    field = receptive_field(network(seed, 3, False, depth), jnp.ones((1, *size, 3)), method="jaxpr")
    rng = np.random.default_rng(seed)
    n, m = field.output_size
    indices = [(0, 0), (n - 1, m // 2), (n // 2, m // 2), (int(rng.integers(n)), int(rng.integers(m)))]
    for index, expected in zip(indices, judged(network(seed, 1, True, depth), size, indices), strict=True):
        place = f"seed {seed}, depth {depth}, output {index}"
        counts = field.counts(index)
        np.testing.assert_array_equal(counts, expected, err_msg=place)
        np.testing.assert_array_equal(field.counts(index, exact=True).astype(float), expected, err_msg=place)
        rows = [np.nonzero((expected > 0).any(axis=1 - a))[0] for a in (0, 1)]
        if len(rows[0]):
            assert field.box(index) == tuple(slice(r[0], r[-1] + 1) for r in rows), place


@pytest.mark.parametrize("seed", range(14))
def test_counts_equal_the_gradient_of_the_all_ones_network(x64, seed):
    compare(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 160))
def test_counts_equal_the_gradient_on_many_graphs(x64, seed):
    compare(seed, depth=int(np.random.default_rng(seed).integers(2, 8)))


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_alone(x64, block):
    def alone(width, judge):
        def run(x):
            builder = Builder(np.random.default_rng(3), width, judge)
            return getattr(builder, block)(builder.conv(x, k=3))

        return run

    size = (8, 10)
    field = receptive_field(alone(3, False), jnp.ones((1, *size, 3)), method="jaxpr")
    indices = [(0, 0), (field.output_size[0] // 2, field.output_size[1] // 2), tuple(n - 1 for n in field.output_size)]
    for index, expected in zip(indices, judged(alone(1, True), size, indices), strict=True):
        np.testing.assert_array_equal(field.counts(index), expected, err_msg=f"{block} at {index}")


def test_axes_of_length_one(x64):
    def net(width):
        def run(x):
            builder = Builder(np.random.default_rng(0), width, width == 1)
            return builder.conv(builder.skip(builder.conv(x, k=3)), k=3)

        return run

    for size in ((1, 9), (9, 1), (1, 1)):
        field = receptive_field(net(3), jnp.ones((1, *size, 3)), method="jaxpr")
        index = tuple(n // 2 for n in field.output_size)
        (expected,) = judged(net(1), size, [index])
        np.testing.assert_array_equal(field.counts(index), expected, err_msg=str(size))
        assert field.size == receptive_field(net(3), jnp.ones((1, 20, 20, 3)), method="jaxpr").size
