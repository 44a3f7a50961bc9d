"""Every kind of call around a layer is looked into, by everything that reads a jaxpr."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxconv as jc

W = jnp.asarray(np.random.default_rng(0).standard_normal((3, 3, 2, 2)), jnp.float32)
X = jnp.asarray(np.random.default_rng(1).standard_normal((1, 24, 24, 2)), jnp.float32)


def custom_jvp(layer):
    called = jax.custom_jvp(layer)
    called.defjvp(lambda primals, tangents: jax.jvp(layer, primals, tangents))
    return called


def custom_vjp(layer):
    called = jax.custom_vjp(layer)
    called.defvjp(lambda x: (layer(x), x), lambda x, g: jax.vjp(layer, x)[1](g))
    return called


def linear_call(layer):
    return lambda x: jax.custom_derivatives.linear_call(
        lambda _, v: layer(v), lambda _, g: jax.vjp(layer, X)[1](g)[0], jnp.zeros(()), x
    )


def shard_map(layer):
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("batch")
    return jax.shard_map(layer, mesh=mesh, in_specs=spec, out_specs=spec)


def closed_call(layer):
    from jax.extend.core.primitives import closed_call_p

    def call(x):
        params = closed_call_p.get_bind_params({"call_jaxpr": jax.make_jaxpr(layer)(x)})
        return closed_call_p.bind(x, **params)[0]

    return call


CALLS = {
    "jit": jax.jit,
    "remat": jax.checkpoint,
    "jit of remat": lambda layer: jax.jit(jax.checkpoint(layer)),
    "custom_jvp": custom_jvp,
    "custom_vjp": custom_vjp,
    "linear_call": linear_call,
    "shard_map": shard_map,
    "closed_call": closed_call,
}


def up(x):
    """An upsampling that is uneven, from 24 to 48 pixels."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, W, (1, 1), [(2, 1)] * 2, lhs_dilation=(2, 2), dimension_numbers=numbers)


@pytest.fixture(params=CALLS, scope="module")
def wrap(request):
    return CALLS[request.param]


def test_receptive_field_and_gridding_look_inside(wrap):
    inside, plain = (jc.analysis.receptive_field(fn, X, method="jaxpr") for fn in (wrap(up), up))
    assert (inside.size, inside.stride, inside.offset) == (plain.size, plain.stride, plain.offset)
    np.testing.assert_array_equal(inside.counts((20, 21)), plain.counts((20, 21)))
    found, expected = (jc.analysis.gridding(fn, X) for fn in (wrap(up), up))
    assert [(r.kind, r.kernel, r.base) for r in found.layers] == [(r.kind, r.kernel, r.base) for r in expected.layers]


def test_checkerboard_looks_inside(wrap):
    found, expected = (jc.analysis.checkerboard(fn, X, draws=1, fixes=False) for fn in (wrap(up), up))
    assert found.score == pytest.approx(expected.score) and found.counts == expected.counts > 0
    assert len(expected.layers) == 1
    if wrap is shard_map:
        return  # what one device computes inside is no array of the whole: its layers are not named
    assert [(r.name, r.taps, r.reason) for r in found.layers] == [(r.name, r.taps, r.reason) for r in expected.layers]


def test_visualise_looks_inside(wrap):
    if wrap is linear_call:
        pytest.skip("a ReLU is not linear")

    def net(x, rectify=lambda x: jnp.maximum(x, 0)):
        return rectify(up(rectify(jnp.tanh(x))))

    def wrapped(x):
        return net(x, wrap(lambda x: jnp.maximum(x, 0)))

    found, expected = (jc.analysis.visualise(fn, X, unit=(0, 20, 21, 1), method="deconvnet") for fn in (wrapped, net))
    np.testing.assert_allclose(found.image, expected.image, atol=1e-6)
    assert (len(found.relus), len(found.kept)) == (len(expected.relus), len(expected.kept)) == (2, 1)


def test_tiles_get_statistics_from_inside(wrap):
    if wrap is shard_map:
        pytest.skip("tiles are cut on one device")

    def centred(x):
        return x - x.mean(axis=(1, 2), keepdims=True)

    def net(x):
        return wrap(centred)(jc.conv(x, W, padding=1))

    image = jnp.tile(X, (1, 4, 4, 1))
    tiled = jc.analysis.tiled(net, 48, statistics=True)
    np.testing.assert_allclose(tiled(image), net(image), atol=2e-5)


def test_accelerate_looks_inside(wrap):
    (row,) = jc.accelerate.report(wrap(up), X)
    assert row.face == "adjoint"
    np.testing.assert_allclose(jc.accelerate(wrap(up))(X), up(X), atol=2e-5)
