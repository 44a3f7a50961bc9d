"""The library's networks at real widths against width-one, all-ones networks written by hand; Flax modules as such."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxconv as jc
from jaxconv.analysis import receptive_field

nnx = pytest.importorskip("flax.nnx")


def conv(x, k, stride=1, pads=((0, 0), (0, 0)), rate=1, base=1):
    """All-ones convolution of width one."""
    w = jnp.ones((*k, x.shape[-1], 1))
    return lax.conv_general_dilated(
        x, w, (stride,) * 2, pads, (base,) * 2, (rate,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def same(x, k=3, rate=1, stride=1):
    p = rate * (k // 2)
    return conv(x, (k, k), stride, ((p, p), (p, p)), rate)


def pool(x, k, stride, pad):
    return lax.reduce_window(
        x, 0.0, lax.add, (1, k, k, 1), (1, stride, stride, 1), ((0, 0), (pad, pad), (pad, pad), (0, 0))
    )


def transposed(x, k, pads):
    return conv(x, (k, k), 1, (pads, pads), base=2)


def plain_enet(x):
    """ENet of width one: convolutions, pooling and unpooling as sums over their windows, everything else left out."""

    def down(x):
        return pool(x, 3, 2, 1) + same(conv(x, (2, 2), 2))

    def asymmetric(x):
        return x + conv(conv(x, (5, 1), pads=((2, 2), (0, 0))), (1, 5), pads=((0, 0), (2, 2)))

    def up(x):
        # Unpooling: a value may land anywhere in its 3x3 window at stride 2; beside it the transposed 3x3.
        return transposed(x, 3, (1, 2)) * 2

    x = jnp.concatenate([same(x, stride=2), pool(x, 3, 2, 1)], axis=-1)
    first = pool(x, 3, 2, 1) + same(conv(x, (2, 2), 2))
    # The pooled branch keeps both channels of the concatenation apart; a later contraction adds them up.
    x = first.sum(-1, keepdims=True) - (first.shape[-1] - 1) * same(conv(x, (2, 2), 2))
    for _ in range(4):
        x = x + same(x)
    x = down(x)
    for kind in (1, 2, "a", 4, 1, 8, "a", 16) * 2:
        x = asymmetric(x) if kind == "a" else x + same(x, rate=kind)
    x = up(x)
    x = x + same(x)
    x = x + same(x)
    x = up(x)
    x = x + same(x)
    return transposed(x, 3, (1, 2))


def judged(fn, size, index):
    x = jnp.ones((1, *size, 1))
    y, pull = jax.vjp(jax.jit(fn), x)
    hot = jnp.zeros_like(y).at[0, index[0], index[1], 0].set(1.0)
    return np.asarray(jax.jit(pull)(hot)[0])[0, :, :, 0]


@pytest.mark.slow
def test_enet_without_rewriting_it(x64):
    from jaxconv.models import ENet

    size = (64, 48)
    model = nnx.eval_shape(lambda: ENet(12, rngs=nnx.Rngs(0)))  # shapes are enough
    model.eval()
    field = receptive_field(model, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32), method="jaxpr")
    assert field.output_size == size and field.global_ops == ()
    for index in ((0, 0), (31, 24), (40, 47)):
        expected = judged(plain_enet, size, index)
        np.testing.assert_allclose(field.counts(index), expected, rtol=1e-12, err_msg=str(index))
    assert isinstance(field.counts((31, 24), exact=True).max(), int)


def plain_unet(x, depth):
    skips = []
    for _ in range(depth):
        x = same(same(x))
        skips.append(x)
        x = pool(x, 2, 2, 0)
    x = same(same(x))
    for skip in reversed(skips):
        up = transposed(x, 2, (1, 1))
        x = same(same(jnp.concatenate([skip, up], axis=-1)))
    return x


def test_unet_without_rewriting_it(x64):
    from jaxconv.models import UNet

    size = (48, 40)
    model = nnx.eval_shape(lambda: UNet(3, 5, rngs=nnx.Rngs(0)))
    model.eval()
    field = receptive_field(model, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32), method="jaxpr")
    for index in ((0, 0), (20, 21), (47, 3)):
        np.testing.assert_array_equal(
            field.counts(index), judged(lambda x: plain_unet(x, 3), size, index), err_msg=str(index)
        )


def test_training_mode_of_batch_norm_is_global():
    class Small(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)

        def __call__(self, x):
            return nnx.relu(self.norm(self.conv(x)))

    model = Small(nnx.Rngs(0))
    field = receptive_field(model, jnp.ones((2, 9, 9, 3)))
    assert field.size == (3, 3) and field.global_ops and field.mask((4, 4)).sum() == 9
    model.eval()
    assert receptive_field(model, jnp.ones((2, 9, 9, 3))).global_ops == ()


def test_linen_closures():
    linen = pytest.importorskip("flax.linen")
    model = linen.Sequential([linen.Conv(4, (3, 3)), linen.GroupNorm(2), linen.Conv(2, (3, 3), strides=2)])
    image = jax.ShapeDtypeStruct((1, 12, 12, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), image)
    field = receptive_field(lambda x, p: model.apply(p, x), image, params)
    assert field.size == (5, 5) and field.stride == (2, 2)
    assert field.global_ops and "layers_1" in field.global_ops[0].place


def deeplab(x, width):
    """ResNet-50 at stride 8 with dilated last stages, ASPP without image pooling, bilinear resize to the image."""
    real = width > 1

    def layer(x, out, k=3, stride=1, rate=1):
        w = jnp.ones((k, k, x.shape[-1], out if real else 1))
        p = rate * (k // 2)
        y = lax.conv_general_dilated(
            x, w, (stride,) * 2, [(p, p)] * 2, (1, 1), (rate,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.relu(y * 2 - 1) if real else y

    size = x.shape[1:3]
    x = layer(x, 64, 7, stride=2)
    x = (
        pool(x, 3, 2, 1)
        if not real
        else lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    )
    for out, blocks, stride, rate in ((256, 3, 1, 1), (512, 4, 2, 1), (1024, 6, 1, 2), (2048, 3, 1, 4)):
        for block in range(blocks):
            s = stride if block == 0 else 1
            skip = layer(x, out, 1, stride=s) if block == 0 else x
            x = skip + layer(layer(layer(x, out // 4, 1), out // 4, 3, stride=s, rate=rate), out, 1)
    x = jnp.concatenate([layer(x, 256, 1), *(layer(x, 256, 3, rate=r) for r in (6, 12, 18))], axis=-1)
    x = layer(layer(x, 256, 1), 21, 1)
    if real:
        return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "bilinear")
    for axis, n in enumerate(size, 1):
        support = (jax.image.resize(jnp.eye(x.shape[axis]), (n, x.shape[axis]), "linear") != 0).astype(x.dtype)
        x = jnp.moveaxis(jnp.tensordot(support, x, axes=[[1], [axis]]), 0, axis)
    return x


@pytest.mark.slow
def test_a_deeplab_at_real_widths(x64):
    size = (96, 80)
    field = receptive_field(lambda x: deeplab(x, 64), jax.ShapeDtypeStruct((1, *size, 3), jnp.float64), method="jaxpr")
    for index in ((48, 40), (0, 79)):
        expected = judged(lambda x: deeplab(x, 1), size, index)
        np.testing.assert_allclose(field.counts(index), expected, rtol=1e-12, err_msg=str(index))


@pytest.mark.slow
def test_equinox_modules():
    eqx = pytest.importorskip("equinox")
    keys = jax.random.split(jax.random.key(0), 2)
    model = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(3, 4, 3, padding=1, key=keys[0]),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.ConvTranspose2d(4, 2, 4, stride=2, padding=1, key=keys[1]),
        ]
    )
    field = receptive_field(model, jax.ShapeDtypeStruct((3, 12, 16), jnp.float32), spatial_axes=(1, 2))
    assert field.output_size == (12, 16) and field.size == (6, 6) and field.box((5, 5)) == (slice(3, 9), slice(3, 9))


def test_layers_of_nnx_modules_carry_their_path():
    from jaxconv.analysis import checkerboard, gridding
    from jaxconv.models import UNet

    model = UNet(3, 2, widths=(4, 8), rngs=nnx.Rngs(0))
    model.eval()
    kind = type(model.encoder[0])
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    places = [layer.place for layer in gridding(model, image).layers]
    assert places == [
        *(f"encoder/0/layers/{i}/conv" for i in (0, 1)), "pool", *(f"encoder/1/layers/{i}/conv" for i in (0, 1)),
        "ups/0", *(f"decoder/0/layers/{i}/conv" for i in (0, 1)), "head",
    ]  # fmt: skip
    assert [layer.place for layer in checkerboard(model, image, fixes=False).layers] == ["ups/0"]
    assert type(model.encoder[0]) is kind and "named" not in kind.__call__.__qualname__
    state = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    for place in places:
        if place != "pool":
            assert tuple(int(p) if p.isdigit() else p for p in place.split("/")) in {path[:-1] for path in state}


@pytest.mark.parametrize("pool", [jc.avg_pool, jc.max_pool], ids=["avg", "max"])
@pytest.mark.parametrize("size", [8, 32])  # the large mean is one product with the whole axis
def test_a_pooling_over_the_whole_image_is_a_window_of_its_size(pool, size):
    image = jax.ShapeDtypeStruct((1, size, size, 2), jnp.float32)
    field = receptive_field(lambda x: pool(x, (size, size)), image)
    assert field.size == (size, size) and field.global_ops == () and field.mask((0, 0)).all()
