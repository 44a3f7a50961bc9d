"""What dense networks share: adaptive pooling, upsampling to any size, ASPP, DUC, causal layers in pieces, weight
norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxconv as jc
from jaxconv import nn
from jaxconv.nn.dense import UPSAMPLERS
from jaxconv.resampling.adaptive import adaptive_avg_pool, adaptive_max_pool, adaptive_max_pool_with_indices

RNGS = {"rngs": nnx.Rngs(0)}


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("n, m", [(7, 3), (6, 3), (5, 7), (4, 1)])
def test_adaptive_pooling_is_its_definition(n, m):
    x = normal(2, n, 6, 3)
    windows = [(q * n // m, -(-(q + 1) * n // m)) for q in range(m)]
    for function, reduce in ((adaptive_avg_pool, np.mean), (adaptive_max_pool, np.max)):
        rows = np.stack([reduce(np.asarray(x)[:, a:b], axis=1) for a, b in windows], 1)
        np.testing.assert_allclose(function(x, (m, None)), rows, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"output_size=\(0, 2\)"):
        adaptive_avg_pool(x, (0, 2))
    with pytest.raises(ValueError, match="mean"):
        nn.AdaptivePool((1,), "median")


def test_of_equal_maxima_the_first_has_the_index_and_the_gradient():
    """Row-major, also where one axis is shared out evenly and the other is not."""
    x = jnp.asarray(np.random.default_rng(3).integers(0, 2, (1, 8, 7, 1)), jnp.float32)
    want, places = np.zeros(56), []
    for q in range(2):
        for a, b in [(0, 3), (2, 5), (4, 7)]:
            u = [(i, j) for i in range(4 * q, 4 * q + 4) for j in range(a, b)]
            i, j = max(u, key=lambda at: float(x[0, *at, 0]))  # of equal ones the first
            places.append(7 * i + j)
            want[7 * i + j] += 1
    assert adaptive_max_pool_with_indices(x, (2, 3))[1].ravel().tolist() == places
    with_indices = lambda x: jnp.sum(adaptive_max_pool_with_indices(x, (2, 3))[0])  # noqa: E731
    for f in (lambda x: jnp.sum(adaptive_max_pool(x, (2, 3))), with_indices):
        np.testing.assert_array_equal(jax.jit(jax.grad(f))(x).ravel(), want)


@pytest.mark.parametrize("how", UPSAMPLERS)
@pytest.mark.parametrize("factor, size", [(2, (7, 11)), (4, (13, 19))])
def test_upsampling_meets_every_size(how, factor, size):
    up = nn.Upsample(3, factor, how, types=RNGS)
    # Rounded up as by padded convolutions; 11 // 2 = 5 as by pooling.
    n = tuple(s // factor if s == 11 else -(-s // factor) for s in size)
    x, guide = normal(2, *n, 3), normal(2, *size, 3, seed=1)
    y, gradient = jax.jit(lambda x: (up(x, size, guide), jax.grad(lambda x: up(x, size, guide).sum())(x)))(x)
    assert y.shape == (2, *size, 3)
    if how in ("bilinear", "nearest", "unpool"):
        assert float(jnp.abs(gradient).min()) > 0  # every input reaches the output


def test_transposed_and_shuffled_upsampling_begin_as_interpolation():
    x = normal(1, 6, 6, 2)
    up = nn.Upsample(2, 2, "transposed", types=RNGS)
    np.testing.assert_allclose(
        up(x, (12, 12))[:, 2:-2, 2:-2], jc.resize(x, (12, 12))[:, 2:-2, 2:-2], rtol=1e-5, atol=1e-5
    )
    y = nn.Upsample(2, 2, "shuffle", types=RNGS)(x, (12, 12))
    np.testing.assert_array_equal(y[:, ::2, ::2], y[:, 1::2, 1::2])
    with pytest.raises(ValueError, match="upsampler='spline'"):
        nn.Upsample(2, 2, "spline", types=RNGS)
    with pytest.raises(ValueError, match="guide"):
        nn.Upsample(2, 2, "unpool", types=RNGS)(x, (12, 12))


def test_unpooling_puts_values_where_the_guide_has_its_maxima():
    guide = normal(1, 5, 6, 2)
    pooled, indices = jc.max_pool(guide, (2, 2), ceil_mode=True, return_indices=True)
    y = nn.Upsample(2, 2, "unpool", types=RNGS)(pooled, (5, 6), guide)
    np.testing.assert_array_equal(y, jc.max_unpool(pooled, indices, (5, 6)))


def test_aspp_is_its_branches():
    aspp = nn.ASPP(3, 4, (1, 2), kind="none", types=RNGS)
    x = normal(1, 6, 5, 3)

    @jax.jit
    def both(x):
        first, one, two, mean = aspp.convs
        conv = two.layers[0]
        atrous = jax.nn.relu(jc.conv(x, conv.kernel[...], padding=2, dilation=2) + conv.bias[...])
        parts = [first(x), one(x), atrous, jnp.broadcast_to(mean(x), (1, 6, 5, 4))]
        return aspp(x), aspp.project(jnp.concatenate(parts, -1))

    np.testing.assert_allclose(*both(x), rtol=1e-5, atol=1e-6)
    make = lambda: nn.ASPP(3, 4, (1, 2), separable=True, pooling=False, rank=1, types={"rngs": nnx.Rngs(0)})  # noqa: E731
    assert nnx.eval_shape(lambda x: make()(x), jax.ShapeDtypeStruct((2, 9, 3), jnp.float32)).shape == (2, 9, 4)


@pytest.mark.parametrize("kind", ["batch", "group", "instance", "layer", "none"])
def test_norms_by_name(kind):
    layer = nn.norm(kind, 6, **RNGS)
    x = 3 * normal(2, 5, 5, 6) + 1
    y = layer(x)
    axes = {"batch": (0, 1, 2), "instance": (1, 2), "layer": (3,)}.get(kind)
    if axes:
        np.testing.assert_allclose(jnp.mean(y, axes), 0, atol=1e-5)
    assert kind != "none" or y is x
    with pytest.raises(ValueError, match="norm='spectral'"):
        nn.norm("spectral", 6, **RNGS)


@pytest.mark.parametrize("k, s, d, pieces", [(2, 1, 4, (3, 1, 6)), (3, 2, 1, (4, 2, 4))])
def test_causal_convolution_in_pieces_is_the_whole(k, s, d, pieces):
    layer = nn.CausalConv(2, 4, k, stride=s, dilation=d, groups=2, **RNGS)
    x = normal(3, sum(pieces), 2)
    state, out, at = layer.start(x), [], 0
    for n in pieces:
        y, state = layer.step(x[:, at : at + n], state)
        out.append(y)
        at += n
    np.testing.assert_allclose(jnp.concatenate(out, 1), layer(x), rtol=1e-5, atol=1e-6)
    gradient = jax.jacobian(lambda x: layer(x[None])[0, 1].sum())(x[0])
    assert not np.any(gradient[s + 1 :]) and np.any(gradient[s])
    if s > 1:
        with pytest.raises(ValueError, match="multiple of the stride 2"):
            layer.step(x[:, :3], layer.start(x))


@pytest.mark.parametrize(
    "k, s, d, pieces", [(5, 2, 1, (3, 1, 6)), (2, 3, 1, (4, 1)), (3, 2, 3, (1, 1, 5)), (4, 4, 1, (2, 3))]
)
def test_causal_transposed_convolution_in_pieces_is_the_whole(k, s, d, pieces):
    layer = nn.CausalConvTranspose(2, 4, k, stride=s, dilation=d, groups=2, **RNGS)
    layer.bias[...] = normal(4, seed=5)
    x = normal(3, sum(pieces), 2)
    state, out, at = layer.start(x), [], 0
    for n in pieces:
        y, state = layer.step(x[:, at : at + n], state)
        out.append(y)
        at += n
    whole = layer(x)
    np.testing.assert_allclose(jnp.concatenate(out, 1), whole, rtol=1e-5, atol=1e-6)
    full = jc.conv_transpose(
        x,
        layer.kernel[...],
        stride=s,
        dilation=d,
        groups=2,
        output_size=max(s * (x.shape[1] - 1) + d * (k - 1) + 1, s * x.shape[1]),
    )
    np.testing.assert_allclose(whole, full[:, : s * x.shape[1]] + layer.bias[...], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_weight_norm_begins_as_the_layer_and_scales_with_its_length():
    for kind in (nn.Conv, nn.ConvTranspose):
        layer = kind(2, 3, (3,), rngs=nnx.Rngs(1))
        normed, x = nn.WeightNorm(layer), normal(1, 6, 2)
        before = layer(x)
        np.testing.assert_allclose(normed(x), before, rtol=1e-5, atol=1e-6)
        normed.scale[...] = 2 * normed.scale[...]
        np.testing.assert_allclose(normed(x), 2 * before, rtol=1e-5, atol=1e-5)
        grads = nnx.grad(lambda m, x: (m(x) ** 2).sum())(normed, x)
        v, g = layer.kernel[...], grads["layer"]["kernel"][...]
        # The loss does not depend on the length of v: its gradient is orthogonal to it.
        axes = tuple(range(v.ndim - 1))
        np.testing.assert_allclose(jnp.sum(v * g, axes), 0, atol=1e-3)


def test_adaptive_means_of_integers_are_exact_or_refused():
    """Weights below one, in integers, made every mean zero."""
    x = np.full((1, 6, 1), 200, np.uint8)
    assert adaptive_avg_pool(x, (3,)).ravel().tolist() == [200, 200, 200]
    with pytest.raises(TypeError, match="need floating-point data, got uint8"):
        adaptive_avg_pool(x, (4,))
