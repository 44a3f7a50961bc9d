"""The layers hold parameters and pass everything down: each is its operation plus a bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxconv as jc
from jaxconv import nn
from jaxconv.nn import linen

# (in, out, x's shape, settings)
CONVS = [
    (4, 6, (2, 9, 8, 4), dict(kernel_size=(3, 3), stride=(2, 1), padding="SAME", dilation=(1, 2), groups=2)),
    (3, 5, (2, 7, 3), dict(kernel_size=(4,), padding=((1, 2),), padding_mode="circular", use_bias=False)),
]
TRANSPOSES = [
    (4, 6, (2, 5, 4, 4), dict(kernel_size=(3, 3), stride=2, padding=1, groups=2), {"output_size": (10, 7)}),
    (3, 5, (7, 3), dict(kernel_size=(4,), stride=2, padding=1, padding_mode="circular", output_padding=1), {}),
]


def rngs(seed=0):
    # The hardware-friendly generator compiles faster than threefry; what is drawn does not matter here.
    return nnx.Rngs(jax.random.key(seed, impl="rbg"))


def noise(shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def with_bias(layer):
    if layer.bias is not None:
        layer.bias.set_value(noise(layer.bias.shape, 2))
    return layer


def op_keywords(settings):
    return {k: v for k, v in settings.items() if k not in ("kernel_size", "use_bias", "output_padding")}


@pytest.mark.parametrize("into, out, shape, settings", CONVS)
def test_conv_is_the_operation_plus_bias(into, out, shape, settings):
    layer = with_bias(nn.Conv(into, out, **settings, rngs=rngs()))
    groups = settings.get("groups", 1)
    assert layer.kernel.shape == (*settings["kernel_size"], into // groups, out)
    assert (layer.bias is None) == (not settings.get("use_bias", True))
    x = noise(shape)
    expected = jc.conv(x, layer.kernel[...], **op_keywords(settings))
    if layer.bias is not None:
        expected = expected + layer.bias[...]
    np.testing.assert_array_equal(layer(x), expected)


@pytest.mark.parametrize("into, out, shape, settings, call", TRANSPOSES)
def test_conv_transpose_is_the_operation_plus_bias(into, out, shape, settings, call):
    layer = with_bias(nn.ConvTranspose(into, out, **settings, rngs=rngs()))
    assert layer.kernel.shape == (*settings["kernel_size"], out // settings.get("groups", 1), into)
    x = noise(shape)
    sizes = call or {"output_padding": settings.get("output_padding")}
    expected = jc.conv_transpose(x, layer.kernel[...], **op_keywords(settings), **sizes) + layer.bias[...]
    np.testing.assert_array_equal(layer(x, **call), expected)


def test_linen_layers_agree_with_nnx():
    into, out, shape, settings = CONVS[0]
    mine = with_bias(nn.Conv(into, out, **settings, rngs=rngs()))
    layer, x = linen.Conv(out, **settings), noise(shape)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    assert shapes["kernel"].shape == mine.kernel.shape and shapes["bias"].shape == mine.bias.shape
    params = {"params": {"kernel": mine.kernel[...], "bias": mine.bias[...]}}
    np.testing.assert_array_equal(layer.apply(params, x), mine(x))

    into, out, shape, settings, call = TRANSPOSES[0]
    mine = with_bias(nn.ConvTranspose(into, out, **settings, rngs=rngs()))
    layer, x = linen.ConvTranspose(out, **settings), noise(shape)
    assert jax.eval_shape(layer.init, jax.random.key(0), x)["params"]["kernel"].shape == mine.kernel.shape
    params = {"params": {"kernel": mine.kernel[...], "bias": mine.bias[...]}}
    np.testing.assert_array_equal(layer.apply(params, x, **call), mine(x, **call))


def test_gradients_reach_every_parameter():
    layer = with_bias(nn.ConvTranspose(4, 4, (3, 3), stride=2, padding=1, groups=2, rngs=rngs()))
    x = noise((2, 5, 4, 4))
    grads = nnx.grad(lambda layer: (layer(x, output_size=(10, 7)) ** 2).sum())(layer)
    y = layer(x, output_size=(10, 7))
    kernel = jc.conv_kernel(2 * y, x, (3, 3), stride=2, padding=1, groups=2)  # the third face is the kernel's gradient
    np.testing.assert_allclose(grads["kernel"][...], kernel, rtol=2e-5, atol=2e-4)
    np.testing.assert_allclose(grads["bias"][...], 2 * y.sum((0, 1, 2)), rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("layer", [nn.Conv, nn.ConvTranspose])
def test_dtypes_follow_flax(layer):
    x = noise((1, 6, 5, 4))
    make = lambda **types: nnx.eval_shape(lambda: layer(4, 4, (3, 3), rngs=nnx.Rngs(0), **types))  # noqa: E731
    out = lambda model, x: nnx.eval_shape(lambda m, x: m(x), model, x).dtype  # noqa: E731
    peer = nnx.eval_shape(lambda: nnx.Conv(4, 4, (3, 3), param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    mine = make(param_dtype=jnp.bfloat16)
    assert mine.kernel.dtype == peer.kernel.dtype == jnp.bfloat16
    assert out(mine, x) == out(peer, x) == jnp.float32
    assert out(make(dtype=jnp.bfloat16), x) == jnp.bfloat16
    assert out(make(dtype=jnp.bfloat16), x.astype(jnp.float16)) == jnp.bfloat16
    assert out(make(), jnp.ones((1, 6, 5, 4), jnp.uint8)) == jnp.float32  # integers compute in the parameters' type


@pytest.mark.parametrize("stride, groups", [(1, 1), (2, 1), (2, 4)])
def test_initial_kernels_keep_the_variance(stride, groups):
    x = noise((2, 20, 20, 64))
    for layer in (nn.Conv, nn.ConvTranspose):
        model = layer(64, 64, (4, 4), stride=stride, groups=groups, use_bias=False, rngs=rngs())
        y = np.asarray(jax.jit(lambda k, x, m=model: getattr(jc, _op(m))(x, k, stride=stride, groups=groups))(
            model.kernel[...], x
        ))[:, 4:-4, 4:-4]  # fmt: skip
        assert 0.85 < y.std() < 1.15, (layer.__name__, stride, groups, float(y.std()))


def _op(layer):
    return "conv" if type(layer) is nn.Conv else "conv_transpose"


@pytest.mark.parametrize(
    "settings, error, words",
    [
        (dict(kernel_size=3), TypeError, ["kernel_size=3", "1-D", "height", "(3, 3)"]),
        (dict(kernel_size=(3, 3), groups=3), ValueError, ["groups=3", "in_features=4"]),
        (dict(kernel_size=(3, 0)), ValueError, ["kernel_size", "(3, 0)", "at least 1"]),
        (dict(kernel_size=(3, 3), stride=(1, 2, 3)), ValueError, ["stride=(1, 2, 3)", "2 spatial axes"]),
        (dict(kernel_size=(3, 3), padding="FULL"), ValueError, ["'FULL'", "'SAME'"]),
        (dict(kernel_size=(3, 3), padding_mode="mirror"), ValueError, ["'mirror'", "'reflect'"]),
        (dict(kernel_size=(3, 3), dilation=1.5), TypeError, ["dilation=1.5", "integer"]),
    ],
)
@pytest.mark.parametrize("layer", [nn.Conv, nn.ConvTranspose])
def test_refusals_name_the_values(layer, settings, error, words):
    with pytest.raises(error) as caught:
        layer(4, 6, **settings, rngs=rngs())
    for word in words:
        assert word in str(caught.value), str(caught.value)
    linen_layer = linen.Conv if layer is nn.Conv else linen.ConvTranspose
    with pytest.raises(error):
        linen_layer(6, **settings).init(jax.random.key(0), jnp.ones((1, 5, 5, 4)))


def test_sizes_out_of_reach_name_the_legal_ones():
    layer = nnx.eval_shape(lambda: nn.ConvTranspose(4, 4, (3, 3), stride=2, padding=1, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"\(9, 12\) is not reachable.*7\.\.8"):
        nnx.eval_shape(lambda m, x: m(x, output_size=(9, 12)), layer, jnp.ones((1, 4, 6, 4)))
    with pytest.raises(ValueError, match="3 channels"):
        nnx.eval_shape(lambda m, x: m(x), layer, jnp.ones((1, 4, 6, 3)))
    with pytest.raises(ValueError, match="output_padding=-1"):
        nn.ConvTranspose(4, 4, (3, 3), output_padding=-1, rngs=rngs())


def test_pooling_layers_pass_their_settings_down():
    x = noise((2, 7, 6, 3))
    y, indices = nn.MaxPool((3, 3), stride=2, padding=1, return_indices=True)(x)
    expected = jc.max_pool(x, (3, 3), stride=2, padding=1, return_indices=True)
    np.testing.assert_array_equal(y, expected[0])
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_array_equal(nn.MaxUnpool()(y, indices, (7, 6)), jc.max_unpool(y, indices, (7, 6)))
    average = nn.AvgPool((2, 2), padding=1, count_include_pad=False)(x)
    np.testing.assert_array_equal(average, jc.avg_pool(x, (2, 2), padding=1, count_include_pad=False))
    with pytest.raises(TypeError, match="window=2"):
        nn.MaxPool(2)


def test_prelu_has_one_slope_or_one_for_each_channel():
    x = noise((2, 3, 4))
    assert nn.PReLU()(x).shape == x.shape
    layer = nn.PReLU(4)
    layer.slope.set_value(jnp.array([0.0, 0.5, 1.0, -1.0]))
    np.testing.assert_allclose(layer(x), np.where(x >= 0, x, x * np.array([0.0, 0.5, 1.0, -1.0])))
    with pytest.raises(ValueError, match="4 slopes, but x has 3 channels"):
        layer(x[..., :3])


def test_batch_norm_counts_momentum_as_pytorch_does():
    layer, x = nn.batch_norm(3, momentum=0.25, rngs=rngs()), 5 + 2 * noise((4, 6, 3))
    layer(x)
    np.testing.assert_allclose(layer.mean[...], 0.25 * x.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(layer.var[...], 0.75 + 0.25 * x.var((0, 1)), rtol=1e-4)


def test_a_layer_jits_vmaps_and_splits():
    layer = with_bias(nn.Conv(3, 4, (3, 3), padding=((1, 1), (0, 2)), rngs=rngs()))
    graph, state = nnx.split(layer)
    hash(graph)
    x = noise((3, 2, 6, 5, 3))
    y = jax.jit(jax.vmap(lambda x: nnx.merge(graph, state)(x)))(x)
    np.testing.assert_allclose(y, layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [nn.Conv, nn.ConvTranspose])
@pytest.mark.parametrize(
    "change", [{"stride": 2}, {"dilation": (2, 2), "padding": 2}, {"padding": "SAME"}, {"padding_mode": "circular"}]
)
def test_settings_changed_after_construction_are_honoured(kind, change):
    """As in the surgery that turns a backbone's strides into dilations."""
    changed = kind(4, 4, (3, 3), padding=1, rngs=nnx.Rngs(0))
    for name, value in change.items():
        setattr(changed, name, value)
    made = kind(4, 4, (3, 3), **{"padding": 1, **change}, rngs=nnx.Rngs(0))
    made.kernel = changed.kernel  # its initial size depends on the stride
    x = jax.random.normal(jax.random.key(1), (1, 8, 9, 4))
    np.testing.assert_allclose(changed(x), made(x), rtol=1e-6)


