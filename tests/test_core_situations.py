"""The faces under what people do to a program: no jit, export with open sizes, checkpoints, vmap over nothing."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import jet

import jaxconv as jc
from jaxconv import dialects
from jaxconv.dialects import onnx, tensorflow, torch

RNG = np.random.default_rng(20180312)
X = jnp.asarray(RNG.standard_normal((2, 6, 7, 4)), jnp.float32)
W = jnp.asarray(RNG.standard_normal((3, 3, 2, 6)), jnp.float32)
NHWC = ("NHWC", "HWIO", "NHWC")

grouped = functools.partial(jc.conv, groups=2, padding=1)


def plain(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), [(1, 1)] * 2, feature_group_count=2, dimension_numbers=NHWC)


def close(got, want, tolerance=1e-4):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, want)


@pytest.mark.slow
def test_faces_compute_where_jit_is_disabled():
    y = grouped(X, W)

    def everything():
        up = functools.partial(jc.conv_transpose, groups=2, padding=1)
        return (
            grouped(X, W),
            up(y, W),
            jc.conv_kernel(X, y, (3, 3), groups=2, padding=1),
            jax.grad(lambda x: jnp.sum(grouped(x, W) ** 2))(X),
            jax.vmap(grouped, in_axes=(None, 0))(X, jnp.stack([W, 2 * W])),
            jc.conv(X, W, groups=2, padding=1, padding_mode="reflect"),
            jc.accelerate(plain)(X, W),
            jc.ConvOperator(W, (6, 7), groups=2, padding=1).T @ y,
        )

    with jax.disable_jit():
        without = everything()
    close(without, everything())


@pytest.mark.parametrize(
    "f, shapes, axes",
    [
        (grouped, ((2, 6, 7, 4), (0, 3, 3, 2, 6)), (None, 0)),
        (grouped, ((2, 0, 6, 7, 4), (3, 3, 2, 6, 0)), (1, 4)),
        (grouped, ((0, 2, 6, 7, 4), (3, 3, 2, 6)), (0, None)),
        (functools.partial(jc.conv_transpose, groups=2), ((2, 4, 5, 6), (3, 3, 0, 2, 6)), (None, 2)),
        (functools.partial(jc.conv_kernel, kernel_size=(3, 3), groups=2), ((2, 6, 7, 4), (2, 4, 0, 5, 6)), (None, 2)),
        (functools.partial(jc.conv_kernel, kernel_size=(3, 3)), ((0, 2, 6, 7, 4), (0, 2, 4, 5, 6)), (0, 0)),
    ],
)
def test_mapping_over_nothing_gives_nothing(f, shapes, axes):
    args = [jnp.zeros(shape) for shape in shapes]
    one = [
        a if d is None else jax.ShapeDtypeStruct(a.shape[:d] + a.shape[d + 1 :], a.dtype) for a, d in zip(args, axes)
    ]
    got = jax.vmap(f, in_axes=axes)(*args)
    assert got.shape == (0, *jax.eval_shape(f, *one).shape)
    gradient = jax.grad(lambda *args: jnp.sum(jax.vmap(f, in_axes=axes)(*args)))(*args)
    assert gradient.shape == args[0].shape


def faces_in(f, *args):
    return len(re.findall(r"= conv_(?:apply|adjoint|kernel)", str(jax.make_jaxpr(f)(*args))))


def three_layers(conv):
    def f(ws, x):
        for w in ws:
            x = jax.nn.relu(conv(x, w))
        return jnp.sum(x)

    return f


@pytest.mark.parametrize("policy, count", [("dots_saveable", 8), ("everything_saveable", 8), ("nothing_saveable", 11)])
def test_checkpoint_policies_take_the_faces_for_convolutions(policy, count):
    """Three layers: 3 forward and 5 gradients, the image's left out; what is not kept is computed again."""
    ws, x = [jnp.full((3, 3, 4, 4), 0.1)] * 3, X
    keep = getattr(jax.checkpoint_policies, policy)
    ours = three_layers(functools.partial(jc.conv, padding="SAME"))
    theirs = three_layers(lambda x, w: lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC))
    assert faces_in(jax.grad(jax.checkpoint(ours, policy=keep)), ws, x) == count
    assert faces_in(jax.grad(jc.accelerate(jax.checkpoint(theirs, policy=keep))), ws, x) == count
    close(jax.grad(jax.checkpoint(ours, policy=keep))(ws, x), jax.grad(ours)(ws, x))


