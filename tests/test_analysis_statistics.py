"""Tiles of functions with sums and extremes over the whole image, against the whole image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.analysis import TilingRefused, tiled

RNG = np.random.default_rng(0)
FIRST, SECOND = (jnp.asarray(RNG.standard_normal((3, 3, c, 8)) * 0.3, jnp.float32) for c in (3, 8))
IMAGE = (np.random.default_rng(1).standard_normal((2, 91, 74, 3)) + 0.5).astype(np.float32)


def first(x):
    return jc.conv(x, FIRST, padding=1, stride=2)


def instance_norm(x):
    return (x - x.mean((1, 2), keepdims=True)) / jnp.sqrt(x.var((1, 2), keepdims=True) + 1e-5)


def group_norm(x):
    """As Flax has it: the mean and the mean square at once."""
    grouped = x.reshape(*x.shape[:-1], 2, -1)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    variance = jnp.maximum(jnp.square(grouped).mean((1, 2, 4), keepdims=True) - jnp.square(mean), 0)
    return ((grouped - mean) / jnp.sqrt(variance + 1e-5)).reshape(x.shape)


def squeeze_and_excite(x):
    y = first(x)
    return y * jax.nn.sigmoid(3 * y.mean((1, 2), keepdims=True))


def instance_norms(x):
    return instance_norm(jc.conv(jax.nn.relu(instance_norm(first(x))), SECOND, padding=2, dilation=2))


def group_norms(x):
    return group_norm(jc.conv(jax.nn.relu(group_norm(first(x))), SECOND, padding=1))


def by_the_largest(x):
    return x / jnp.abs(first(x)).max() + x.min()


def by_the_sum(x):
    return x / jnp.exp(x).sum((1, 2, 3), keepdims=True)


def softmax_over_space(x):
    return jax.nn.softmax(first(x)[..., :2], (1, 2))


def batch_norm_in_training(x):
    y = first(x)
    return (y - y.mean((0, 1, 2))) / y.std((0, 1, 2))


def named_pool_and_resize(x):
    y = jc.max_pool(first(x), 2, stride=1, padding=(0, 1))
    return instance_norm(jc.resize(y, scale=1.5))


@pytest.mark.parametrize(
    ("fn", "passes"),
    [
        (squeeze_and_excite, 1),
        (instance_norms, 4),
        pytest.param(group_norms, 2, marks=pytest.mark.slow),
        (by_the_largest, 2),
        (by_the_sum, 1),
        (softmax_over_space, 2),
        (batch_norm_in_training, 2),
        pytest.param(named_pool_and_resize, 2, marks=pytest.mark.slow),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_equals_the_whole_image_in_as_many_passes(fn, passes):
    seen = []
    run = tiled(fn, 24, statistics=True, progress=lambda done, total: seen.append((done, total)))
    result, expected = run(IMAGE), np.asarray(jax.jit(fn)(IMAGE))
    assert result.dtype == expected.dtype
    np.testing.assert_allclose(result, expected, atol=3e-6 * np.abs(expected).max(), rtol=0)
    tiles = len(run.plan(IMAGE)[0][0].starts()) * len(run.plan(IMAGE)[0][1].starts())
    assert tiles > 1 and seen[-1][0] == seen[-1][1] == len(seen) > passes * tiles


class Watched:
    """An image that only gives out crops, and keeps the largest."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.ndim, self.largest = array, array.shape, array.dtype, array.ndim, 0

    def __getitem__(self, where):
        crop = self.array[where]
        self.largest = max(self.largest, crop.size)
        return crop


@pytest.mark.slow
def test_labels_and_weights_from_crops_alone():
    def labels(image, weights):
        y = group_norm(jc.conv(image.astype(jnp.float32) / 255, weights["w"], padding=1))
        return jnp.argmax(y * weights["scale"], axis=-1).astype(jnp.uint8)

    image = Watched(np.random.default_rng(2).integers(0, 256, (1, 130, 120, 3)).astype(np.uint8))
    weights = {"w": FIRST, "scale": jnp.arange(1.0, 9.0)}
    run = tiled(labels, 32, statistics=True)
    result, expected = run(image, weights), np.asarray(jax.jit(labels)(image.array, weights))
    assert result.dtype == np.uint8 and (result != expected).mean() < 1e-3
    assert image.largest <= 40 * 40 * 3
    # The counts of the means are those of each image, not of the first one.
    image, weights = image.array[:, :97, :101], {"w": -FIRST, "scale": weights["scale"]}
    assert (run(image, weights) != np.asarray(jax.jit(labels)(image, weights))).mean() < 1e-3


def test_sums_are_kept_in_more_digits_than_the_tiles_have():
    image = np.full((1, 700, 600, 1), 1.1, np.float32)
    result = tiled(lambda x: x - x.mean(), 64, statistics=True)(image)
    assert np.abs(result).max() < 1e-6


def test_what_is_no_statistic_is_refused():
    for fn, what in (
        (lambda x: x - x.mean(1, keepdims=True), r"reduce_sum over axes \(1,\)"),
        (lambda x: jnp.sort(x, axis=1), "sort"),
        (lambda x: jnp.einsum("bhwc,bijc->bhwi", x, x), "over axes"),
        (lambda x: instance_norm(jnp.sort(x, axis=1)), "sort"),
    ):
        with pytest.raises(TilingRefused, match=what) as refused:
            tiled(fn, 24, statistics=True)(IMAGE)
        assert "statistics=True" not in str(refused.value)
    with pytest.raises(TilingRefused, match=r"reduce_sum over axes .*statistics=True takes these"):
        tiled(squeeze_and_excite, 24)(IMAGE)
    with pytest.raises(TilingRefused, match="equations are others where the image has another size"):
        bands = lambda x: sum(x[:, i :: x.shape[1] // 60].mean() for i in range(x.shape[1] // 60)) + x  # noqa: E731
        tiled(bands, 24, statistics=True)(np.ones((1, 600, 30, 3), np.float32))
    with pytest.raises(TilingRefused, match="an image and its tiles of random pixels differ"):
        ramp = lambda x: x.mean((1, 2), keepdims=True) + x * jnp.arange(x.shape[1])[:, None, None]  # noqa: E731
        tiled(ramp, 24, statistics=True)(IMAGE)


@pytest.mark.slow
def test_a_module_in_training_mode():
    nnx = pytest.importorskip("flax.nnx")
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs), jax.nn.relu)
    model.train()
    with pytest.raises(TilingRefused, match="reduce_sum over axes"):
        tiled(model, 24)(IMAGE)
    np.testing.assert_allclose(tiled(model, 24, statistics=True)(IMAGE), model(IMAGE), atol=1e-5, rtol=0)