def test_settings_changed_out_of_range_are_refused_at_the_call():
    layer = nn.Conv(4, 6, (3, 3), rngs=nnx.Rngs(0))
    x = jnp.ones((1, 8, 8, 4))
    for name, value, message in (("stride", 0, "stride=0"), ("groups", 2, "groups=2"), ("padding_mode", "x", "'x'")):
        before = getattr(layer, name)
        setattr(layer, name, value)
        with pytest.raises(ValueError, match=message):
            layer(x)
        setattr(layer, name, before)


def test_running_statistics_are_set_whole_in_part_and_under_a_trace():
    layer = nn.batch_norm(3, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(2, 3, (4, 5, 3)), jnp.float32)
    plain = nnx.BatchNorm(3, momentum=0.9, rngs=nnx.Rngs(0))
    for norm in (layer, plain):
        nnx.jit(lambda norm, x: norm(x))(norm, x)
        norm(x)
    np.testing.assert_allclose(layer.mean[...], plain.mean[...], rtol=1e-6)
    np.testing.assert_allclose(layer.var[...], plain.var[...], rtol=1e-6)
    assert set(nnx.to_pure_dict(nnx.state(layer, nnx.BatchStat))) == {"mean", "var"}
    layer.mean[0] = 7.0
    layer.var[...] = 2.0  # fills, and keeps shape and type
    assert layer.mean[0] == 7 and layer.var.shape == (3,) and layer.var.dtype == jnp.float32 and layer.var[2] == 2
