"""U-Net and ENet: shapes, odd sizes, refusals, evaluation mode, and that their settings make them again."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxconv.models import FSRCNN, ENet, UNet
from jaxconv.resampling import pooling


def filled(make, seed=3):
    """A model with NumPy's random numbers for parameters: drawing them in jax would compile once per shape."""
    rng = np.random.default_rng(seed)
    model = nnx.eval_shape(make)
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        shape, fan_in = variable.get_value().shape, max(np.prod(variable.get_value().shape[:-1]), 1)
        if isinstance(variable, nnx.RngState):
            continue
        value = rng.normal(size=shape) / np.sqrt(fan_in) if path[-1] == "kernel" else rng.uniform(0.5, 1.5, size=shape)
        variable.set_value(jnp.asarray(value, variable.get_value().dtype))
    return model


def shape_of(model, *shape):
    return nnx.eval_shape(lambda m, x: m(x), model, jax.ShapeDtypeStruct(shape, jnp.float32)).shape


def make_unet(**kwargs):
    return nnx.eval_shape(lambda: UNet(2, 5, rngs=nnx.Rngs(0), **kwargs))


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (15, 10), (31, 17)])
def test_unet_restores_every_size(size):
    model = make_unet(widths=(2, 4, 4, 4))
    model.eval()
    assert shape_of(model, 1, *size, 2) == (1, *size, 5)


def test_unet_in_other_ranks_and_without_batch_axis():
    for rank, size in ((1, (13,)), (3, (5, 6, 7))):
        model = make_unet(widths=(2, 3, 4), rank=rank)
        model.eval()
        assert shape_of(model, 2, *size, 2) == (2, *size, 5)
    model = make_unet(widths=(3,))
    model.eval()
    assert shape_of(model, 1, 1, 2) == (1, 1, 5)


def test_unet_computes_what_its_parts_say():
    model = filled(lambda: UNet(2, 3, widths=(2, 4), rngs=nnx.Rngs(0)))
    model.eval()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 7, 6, 2)), jnp.float32)

    def by_hand(m, x):
        fine = m.encoder[0](x)
        coarse = m.encoder[1](pooling.max_pool(fine, (2, 2)))
        up = m.ups[0](coarse, output_size=(7, 6))
        return m.head(m.decoder[0](jnp.concatenate([fine, up], axis=-1)))

    both = nnx.jit(lambda m, x: (m(x), by_hand(m, x)))(model, x)
    np.testing.assert_array_equal(*both)
    assert float(jnp.ptp(both[0])) > 0.1


def test_unet_trains_and_its_statistics_move():
    model = filled(lambda: UNet(1, 2, widths=(2, 4), rngs=nnx.Rngs(0)))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 5, 1)), jnp.float32)
    model.train()

    @nnx.jit
    def loss_and_gradients(model, x):
        return nnx.value_and_grad(lambda m: (m(x) ** 2).mean())(model)

    before = model.encoder[0].layers[0].norm.mean[...]
    loss, grads = loss_and_gradients(model, x)
    assert np.isfinite(loss)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))
    after = model.encoder[0].layers[0].norm.mean[...]
    assert float(jnp.abs(after - before).max()) > 0
    model.eval()
    evaluate = nnx.jit(lambda m, x: m(x))
    first = evaluate(model, x)
    np.testing.assert_array_equal(model.encoder[0].layers[0].norm.mean[...], after)
    np.testing.assert_allclose(evaluate(model, x[:1]), first[:1], rtol=1e-4, atol=1e-5)


def test_unet_without_batch_norm_has_biases_instead():
    plain, normed = make_unet(widths=(2, 4), batch_norm=False), make_unet(widths=(2, 4))
    assert plain.encoder[0].layers[0].conv.bias is not None and plain.encoder[0].layers[0].norm is None
    assert normed.encoder[0].layers[0].conv.bias is None
    assert not nnx.state(plain, nnx.BatchStat)


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"widths": ()}, "widths"),
        ({"widths": (4, 0)}, "widths=0"),
        ({"rank": 0}, "rank=0"),
    ],
)
def test_unet_refuses(kwargs, words):
    with pytest.raises(ValueError, match=words):
        make_unet(**kwargs)


def test_unet_refuses_images_below_its_levels():
    model = make_unet(widths=(2, 2, 2))
    model.eval()
    with pytest.raises(ValueError, match=r"\(1, 3, 8, 2\).*3 levels.*at least 4"):
        shape_of(model, 1, 3, 8, 2)


def test_a_model_of_other_settings_is_made_again_from_json():  # all models: test_models_zoo.py
    kwargs = {"in_channels": 2, "classes": 3, "widths": (2, 4), "rank": 1, "batch_norm": False, "dtype": "bfloat16"}
    model = nnx.eval_shape(lambda: UNet(**kwargs, rngs=nnx.Rngs(0)))
    config = json.loads(json.dumps(model.config))
    again = nnx.eval_shape(lambda: UNet(**config, rngs=nnx.Rngs(0)))
    assert again.config == config
    shapes = [jax.tree.map(lambda a: (a.shape, str(a.dtype)), nnx.to_pure_dict(nnx.state(m))) for m in (model, again)]
    assert shapes[0] == shapes[1]


@pytest.fixture(scope="module")
def enet():
    model = nnx.eval_shape(lambda: ENet(12, rngs=nnx.Rngs(0)))
    model.eval()
    return model


def test_enet_has_the_published_number_of_parameters_and_sizes(enet):
    model = enet
    assert sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param))) == 359_780
    for size in ((16, 24), (15, 23), (8, 7)):
        assert shape_of(model, 1, *size, 3) == (1, *size, 12)
    with pytest.raises(ValueError, match=r"\(1, 16, 20, 3\).*multiple of 8"):
        shape_of(model, 1, 16, 20, 3)
    with pytest.raises(ValueError, match="classes=0"):
        ENet(0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="in_channels=16"):
        ENet(2, in_channels=16, rngs=nnx.Rngs(0))


def test_enet_dilations_follow_the_published_schedule(enet):
    model = enet
    rates = {name: getattr(model, name).ext_conv2.layers[0].dilation for name in (*model.second, *model.third)}
    assert [rate[0] for rate in rates.values()] == [1, 2, 1, 4, 1, 8, 1, 16] * 2
    assert model.second[0] == "regular2_1" and model.third[0] == "regular3_0" and model.third[-1] == "dilated3_7"


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_fsrcnn_multiplies_every_size(scale):
    model = nnx.eval_shape(lambda: FSRCNN(scale, features=4, shrunk=2, maps=1, rngs=nnx.Rngs(0)))
    assert shape_of(model, 2, 5, 7, 3) == (2, 5 * scale, 7 * scale, 3)
    with pytest.raises(ValueError, match="maps=0"):
        FSRCNN(scale, maps=0, rngs=nnx.Rngs(0))
