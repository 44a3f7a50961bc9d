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


def test_refusals_say_what_to_do():
    with pytest.raises(TypeError, match="ConvTranspose is not a layer whose settings are known: .* give the ker"):
        jc.ConvOperator.of(nnx.ConvTranspose(2, 3, (3,), rngs=RNGS), 8)
    with pytest.raises(ValueError, match=r"bind it, layer.bind\(variables\)"):
        jc.ConvOperator.of(linen.Conv(2, (3,)), 8)
    with pytest.raises(ValueError, match="input_dilation=2 is not 1"):
        jc.ConvOperator.of(nnx.Conv(2, 3, (3,), input_dilation=2, rngs=RNGS), 8)
