"""Every name of every dialect under jit, vmap and grad, and its refusal of traced sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv.dialects import lax, onnx, tensorflow, torch

RNG = np.random.default_rng(20180312)


def normal(*shape):
    return RNG.standard_normal(shape)


def unique(count, *shape):
    return np.arange(count)[::-1][: int(np.prod(shape))].reshape(shape).copy()


# name -> (function, arrays, how many of them are real, rest of the call)
CALLS = {
    "torch.conv1d": (torch.conv1d, (normal(1, 2, 5), normal(3, 2, 2), normal(3)), 3, {"stride": 2}),
    "torch.conv2d": (torch.conv2d, (normal(2, 4, 4), normal(2, 1, 3, 3)), 2, {"padding": "same", "groups": 2}),
    "torch.conv3d": (torch.conv3d, (normal(1, 1, 3, 3, 3), normal(1, 1, 2, 2, 2)), 2, {}),
    "torch.conv_transpose1d": (torch.conv_transpose1d, (normal(1, 2, 3), normal(2, 1, 2)), 2, {"stride": 2}),
    "torch.conv_transpose2d": (
        torch.conv_transpose2d, (normal(1, 2, 2, 2), normal(2, 1, 3, 3), normal(2)), 3, {"stride": 2, "groups": 2},
    ),
    "torch.conv_transpose3d": (torch.conv_transpose3d, (normal(1, 2, 2, 2), normal(1, 1, 2, 2, 2)), 2, {}),
    "torch.interpolate": (torch.interpolate, (normal(1, 1, 3),), 1, {"size": 5, "mode": "linear"}),
    "torch.upsample": (torch.upsample, (normal(1, 1, 3),), 1, {"scale_factor": 2}),
    "torch.upsample_nearest": (torch.upsample_nearest, (normal(1, 1, 3),), 1, {"size": 4}),
    "torch.upsample_bilinear": (torch.upsample_bilinear, (normal(1, 1, 2, 2),), 1, {"size": 3}),
    "torch.max_pool1d": (torch.max_pool1d, (normal(1, 2, 5),), 1, {"kernel_size": 2}),
    "torch.max_pool2d": (torch.max_pool2d, (normal(1, 4, 4),), 1, {"kernel_size": 3, "stride": 1}),
    "torch.max_pool3d": (torch.max_pool3d, (normal(1, 3, 3, 3),), 1, {"kernel_size": 2, "stride": 1}),
    "torch.avg_pool1d": (torch.avg_pool1d, (normal(1, 2, 5),), 1, {"kernel_size": 2}),
    "torch.avg_pool2d": (torch.avg_pool2d, (normal(1, 4, 4),), 1, {"kernel_size": 3, "padding": 1}),
    "torch.avg_pool3d": (torch.avg_pool3d, (normal(1, 3, 3, 3),), 1, {"kernel_size": 2, "stride": 1}),
    "torch.max_unpool1d": (torch.max_unpool1d, (normal(1, 1, 2), unique(4, 1, 1, 2)), 1, {"kernel_size": 2}),
    "torch.max_unpool2d": (torch.max_unpool2d, (normal(1, 2, 2), unique(16, 1, 2, 2)), 1, {"kernel_size": 2}),
    "torch.max_unpool3d": (torch.max_unpool3d, (normal(1, 1, 1, 2), unique(16, 1, 1, 1, 2)), 1, {"kernel_size": 2}),
    "torch.pixel_shuffle": (torch.pixel_shuffle, (normal(4, 1, 2),), 1, {"upscale_factor": 2}),
    "torch.pixel_unshuffle": (torch.pixel_unshuffle, (normal(1, 2, 4),), 1, {"downscale_factor": 2}),
    "torch.unfold": (torch.unfold, (normal(2, 3, 3),), 1, {"kernel_size": 2}),
    "torch.fold": (torch.fold, (normal(4, 4),), 1, {"output_size": 3, "kernel_size": 2}),
    "torch.pad": (torch.pad, (normal(1, 1, 3),), 1, {"pad": (2, 1), "mode": "reflect"}),
    "tensorflow.conv1d": (tensorflow.conv1d, (normal(1, 4, 2), normal(2, 2, 1), 2, "SAME"), 2, {}),
    "tensorflow.conv2d": (tensorflow.conv2d, (normal(1, 2, 3, 3), normal(2, 2, 1, 2), 1, "VALID", "NCHW"), 2, {}),
    "tensorflow.conv3d": (
        tensorflow.conv3d, (normal(1, 3, 3, 3, 1), normal(2, 2, 2, 1, 1), [1, 2, 2, 2, 1], "SAME"), 2, {},
    ),
    "tensorflow.conv1d_transpose": (
        tensorflow.conv1d_transpose, (normal(1, 2, 2), normal(3, 1, 2), [1, 3, 1], 2), 2, {},
    ),
    "tensorflow.conv2d_transpose": (
        tensorflow.conv2d_transpose, (normal(1, 2, 2, 1), normal(3, 3, 1, 1), [4, 3], 2), 2, {"dilations": 2},
    ),
    "tensorflow.conv3d_transpose": (
        tensorflow.conv3d_transpose, (normal(1, 1, 1, 2, 1), normal(2, 2, 2, 1, 1), [1, 2, 2, 4, 1], 2), 2, {},
    ),
    "tensorflow.conv_transpose": (tensorflow.conv_transpose, (normal(1, 2, 2), normal(3, 1, 2), [1, 4, 1], 2), 2, {}),
    "tensorflow.convolution": (tensorflow.convolution, (normal(1, 5, 1), normal(2, 1, 2)), 2, {"dilations": 2}),
    "tensorflow.atrous_conv2d": (tensorflow.atrous_conv2d, (normal(1, 3, 3, 1), normal(2, 2, 1, 1), 2, "SAME"), 2, {}),
    "tensorflow.atrous_conv2d_transpose": (
        tensorflow.atrous_conv2d_transpose, (normal(1, 2, 2, 1), normal(2, 2, 1, 1), [1, 4, 4, 1], 2, "VALID"), 2, {},
    ),
    "tensorflow.depthwise_conv2d": (
        tensorflow.depthwise_conv2d, (normal(1, 3, 3, 2), normal(2, 2, 2, 2), [1, 1, 1, 1], "SAME"), 2, {},
    ),
    "tensorflow.depth_to_space": (tensorflow.depth_to_space, (normal(1, 1, 2, 4), 2), 1, {}),
    "tensorflow.space_to_depth": (tensorflow.space_to_depth, (normal(1, 2, 2, 1), 2), 1, {}),
    "tensorflow.space_to_batch": (tensorflow.space_to_batch, (normal(1, 3, 2, 1), [2, 2], [[1, 0], [0, 0]]), 1, {}),
    "tensorflow.batch_to_space": (tensorflow.batch_to_space, (normal(4, 1, 2, 1), [2, 2], [[0, 1], [0, 0]]), 1, {}),
    "tensorflow.max_pool_with_argmax": (tensorflow.max_pool_with_argmax, (normal(1, 3, 3, 2), 2, 1, "SAME"), 1, {}),
    "tensorflow.image_resize": (tensorflow.image_resize, (normal(1, 3, 3, 1), [2, 5]), 1, {"method": "lanczos3"}),
    **{
        f"torch.{name}{r}d": (getattr(torch, f"{name}{r}d"), (normal(2, 2, *(5, 3, 4)[:r]), 2), 1, {})
        for name in ("adaptive_avg_pool", "adaptive_max_pool") for r in (1, 2, 3)
    },
    "torch.batch_norm": (
        torch.batch_norm, (normal(2, 3, 2), normal(3), np.arange(1.0, 4.0), normal(3), normal(3)), 5, {},
    ),
    "torch.instance_norm": (torch.instance_norm, (normal(2, 3, 4),), 1, {}),
    "torch.group_norm": (torch.group_norm, (normal(2, 4, 3), 2), 1, {}),
    "torch.layer_norm": (torch.layer_norm, (normal(2, 3, 4), (3, 4)), 1, {}),
    "torch.prelu": (torch.prelu, (normal(2, 3, 4), normal(3)), 2, {}),
    "torch.linear": (torch.linear, (normal(2, 3), normal(4, 3), normal(4)), 3, {}),
    "torch.grid_sample": (torch.grid_sample, (normal(1, 2, 3, 4), normal(1, 2, 2, 2) / 3), 2, {}),
    "onnx.Conv": (onnx.Conv, (normal(1, 2, 4), normal(1, 2, 3), normal(1)), 3, {"pads": [1, 0]}),
    "onnx.ConvTranspose": (
        onnx.ConvTranspose, (normal(1, 1, 3), normal(1, 2, 3)), 2, {"strides": [2], "output_shape": [6]},
    ),
    "onnx.Resize": (onnx.Resize, (normal(1, 1, 3), None, None, [1, 1, 5]), 1, {"mode": "cubic"}),
    "onnx.Upsample": (onnx.Upsample, (normal(1, 1, 3), [1.0, 1.0, 2.0]), 1, {"mode": "linear"}),
    "onnx.GridSample": (onnx.GridSample, (normal(1, 1, 2, 3), normal(1, 1, 2, 2) / 3), 2, {"mode": "cubic"}),
    "onnx.MaxPool": (onnx.MaxPool, (normal(1, 1, 4),), 1, {"kernel_shape": [2], "return_indices": True}),
    "onnx.AveragePool": (onnx.AveragePool, (normal(1, 1, 4),), 1, {"kernel_shape": [3], "auto_pad": "SAME_LOWER"}),
    "onnx.MaxUnpool": (onnx.MaxUnpool, (normal(1, 1, 2), unique(4, 1, 1, 2)), 1, {"kernel_shape": [2], "strides": [2]}),
    "onnx.DepthToSpace": (onnx.DepthToSpace, (normal(1, 4, 1, 1),), 1, {"blocksize": 2, "mode": "CRD"}),
    "onnx.SpaceToDepth": (onnx.SpaceToDepth, (normal(1, 1, 2, 2),), 1, {"blocksize": 2}),
    "onnx.Col2Im": (onnx.Col2Im, (normal(1, 2, 3), [4], [2]), 1, {}),
    "lax.conv_transpose": (lax.conv_transpose, (normal(1, 3, 2), normal(3, 2, 1), (2,), "SAME"), 2, {}),
}  # fmt: skip


def test_every_name_is_called():
    names = {f"{m.__name__.rsplit('.', 1)[1]}.{n}" for m in (torch, tensorflow, onnx) for n in m.__all__}
    assert set(CALLS) == names | {"lax.conv_transpose"}


SLOW = {n for n in CALLS if n[-2:] in ("2d", "3d") and f"{n[:-2]}1d" in CALLS}  # as the first of their name


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in CALLS])
def test_jit_vmap_and_grad(name, x64):
    """The gradient against a central difference along one direction, vmap against the plain call, all under jit."""
    function, arguments, real, kwargs = CALLS[name]
    count = next((i for i, a in enumerate(arguments) if not isinstance(a, np.ndarray)), len(arguments))
    arrays, rest = arguments[:count], arguments[count:]

    def call(*live):
        return function(*live, *rest, **kwargs)

    def loss(*moving):
        out = jax.tree.leaves(call(*moving, *arrays[real:]))[0]
        return jnp.sum(jnp.sin(out))

    plain = jax.tree.leaves(jax.jit(call)(*arrays))
    value, grads = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(real))))(*arrays[:real])
    np.testing.assert_allclose(value, jnp.sum(jnp.sin(plain[0])), atol=1e-12)

    rng, h = np.random.default_rng(1), 1e-6
    along = [rng.standard_normal(a.shape) for a in arrays[:real]]
    ends = [jax.jit(loss)(*(a + s * d for a, d in zip(arrays, along))) for s in (h, -h)]
    expected = sum(np.sum(np.asarray(g) * d) for g, d in zip(grads, along))
    np.testing.assert_allclose((ends[0] - ends[1]) / (2 * h), expected, rtol=1e-6, atol=1e-8, err_msg=name)

    stacked = [np.stack([a, a[::-1]]) for a in arrays]
    mapped = jax.tree.leaves(jax.jit(jax.vmap(call))(*stacked))
    for got, one in zip(mapped, plain):
        np.testing.assert_allclose(got[0], one, atol=1e-12, err_msg=name)
        assert got.shape == (2, *one.shape)


def test_traced_sizes_are_refused():
    x, w = jnp.ones((1, 2, 2, 1)), jnp.ones((3, 3, 1, 1))
    with pytest.raises(TypeError, match="output_shape decides the shape"):
        jax.jit(lambda s: tensorflow.conv2d_transpose(x, w, s, 2))(jnp.asarray([1, 4, 4, 1]))
    with pytest.raises(TypeError, match="scales decides the shape"):
        jax.jit(lambda s: onnx.Resize(x, None, s))(jnp.asarray([1.0, 1.0, 2.0, 2.0]))
