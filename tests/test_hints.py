"""Typical mistakes of people who come from Flax, lax, PyTorch or TensorFlow: each refusal says jaxconv's own word."""

import inspect

import jax.numpy as jnp
import pytest
from flax import nnx

import jaxconv as jc
from jaxconv import nn

X, W, Y = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4)), jnp.ones((1, 8, 8, 4))
RNGS = nnx.Rngs(0)

MISTAKES = {
    "strides": (lambda: jc.conv(X, W, strides=2), "'strides': jaxconv's word for it is stride="),
    "window_strides": (lambda: jc.conv(X, W, window_strides=(2, 2)), "jaxconv's word for it is stride="),
    "kernel_dilation": (lambda: jc.conv(X, W, kernel_dilation=2), "jaxconv's word for it is dilation="),
    "rhs_dilation": (lambda: jc.conv(X, W, rhs_dilation=2), "jaxconv's word for it is dilation="),
    "dilation_rate": (lambda: jc.conv(X, W, dilation_rate=2), "jaxconv's word for it is dilation="),
    "feature_group_count": (lambda: jc.conv(X, W, feature_group_count=3), "jaxconv's word for it is groups="),
    "lhs_dilation": (lambda: jc.conv(X, W, lhs_dilation=2), "is a transposed convolution: jc.conv_transpose"),
    "dimension_numbers": (lambda: jc.conv(X, W, dimension_numbers=None), "or use jaxconv.dialects.lax"),
    "data_format": (lambda: jc.conv(X, W, data_format="NCHW"), "or use jaxconv.dialects.tensorflow"),
    "bias": (lambda: jc.conv(X, W, bias=jnp.ones(4)), r"add it: jc.conv\(...\) \+ bias"),
    "input": (lambda: jc.conv(input=X, weight=W), "the array is the first argument, x"),
    "settings by place": (lambda: jc.conv(X, W, 2), "takes 2 positional arguments, got 3: settings such as stride"),
    "output_shape": (lambda: jc.conv_transpose(Y, W, output_shape=(10, 10)), "word for it is output_size="),
    "transpose_kernel": (lambda: jc.conv_transpose(Y, W, transpose_kernel=True), "nothing to transpose"),
    "unknown": (lambda: jc.conv(X, W, sride=2), r"conv\(\) got an unexpected keyword argument 'sride'$"),
    "pool kernel_size": (lambda: jc.max_pool(X, kernel_size=2), "jaxconv's word for it is window="),
    "pool window_shape": (lambda: jc.avg_pool(X, window_shape=2), "jaxconv's word for it is window="),
    "pool strides": (lambda: jc.max_pool(X, 2, strides=2), "jaxconv's word for it is stride="),
    "scale_factor": (lambda: jc.resize(X, scale_factor=2), "jaxconv's word for it is scale="),
    "mode": (lambda: jc.resize(X, (4, 4), mode="bilinear"), "jaxconv's word for it is method="),
    "shape": (lambda: jc.resize(X, shape=(4, 4)), "jaxconv's word for it is size="),
    "upscale_factor": (lambda: jc.pixel_shuffle(X, upscale_factor=2), "jaxconv's word for it is factor="),
    "block_size": (lambda: jc.pixel_unshuffle(X, block_size=2), "jaxconv's word for it is factor="),
    "unfold kernel_size": (lambda: jc.unfold(X, kernel_size=2), "jaxconv's word for it is window="),
    "matrix strides": (lambda: jc.conv_matrix(W, 8, strides=2), "jaxconv's word for it is stride="),
    "operator strides": (lambda: jc.ConvOperator(W, (8, 8), strides=2), "jaxconv's word for it is stride="),
    "layer strides": (lambda: nn.Conv(3, 4, (3, 3), strides=2, rngs=RNGS), "jaxconv's word for it is stride="),
    "layer kernel_dilation": (lambda: nn.Conv(3, 4, (3, 3), kernel_dilation=2, rngs=RNGS), "is dilation="),
    "layer feature_group_count": (lambda: nn.Conv(3, 3, (3, 3), feature_group_count=3, rngs=RNGS), "is groups="),
    "layer pool": (lambda: nn.MaxPool(kernel_size=2), "jaxconv's word for it is window="),
    "layer without a rank": (lambda: nn.Conv(3, 4, 3, rngs=RNGS), "kernel_size=3 does not say how many spatial axes"),
    "conv2d": (lambda: jc.conv2d, "jaxconv.conv takes its rank from the kernel; .*jaxconv.dialects.torch.conv2d"),
    "conv_transpose3d": (lambda: jc.conv_transpose3d, "jaxconv.dialects.torch.conv_transpose3d"),
    "max_pool2d": (lambda: jc.max_pool2d, "jaxconv.max_pool takes its rank from the window"),
    "interpolate": (lambda: jc.interpolate, "jaxconv has resize"),
    "conv_general_dilated": (lambda: jc.conv_general_dilated, "jaxconv has conv$"),
    "Conv2d": (lambda: jc.Conv2d, "jaxconv has nn.Conv, a Flax NNX layer"),
    "depth_to_space": (lambda: jc.depth_to_space, "jaxconv has pixel_shuffle"),
    "im2col": (lambda: jc.im2col, "jaxconv has unfold"),
    "receptive_field": (lambda: jc.receptive_field, "jaxconv has analysis.receptive_field"),
    "NCHW": (lambda: jc.conv(jnp.ones((1, 3, 8, 8)), W), r"axis 1 has 3: .*jnp.moveaxis\(x, 1, -1\)"),
    "NCL": (lambda: jc.conv(jnp.ones((2, 5, 9)), jnp.ones((3, 5, 4))), r"axis 1 has 5: .*jnp.moveaxis\(x, 1, -1\)"),
    "CHW": (lambda: jc.conv(jnp.ones((3, 8, 8)), W), r"axis 0 has 3: .*jnp.moveaxis\(x, 0, -1\)"),
    "NCHW layer": (lambda: nn.Conv(3, 4, (3, 3), rngs=RNGS)(jnp.ones((1, 3, 8, 8))), "data is channels-last here"),
    "OIHW": (lambda: jc.conv(X, jnp.ones((4, 3, 5, 5))), r"w.transpose\(2, 3, 1, 0\) makes it ours"),
    "IOHW": (lambda: jc.conv_transpose(Y, jnp.ones((4, 3, 5, 5))), r"w.transpose\(2, 3, 1, 0\) makes it ours"),
    "padding full": (lambda: jc.conv(X, W, padding="full"), "'SAME', 'SAME_LOWER', 'VALID', 'CAUSAL'"),
    "padding float": (lambda: jc.conv(X, W, padding=1.0), "padding=1.0 must be an integer, got float"),
    "padding mode": (lambda: jc.conv(X, W, padding_mode="constant"), "'zeros', 'circular', 'reflect', 'replicate'"),
    "unreachable": (lambda: jc.conv_transpose(Y, W, stride=2, output_size=3), "gives 8 from 17..18 on axis 0, got 3"),
    "integers": (lambda: jc.conv(X.astype(int), W.astype(int)), "preferred_element_type=jnp.int32"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_refusal_says_what_to_write_instead(mistake):
    call, message = MISTAKES[mistake]
    with pytest.raises((TypeError, ValueError, AttributeError), match=message):
        call()


def test_channels_that_fit_neither_way_get_no_hint():
    with pytest.raises(ValueError) as refusal:
        jc.conv(jnp.ones((1, 5, 8, 6)), W)
    assert "moveaxis" not in str(refusal.value) and "transpose(" not in str(refusal.value)


def test_signatures_stay_readable():
    assert list(inspect.signature(jc.conv).parameters)[:3] == ["x", "w", "stride"]
    assert jc.conv.__name__ == "conv" and jc.conv.__module__ == "jaxconv.ops"