def test_taylor_series_of_products_follow_leibniz():
    series = ((jnp.ones_like(X), X, 0 * X),)

    def f(conv):
        return lambda x: conv(jnp.sin(x), W * jnp.sum(x))

    close(jet.jet(f(grouped), (X,), series), jet.jet(f(plain), (X,), series), 2e-3)


W_UP = jnp.asarray(RNG.standard_normal((3, 3, 6, 4)), jnp.float32)
W_DEPTHWISE = jnp.asarray(RNG.standard_normal((3, 3, 1, 4)), jnp.float32)
EXPORTED = {
    "dense": lambda x: jc.conv(x, W_UP.swapaxes(2, 3), padding=1),
    "strided groups": lambda x: jc.conv(x, W, groups=2, padding=1, stride=2),
    "atrous depthwise": lambda x: jc.conv(x, W_DEPTHWISE, groups=4, padding=2, dilation=2),
    "SAME": lambda x: jc.conv(x, W_UP.swapaxes(2, 3), padding="SAME", stride=2),
    "CAUSAL": lambda x: jc.conv(x, W_UP.swapaxes(2, 3), padding="CAUSAL"),
    "cropped": lambda x: jc.conv(x, W_UP.swapaxes(2, 3), padding=((-1, 1), (0, -1))),
    "up": lambda x: jc.conv_transpose(x, W_UP, stride=2, padding=1, output_padding=1),
    "up, SAME": lambda x: jc.conv_transpose(x, W_UP, stride=3, padding="SAME"),
    "up, depthwise": lambda x: jc.conv_transpose(x, W_DEPTHWISE, groups=4, stride=2),
    "up, cropped": lambda x: jc.conv_transpose(x, W_UP, padding=3),
    "gradient": jax.grad(lambda x: jnp.sum(jc.conv(x, W, groups=2, padding=1) ** 2)),
    "strided gradient": jax.grad(lambda x: jnp.sum(jc.conv(x, W, groups=2, padding=1, stride=2) ** 2)),
    "accelerated": jc.accelerate(lambda x: plain(x, W)),
    "antialiased resize": lambda x: jc.resize(x, (4, 3), antialias=True),
    "unpooled": lambda x: jc.max_unpool(*jc.max_pool(x, 2, return_indices=True), (12, 10)),
    "unpooled gradient": jax.grad(
        lambda x: jnp.sum(jc.max_unpool(*jc.max_pool(x, 2, return_indices=True), (12, 10)) ** 2)
    ),
    "wide mean": lambda x: jc.avg_pool(x, 8, stride=1),
}
POOLED = {
    "pooled": lambda x: jc.max_pool(x, 3, stride=2, padding=1),
    "pooled, SAME": lambda x: jc.max_pool(x, 2, padding="SAME"),
    "means without pads": lambda x: jc.avg_pool(x, 3, stride=1, padding=1, count_include_pad=False),
    "means": lambda x: jc.avg_pool(x, 2),
    "pooled gradient": jax.grad(lambda x: jnp.sum(jc.max_pool(x, 2) ** 2)),
    "doubled": lambda x: jc.resize(x, scale=2),
    "halved": lambda x: jc.resize(x, scale=0.5, method="nearest"),
    "to a size": lambda x: jc.resize(x, (32, 20), method="cubic"),
    "corners": lambda x: jc.resize(x, (2 * x.shape[1] - 1, 8), align_corners=True),
    "antialiased": lambda x: jc.resize(x, (4, x.shape[2] // 3), method="cubic", antialias=True),
    "reflected": lambda x: jc.conv(x, W, groups=2, padding=2, padding_mode="reflect"),
    "columns": lambda x: jc.unfold(x, (3, 2), stride=2, padding=((1, 0), (-1, 2)), dilation=(1, 3)),
    "repeated": lambda x: jc.conv(x, W, groups=2, padding=((1, 2), (0, -1)), stride=2, padding_mode="replicate"),
}
DEFAULT = ("pooled", "doubled", "antialiased", "reflected", "columns")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in DEFAULT else pytest.mark.slow) for n in POOLED])
def test_pooling_and_resizing_with_open_sizes(name):
    pytest.importorskip("flatbuffers")
    f = POOLED[name]
    for shape, sizes in (("b, h, k, 4", [(1, 9, 14, 4), (2, 16, 12, 4)]), ("2, 8*h, k, 4", [(2, 16, 12, 4)])):
        least = ["h >= 8" if shape[0] == "b" else "h >= 1", "k >= 8"]
        struct = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape, constraints=least), jnp.float32)
        exported = jax.export.export(jax.jit(f), platforms=("cpu", "tpu"))(struct)
        for size in sizes:
            x = jnp.asarray(RNG.standard_normal(size), jnp.float32)
            close(exported.call(x), f(x), 2e-4)


