"""What the frameworks refuse is refused by their dialects, by ValueError or TypeError with the values in the
message."""

import jax.numpy as jnp
import pytest

from jaxconv.dialects import lax, onnx, tensorflow, torch


def ones(*shape, dtype=jnp.float32):
    return jnp.ones(shape, dtype)


X, W, WT = ones(1, 2, 5, 5), ones(4, 2, 3, 3), ones(2, 4, 3, 3)
Y, I = ones(1, 1, 2, 2), jnp.zeros((1, 1, 2, 2), jnp.int32)  # noqa: E741
TORCH = [
    ("conv2d", (X, W, None, 0), ValueError, "stride=0"),
    ("conv2d", (X, W, None, (1, 2, 3)), ValueError, r"stride=\(1, 2, 3\) has 3"),
    ("conv2d", (X, W, None, 2.0), TypeError, "stride=2.0"),
    ("conv2d", (X, W, None, True), TypeError, "stride=True"),
    ("conv2d", (X, W, None, 1, -1), ValueError, "padding=-1"),
    ("conv2d", (X, W, None, 1, "SAME"), ValueError, "'SAME'"),
    ("conv2d", (X, W, None, 2, "same"), ValueError, r"stride=\(2, 2\)"),
    ("conv2d", (X, W, None, 1, 0, 0), ValueError, "dilation=0"),
    ("conv2d", (X, W, None, 1, 0, 1, 0), ValueError, "groups=0"),
    ("conv2d", (X, W, None, 1, 0, 1, 2), ValueError, "2 channels.*takes 4"),
    ("conv2d", (X, W, ones(3)), ValueError, r"bias must have shape \(4,\).*\(3,\)"),
    ("conv2d", (X, W.astype(jnp.float16)), TypeError, "float32.*float16"),
    ("conv2d", (X[0, 0], W), ValueError, r"\(5, 5\)"),
    ("conv2d", (X[..., :2], W), ValueError, "kernel spans 3"),
    ("conv2d", (X > 0, W > 0), TypeError, "bool"),
    ("conv2d", ([[1.0]], W), TypeError, "list"),
    ("conv1d", (X[0], W), ValueError, "3 axes"),
    ("conv_transpose2d", (X, WT, None, 1, 0, 1), ValueError, r"output_padding=\(1, 1\).*stride=\(1, 1\)"),
    ("conv_transpose2d", (X, WT, None, 2, 0, -1), ValueError, "output_padding=-1"),
    ("conv_transpose2d", (X, WT, None, 1, 4), ValueError, r"\(-1, -1\), which is empty"),
    ("conv_transpose2d", (X, WT, None, 1, "same"), TypeError, "padding='same'"),
    ("conv_transpose2d", (X, W), ValueError, "has 2 channels.*takes 4"),
    ("max_pool2d", (X, 0), ValueError, "kernel_size=0"),
    ("max_pool2d", (X, 2, 0), ValueError, "stride=0"),
    ("max_pool2d", (X, 2, None, 2), ValueError, r"padding=\(2, 2\).*half"),
    ("max_pool2d", (X, 9), ValueError, "9.*does not fit"),
    ("max_pool2d", (X[0, 0], 2), ValueError, r"\(5, 5\)"),
    ("max_pool2d", (X[:, :0], 2), ValueError, "only the batch may be empty"),
    ("max_pool2d", (X, 2, None, 0, 1, 1), TypeError, "ceil_mode=1"),
    ("avg_pool2d", (X, 2, None, 0, False, "yes"), TypeError, "count_include_pad='yes'"),
    ("avg_pool2d", (X, 2, ""), TypeError, "stride=''"),
    ("avg_pool2d", (X, 2, None, 0, False, True, (1,)), TypeError, "divisor_override"),
    ("avg_pool2d", (X, 2, None, 0, False, True, 0), ValueError, "divisor_override=0"),
    ("avg_pool1d", (X[0], (2, 2)), ValueError, "2 entries"),
    ("max_unpool2d", (Y, I[:, :, :1], 2), ValueError, "shape of the input"),
    ("max_unpool2d", (Y, I + 16, 2), ValueError, "index 16 is outside"),
    ("max_unpool2d", (Y, I, 2, None, 0, (4, 6)), ValueError, r"3\.\.5, got 6"),
    ("max_unpool2d", (Y, I, 2, None, 0, (4,)), ValueError, "2 or 4 entries"),
    ("max_unpool2d", (Y, I, 2, (2,)), ValueError, "1 entries"),
    ("max_unpool2d", (Y, I, 2, ()), ValueError, "0 entries"),
    ("interpolate", (X, 3, None, "bilinear", 1), TypeError, "align_corners=1"),
    ("interpolate", (X > 0, 3), TypeError, "bool"),
    ("interpolate", (X, None, (2.0, "2")), TypeError, "'2'"),
    ("max_unpool2d", (Y, I.astype(jnp.int8), 2), TypeError, "int8"),
    ("interpolate", (X,), ValueError, "either size or scale_factor"),
    ("interpolate", (X, 3, 2.0), ValueError, "either size or scale_factor"),
    ("interpolate", (X, 3, None, "cubic"), ValueError, "'cubic'"),
    ("interpolate", (X[0], 3, None, "bilinear"), ValueError, "needs an input of 4 axes"),
    ("interpolate", (X, 3, None, "nearest", False), ValueError, "align_corners"),
    ("interpolate", (X, 3, None, "lanczos"), ValueError, "antialias"),
    ("interpolate", (X, None, 0.1), ValueError, r"\(0, 0\)"),
    ("interpolate", (X, 3.0), TypeError, "size=3.0"),
    ("pixel_shuffle", (X, 2), ValueError, r"2 channels.*2\*2"),
    ("pixel_unshuffle", (X, 0), ValueError, "downscale_factor=0"),
    ("unfold", (X, (2,)), ValueError, "1 entries"),
    ("fold", (ones(1, 8, 9), (4, 5), 2), ValueError, r"3 \* 4 = 12 windows.*has 9"),
    ("pad", (X, (1, 1, 1)), ValueError, "even"),
    ("pad", (X, (5, 0, 0, 0), "reflect"), ValueError, "smaller than the size 5"),
    ("pad", (X, (6, 0, 0, 0), "circular"), ValueError, "at most the size 5"),
    ("pad", (X, (1, 1, 1, 1), "edge"), ValueError, "'edge'"),
    ("pad", (X, 1), TypeError, "pad=1"),
]
XT, WF = ones(1, 5, 5, 2), ones(3, 3, 2, 4)
TENSORFLOW = [
    ("conv2d", (XT, WF, 0, "SAME"), ValueError, "strides=0"),
    ("conv2d", (XT, WF, [1, 2, 2, 2], "SAME"), ValueError, "1 along the batch and the channels"),
    ("conv2d", (XT, WF, 1, "same"), ValueError, "'same'"),
    ("conv2d", (XT, WF, 1, 1), TypeError, "padding=1"),
    ("conv2d", (XT, WF, 1, [[0, 0], [1, 1], [1, 1]]), ValueError, "4 pairs"),
    ("conv2d", (XT, WF, 1, [[0, 0], [-1, 1], [1, 1], [0, 0]]), ValueError, "negative"),
    ("conv2d", (XT, WF, 1, "SAME", "HWNC"), ValueError, "'HWNC'"),
    ("conv2d", (XT, WF[:, :, :1][:, :, [0, 0, 0]], 1, "SAME"), ValueError, "not a multiple"),
    ("conv2d", (XT, WF.astype(jnp.float16), 1, "SAME"), TypeError, "float16"),
    ("conv1d", (XT[0], WF[0], 1, [[0, 0], [1, 1], [0, 0]]), TypeError, "'SAME' or 'VALID'"),
    ("conv3d", (XT[None], WF[None], 1, "SAME"), TypeError, "list of 5"),
    ("convolution", (XT, WF, 2, "SAME", None, 2), ValueError, "not both"),
    ("conv2d_transpose", (XT, ones(3, 3, 4, 2), [1, 11, 10, 4], 2), ValueError, r"9\.\.10.*got 11"),
    ("conv2d_transpose", (XT, ones(3, 3, 4, 2), [2, 10, 10, 4], 2), ValueError, "batch of 2"),
    ("conv2d_transpose", (XT, ones(3, 3, 4, 2), [1, 10, 10, 3], 2), ValueError, "3 output channels"),
    ("conv2d_transpose", (XT, ones(3, 3, 4, 2), [10, 10, 4], 2), ValueError, "4 entries"),
    ("conv2d_transpose", (XT, ones(3, 3, 4, 3), [1, 10, 10, 4], 2), ValueError, "take 3"),
    ("atrous_conv2d_transpose", (XT, ones(3, 3, 4, 2), [1, 8, 9, 4], 2, "VALID"), ValueError, "got 8"),
    ("depthwise_conv2d", (XT, WF, 1, "SAME"), TypeError, "list of 4"),
    ("depthwise_conv2d", (XT, WF, [1, 2, 2, 1], "SAME", None, [2, 2]), ValueError, "not both"),
    ("depthwise_conv2d", (XT, WF, [1, 1, 1, 1], "SAME", None, [2]), ValueError, "2 entries"),
    ("depth_to_space", (XT, 1), ValueError, "block_size=1"),
    ("depth_to_space", (XT, 2), ValueError, "2 channels"),
    ("space_to_batch", (XT, [2, 2], [[0, 0], [0, 0]]), ValueError, r"\(5, 5\) are not multiples"),
    ("batch_to_space", (XT, [2, 2], [[0, 0], [0, 0]]), ValueError, "not a multiple"),
    ("max_pool_with_argmax", (XT, 2, 2, "SAME", "NCHW"), ValueError, "'NCHW'"),
    ("max_pool_with_argmax", (XT, 2, 2, "SAME", "NHWC", "int32", 2), TypeError, "include_batch_in_index=2"),
    ("max_pool_with_argmax", (XT[:0], 2, 2, "SAME"), ValueError, r"\(0, 5, 5, 2\)"),
    ("image_resize", (XT, (7, 3), "bilinear", False, 1), TypeError, "antialias=1"),
    ("image_resize", (XT, 7), ValueError, "size=7"),
    ("image_resize", (XT, (7.0, 3.0)), TypeError, "size=7.0"),
    ("image_resize", (XT, (7, 3), "cubic"), ValueError, "'cubic'"),
]
ONNX = [
    ("Conv", (X, W), {"group": 2}, ValueError, "group=2"),
    ("Conv", (X, W), {"kernel_shape": [2, 3]}, ValueError, "kernel_shape"),
    ("Conv", (X, W), {"pads": [1, 1]}, ValueError, "4 are needed"),
    ("Conv", (X, W), {"auto_pad": "SAME"}, ValueError, "'SAME'"),
    ("Conv", (X, W), {"strides": 2}, TypeError, "strides=2"),
    ("Conv", (X, W, ones(3)), {}, ValueError, r"\(4,\)"),
    ("ConvTranspose", (X, WT), {"pads": [4, 4, 4, 4]}, ValueError, "which take|take away"),
    ("ConvTranspose", (X, WT), {"output_shape": [5]}, ValueError, "2 are needed"),
    ("MaxPool", (X,), {"kernel_shape": [2, 2], "dilations": [2, 2], "opset": 8}, ValueError, "from operator set 10"),
    ("AveragePool", (X,), {"kernel_shape": [2]}, ValueError, "2 are needed"),
    ("MaxUnpool", (Y, I + 16), {"kernel_shape": [2, 2], "strides": [2, 2]}, ValueError, "16.*outside"),
    ("Upsample", (X, [1.0, 1.0, 2.0, 2.0]), {"opset": 10}, ValueError, "opset=10"),
    ("Upsample", (X, [1.0, 1.0, 0.5, 2.0]), {}, ValueError, "at least 1"),
    ("Resize", (X, [1.0, 1.0, 2.0, 2.0]), {"mode": "cubic", "opset": 10}, ValueError, "cubic"),
    ("Resize", (X,), {}, ValueError, "either scales or sizes"),
    ("Resize", (X, None, [2.0]), {}, ValueError, "1 entries.*4 axes"),
    ("Resize", (X, None, [1.0, 1.0, 2.0, 2.0]), {"mode": "area"}, ValueError, "'area'"),
    ("Resize", (X, None, [1.0, 1.0, 2.0, 2.0]), {"antialias": 1, "mode": "linear", "opset": 13}, ValueError, "set 18"),
    (
        "Resize", (X, None, [1.0, 1.0, 2.0, 2.0]), {"coordinate_transformation_mode": "tf_half_pixel_for_nn"},
        ValueError, "11 and 12 only",
    ),
    ("DepthToSpace", (X,), {"blocksize": 2}, ValueError, "2 channels"),
    ("SpaceToDepth", (X,), {"blocksize": 2}, ValueError, "not multiples"),
    ("SpaceToDepth", (ones(1, 1, 2, 2),), {"blocksize": 2, "mode": "CRD", "opset": 13}, ValueError, "set 28"),
    ("Col2Im", (ones(1, 4, 5), [3, 3], [2, 2]), {}, ValueError, "not 5"),
]  # fmt: skip
LAX = [
    ((XT, WF, (2, 2), "SAME_LOWER"), {}, ValueError, "SAME_LOWER"),
    ((XT, WF, (2,), "SAME"), {}, ValueError, r"strides=\(2,\)"),
    ((XT, WF, (1, 1), [(0, 0), (-9, 0)]), {}, ValueError, "which is empty"),
    ((XT, WF.astype(jnp.float16), (2, 2), "SAME"), {}, TypeError, "float16"),
    ((XT, WF, (2, 2), "SAME"), {"feature_group_count": 3}, ValueError, "feature_group_count=3"),
    ((XT, WF[0], (2, 2), "SAME"), {}, ValueError, "same number of axes"),
    ((XT[None, None], WF[None, None], (1,) * 4, "SAME"), {}, ValueError, "dimension_numbers"),
]


def refused(function, args, kwargs, error, match):
    with pytest.raises(error, match=match) as caught:
        function(*args, **kwargs)
    assert type(caught.value) is error


@pytest.mark.parametrize("name,args,error,match", TORCH, ids=lambda v: v if isinstance(v, str) else "")
def test_torch(name, args, error, match):
    refused(getattr(torch, name), args, {}, error, match)


@pytest.mark.parametrize("name,args,error,match", TENSORFLOW, ids=lambda v: v if isinstance(v, str) else "")
def test_tensorflow(name, args, error, match):
    refused(getattr(tensorflow, name), args, {}, error, match)


@pytest.mark.parametrize("name,args,kwargs,error,match", ONNX, ids=lambda v: v if isinstance(v, str) else "")
def test_onnx(name, args, kwargs, error, match):
    refused(getattr(onnx, name), args, kwargs, error, match)


@pytest.mark.parametrize("args,kwargs,error,match", LAX, ids=lambda v: v if isinstance(v, str) else "")
def test_lax(args, kwargs, error, match):
    refused(lax.conv_transpose, args, kwargs, error, match)
