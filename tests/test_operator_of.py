"""`ConvOperator.of(layer)`: the operator whose settings are typed by hand, and what the layer computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")
from flax import linen, nnx

import jaxconv as jc
from jaxconv import nn

RNGS = nnx.Rngs(0)


def hold(layer, call, size, w, transposed=False, **settings):
    A = jc.ConvOperator.of(layer, size)
    if transposed:
        hand = jc.ConvOperator(w, settings.pop("hand_size"), **settings).T
    else:
        hand = jc.ConvOperator(w, size, **settings)
    assert (A.in_shape, A.out_shape) == (hand.in_shape, hand.out_shape)
    x = jax.random.normal(jax.random.key(1), A.in_shape)
    np.testing.assert_array_equal(A.mv(x), hand.mv(x))
    np.testing.assert_allclose(A.mv(x), call(x) - call(jnp.zeros_like(x)), atol=1e-5)


def batched(layer):
    return lambda x: layer(x[None])[0]


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ({"stride": 2, "padding": 1}, {"stride": 2, "padding": 1}),
        ({"dilation": 2, "padding": "SAME", "groups": 2}, {"dilation": 2, "padding": "SAME", "groups": 2}),
        ({"padding": 1, "padding_mode": "circular"}, {"padding": 1, "padding_mode": "circular"}),
    ],
)
def test_layers_of_jaxconv(arguments, settings):
    layer = nn.Conv(4, 6, (3, 3), **arguments, rngs=RNGS)
    layer.bias[...] = jnp.arange(6.0)
    hold(layer, batched(layer), (7, 6), layer.kernel[...], **settings)


@pytest.mark.parametrize(("output_padding", "size"), [(None, (9, 7)), (1, (10, 8))])
def test_transposed_layers_of_jaxconv(output_padding, size):
    layer = nn.ConvTranspose(4, 6, (3, 3), stride=2, padding=1, output_padding=output_padding, rngs=RNGS)
    layer.bias[...] = jnp.arange(6.0)
    settings = {"stride": 2, "padding": 1, "hand_size": size}
    hold(layer, batched(layer), (5, 4), layer.kernel[...], transposed=True, **settings)


FLAX = [
    ({"strides": 2}, {"stride": 2, "padding": "SAME"}),
    ({"kernel_dilation": 2, "padding": "VALID"}, {"dilation": 2, "padding": "VALID"}),
    ({"feature_group_count": 2, "padding": ((1, 0), (0, 2))}, {"groups": 2, "padding": ((1, 0), (0, 2))}),
    ({"padding": "CIRCULAR"}, {"padding": ((1, 1), (0, 1)), "padding_mode": "circular"}),
    ({"padding": "REFLECT"}, {"padding": ((1, 1), (0, 1)), "padding_mode": "reflect"}),
]


@pytest.mark.parametrize(("arguments", "settings"), FLAX)
def test_layers_of_flax(arguments, settings):
    layer = nnx.Conv(4, 6, (3, 2), **arguments, rngs=RNGS)
    layer.bias[...] = jnp.arange(6.0)
    hold(layer, batched(layer), (8, 6), layer.kernel[...], **settings)
    old = linen.Conv(6, (3, 2), **arguments)
    variables = old.init(jax.random.key(0), jnp.ones((1, 8, 6, 4)))
    bound = old.bind(variables)
    hold(bound, batched(bound), (8, 6), variables["params"]["kernel"], **settings)


def test_layers_of_equinox():
    eqx = pytest.importorskip("equinox")
    for arguments, settings in (
        ({"stride": 2, "padding": 1}, {"stride": 2, "padding": 1}),
        ({"padding": "SAME", "dilation": 2, "groups": 2}, {"padding": "SAME", "dilation": 2, "groups": 2}),
        ({"padding": 1, "padding_mode": "CIRCULAR"}, {"padding": 1, "padding_mode": "circular"}),
    ):
        layer = eqx.nn.Conv2d(4, 6, 3, **arguments, key=jax.random.key(0))

        def call(x, layer=layer):
            return jnp.moveaxis(layer(jnp.moveaxis(x, -1, 0)), 0, -1)

        hold(layer, call, (7, 6), layer.weight.transpose(2, 3, 1, 0), **settings)


FLAX_TRANSPOSES = [
    {"strides": (2, 3)},
    {"strides": 2, "padding": "VALID", "transpose_kernel": True, "kernel_dilation": 2},
    {"strides": 3, "padding": ((1, 0), (2, 1))},
    {"strides": (2, 2), "padding": "CIRCULAR"},
    {"strides": (3, 1), "padding": "CIRCULAR", "transpose_kernel": True},
]


def hold_transpose(layer, call, size):
    A = jc.ConvOperator.of(layer, size)
    x, z = (jax.random.normal(jax.random.key(1), shape) for shape in (A.in_shape, A.out_shape))
    made, back, y, still = jax.jit(lambda x, z: (A.mv(x), A.T.mv(z), call(x), call(jnp.zeros_like(x))))(x, z)
    assert A.out_shape == y.shape
    np.testing.assert_allclose(made, y - still, atol=1e-5)
    np.testing.assert_allclose(jnp.vdot(z, made), jnp.vdot(back, x), rtol=1e-4)  # its transpose is a convolution


@pytest.mark.parametrize("arguments", FLAX_TRANSPOSES, ids=str)
def test_transposed_layers_of_flax(arguments):
    layer = nnx.ConvTranspose(4, 6, (4, 1), **arguments, rngs=RNGS)
    layer.bias[...] = jnp.arange(6.0)
    hold_transpose(layer, batched(layer), (5, 4))


def test_transposed_layers_of_linen():
    layer = linen.ConvTranspose(6, (2, 3), strides=(3, 2), padding="CIRCULAR")
    bound = layer.bind(layer.init(jax.random.key(0), jnp.ones((1, 5, 4, 4))))
    hold_transpose(bound, batched(bound), (5, 4))


def test_transposed_layers_of_equinox():
    eqx = pytest.importorskip("equinox")
    for kernel, arguments in (
        (3, {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
        (4, {"stride": 3, "padding": "SAME", "output_padding": 1}),
        (2, {"stride": 3, "padding": "SAME_LOWER"}),
        (4, {"stride": 2, "padding": ((1, 0), (0, 2)), "dilation": 2}),
        (2, {"stride": 3, "padding": "SAME", "padding_mode": "CIRCULAR"}),
    ):
        layer = eqx.nn.ConvTranspose2d(4, 6, kernel, **arguments, key=jax.random.key(0))

        def call(x, layer=layer):
            return jnp.moveaxis(layer(jnp.moveaxis(x, -1, 0)), 0, -1)

        hold_transpose(layer, call, (5, 4))


def test_refusals_say_what_to_do():
    with pytest.raises(TypeError, match="Linear is not a layer whose settings are known: .* give the kernel and its"):
        jc.ConvOperator.of(nnx.Linear(2, 3, rngs=RNGS), 8)
    with pytest.raises(TypeError, match="ConvLocal is not a layer whose settings are known"):
        jc.ConvOperator.of(linen.ConvLocal(2, (3,)), 8)
    with pytest.raises(ValueError, match="padding='CAUSAL' is not 'SAME', 'VALID'"):
        jc.ConvOperator.of(nnx.ConvTranspose(2, 3, (3,), padding="CAUSAL", rngs=RNGS), 8)
    with pytest.raises(ValueError, match=r"bind it, layer.bind\(variables\)"):
        jc.ConvOperator.of(linen.ConvTranspose(2, (3,)), 8)
    with pytest.raises(ValueError, match=r"bind it, layer.bind\(variables\)"):
        jc.ConvOperator.of(linen.Conv(2, (3,)), 8)
    with pytest.raises(ValueError, match="input_dilation=2 is not 1"):
        jc.ConvOperator.of(nnx.Conv(2, 3, (3,), input_dilation=2, rngs=RNGS), 8)