# These know their maps only for sizes that are numbers.
FIXED_SIZES = ("antialiased resize", "wide mean", "unpooled", "unpooled gradient")


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_with_open_sizes(name):
    pytest.importorskip("flatbuffers")
    f = EXPORTED[name]
    shapes = ["b, 12, 10, 4"] if name in FIXED_SIZES else ["b, 12, 10, 4", "b, h, k, 4"]
    for shape in shapes:
        large = ["h >= 8", "k >= 8"] if "h" in shape else []  # what is cropped has to be there
        struct = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape, constraints=large), jnp.float32)
        exported = jax.export.export(jax.jit(f), platforms=("cpu", "cuda", "tpu"))(struct)
        again = jax.export.deserialize(exported.serialize())
        for size in [(3, 12, 10, 4)] if "h" not in shape else [(1, 9, 14, 4)]:
            x = jnp.asarray(RNG.standard_normal(size), jnp.float32)
            close(again.call(x), f(x), 2e-4)


KERNEL = jnp.asarray(RNG.standard_normal((4, 4, 3, 3)), jnp.float32)  # PyTorch's and ONNX's order


def strided(x):
    return jc.conv(x, W, groups=2, padding=1, stride=2)


# By the convolution's gradients, dialect or layer; data as the dialect has it, from channels-last.
OPEN = {
    "strided": lambda x: (
        jax.grad(lambda x: jnp.sum(strided(x) ** 2))(x),
        jax.grad(lambda w: jnp.sum(jc.conv(x, w, groups=2, stride=(2, 3), padding="SAME") ** 2))(W),
        jax.grad(lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(strided(x) ** 3))(x) ** 2))(x),
        jc.conv(x, W[:1, :1], groups=2, stride=2, padding="SAME_LOWER"),
        jc.conv_transpose(x, W_UP, stride=2, padding=1, output_size=(2 * x.shape[1], 2 * x.shape[2] - 1)),
    ),
    "torch": lambda x: [
        f(x.transpose(0, 3, 1, 2))
        for f in (
            lambda x: torch.conv_transpose2d(x, KERNEL, stride=2, padding=1, output_padding=1),
            lambda x: torch.interpolate(x, scale_factor=2, mode="bilinear"),
            lambda x: torch.interpolate(x, scale_factor=(3, 2)),
            lambda x: torch.interpolate(x, size=(2 * x.shape[2] - 1, 9), mode="bicubic", align_corners=True),
            lambda x: torch.interpolate(x, size=(5, 4), mode="bilinear", antialias=True),
            lambda x: torch.adaptive_avg_pool2d(x, 1),
            lambda x: torch.adaptive_max_pool2d(x, (None, 1)),
            lambda x: torch.pad(x, (2, -1, 0, 1), mode="reflect"),
            lambda x: torch.pad(x, (1, 3), mode="constant"),
        )
    ],
    "tensorflow": lambda x: (
        tensorflow.conv2d(x, W, (2, 3), "VALID"),
        tensorflow.conv2d_transpose(x, W_UP, (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], 6), 2, "SAME"),
        tensorflow.image_resize(x, (2 * x.shape[1], 7)),
        tensorflow.image_resize(x, (2 * x.shape[1], 7), method="nearest"),
        tensorflow.image_resize(x, (4, 5), antialias=True),
    ),
    "onnx": lambda x: [
        f(x.transpose(0, 3, 1, 2))
        for f in (
            lambda x: onnx.ConvTranspose(x, KERNEL, strides=[2, 2], auto_pad="SAME_UPPER"),
            lambda x: onnx.Resize(x, None, [1, 1, 2, 3]),
            lambda x: onnx.Resize(x, None, [1, 1, 2, 3], mode="cubic", coordinate_transformation_mode="align_corners"),
            lambda x: onnx.Upsample(x, [1, 1, 2, 2]),
        )
    ],
    "lax": lambda x: dialects.lax.conv_transpose(x, KERNEL.transpose(2, 3, 0, 1), (2, 2), "VALID"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in ("tensorflow", "onnx") else ()) for n in OPEN]
)
def test_gradients_and_dialects_with_open_sizes(name):
    pytest.importorskip("flatbuffers")
    f = OPEN[name]
    struct = jax.ShapeDtypeStruct(
        jax.export.symbolic_shape("b, h, k, 4", constraints=["h >= 8", "k >= 8"]), jnp.float32
    )
    exported = jax.export.export(jax.jit(f))(struct)
    x = jnp.asarray(RNG.standard_normal((2, 9, 10, 4)), jnp.float32)
    close(exported.call(x), jax.jit(f)(x), 1e-3)


def test_what_is_not_finite_stays_apart_in_antialiased_resizes_of_open_sizes():
    pytest.importorskip("flatbuffers")
    f = lambda x: jc.resize(x, 4, antialias=True)  # noqa: E731
    gradient = jax.grad(lambda x: jnp.sum(f(x) ** 2))
    second = jax.vmap(jax.grad(lambda x: jnp.sum(gradient(x[None])[:, 3])))
    x = jnp.arange(16.0)[None, :, None].at[0, 1].set(jnp.nan)
    for g, reached in ((f, 1), (gradient, 6), (second, 0)):
        exported = jax.export.export(jax.jit(g))(
            jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, h, 1"), jnp.float32)
        )
        close(exported.call(x), g(x))
        assert np.isnan(exported.call(x)).sum() == reached


def test_open_sizes_refuse_what_needs_numbers():
    x = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, h, k, 4"), jnp.float32)
    for f, message in (
        (lambda x: jc.conv_transpose(x, W_UP, stride=2, output_size=9), "give output_padding instead"),
        (lambda x: jc.conv(x, W, groups=2, padding=1, padding_mode="circular"), "padding_mode='circular' needs sizes"),
        (lambda x: jc.conv(x, W, groups=2, method="taps"), "method='taps' needs sizes that are numbers"),
        (lambda x: jc.max_pool(x, 2, return_indices=True), "max_pool with return_indices needs spatial sizes"),
        (lambda x: jc.avg_pool(x, 2, ceil_mode=True), "avg_pool with ceil_mode needs spatial sizes"),
        (lambda x: jc.unfold(x, 2, stride=2, padding="SAME"), "unfold with padding='SAME' and stride=2 needs spatial"),
        (lambda x: jc.fold(x, (8, 8), 2, stride=2), "fold needs spatial sizes"),
        (lambda x: jc.max_unpool(x, x.astype(int), (8, 8)), "max_unpool needs spatial sizes"),
        (lambda x: jc.resize(x, 8, method="area"), "resize with method='area' needs spatial sizes"),
        (lambda x: jc.resize(x, scale=1.3), "resize by scale=1.3 needs spatial sizes"),
        (lambda x: jc.conv_kernel(x, x, (1, 1)), "conv_kernel needs spatial sizes"),
        (lambda x: jc.pixel_unshuffle(x, 2), r"an open size has to show that it is: symbolic_shape\('2\*n"),
        (lambda x: torch.adaptive_avg_pool2d(x, 2), "output_size=2 needs spatial sizes"),
        (lambda x: torch.max_unpool2d(x, x.astype(int), 2), "max_unpool2d needs spatial sizes"),
        (lambda x: torch.unfold(x, 2), "unfold, which flattens them, needs spatial sizes"),
        (lambda x: torch.pad(x, (1, 1, 1, 1), mode="circular"), "mode='circular' needs spatial sizes"),
        (lambda x: torch.interpolate(x, size=8, mode="area"), "resize with method='area' needs spatial sizes"),
        (lambda x: tensorflow.image_resize(x, (8, 8), method="bicubic"), "method='bicubic' needs spatial sizes"),
        (lambda x: onnx.Resize(x, None, [1, 1, 2, 2], nearest_mode="ceil"), "Resize with mode='nearest' and"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.export.export(jax.jit(f))(x)
