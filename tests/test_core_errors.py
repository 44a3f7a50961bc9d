"""Bad input: an error that names the user's values and the legal range, before anything is compiled."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc

X, W = np.ones((2, 8, 8, 4), np.float32), np.ones((3, 3, 4, 6), np.float32)
Y = np.ones((2, 4, 4, 6), np.float32)


def conv(**changed):
    return lambda: jc.conv(changed.pop("x", X), changed.pop("w", W), **changed)


def transpose(**changed):
    return lambda: jc.conv_transpose(changed.pop("y", Y), changed.pop("w", W), **changed)


def kernel(**changed):
    return lambda: jc.conv_kernel(
        changed.pop("x", X), changed.pop("y", Y), changed.pop("kernel_size", (3, 3)), **changed
    )


BAD = {
    # what: (call, error, what the message must say)
    "kernel without a spatial axis": (conv(w=np.ones((4, 6))), ValueError, ["(4, 6)", "at least 3 axes"]),
    "x with too few axes": (conv(x=np.ones((8, 4))), ValueError, ["(8, 4)", "2 spatial axes", "at least 3 axes"]),
    "channels that do not fit": (conv(x=np.ones((2, 8, 8, 5))), ValueError, ["5 channels", "(3, 3, 4, 6)"]),
    "groups that do not divide": (conv(groups=3), ValueError, ["4 channels", "groups=3"]),
    "groups that do not divide the output": (
        conv(w=np.ones((3, 3, 1, 6)), groups=4),
        ValueError,
        ["6 output channels", "groups=4"],
    ),
    "kernel not divided by groups": (conv(groups=2), ValueError, ["groups=2", "must be 2, got 4"]),
    "zero groups": (conv(groups=0), ValueError, ["groups=0"]),
    "negative stride": (conv(stride=-1), ValueError, ["stride=-1", "at least 1"]),
    "zero dilation": (conv(dilation=(1, 0)), ValueError, ["dilation=(1, 0)", "at least 1"]),
    "float stride": (conv(stride=2.0), TypeError, ["stride=2.0", "integer", "float"]),
    "bool stride": (conv(stride=True), TypeError, ["stride=True", "bool"]),
    "float padding": (conv(padding=0.5), TypeError, ["padding=0.5", "integer"]),
    "stride of another rank": (conv(stride=(1, 1, 1)), ValueError, ["stride=(1, 1, 1)", "3 entries", "2 spatial axes"]),
    "padding of another rank": (conv(padding=(1, 1, 1)), ValueError, ["padding=(1, 1, 1)", "3 ints", "2 spatial axes"]),
    "padding triples": (conv(padding=((1, 1, 1), (1, 1, 1))), ValueError, ["(1, 1, 1) is not a (lo, hi) pair"]),
    "padding of mixed kinds": (conv(padding=(1, (1, 1))), ValueError, ["mixes"]),
    "unknown padding": (conv(padding="FULL"), ValueError, ["'FULL'", "'SAME'", "'CAUSAL'"]),
    "unknown padding mode": (conv(padding_mode="symmetric"), ValueError, ["'symmetric'", "'circular'"]),
    "unknown method": (conv(method="magic"), ValueError, ["'magic'", "'lax'"]),
    "a method that cannot serve": (
        conv(method="space_to_batch"),
        ValueError,
        ["'space_to_batch'", "dilation=(1, 1)", "'lax'", "'taps'"],
    ),
    "empty output": (conv(dilation=4), ValueError, ["axis 0", "spans 8", "spans 9", "at least 9"]),
    "empty output by cropping": (conv(padding=-3), ValueError, ["spans 2", "at least 9"]),
    "empty input": (conv(x=np.ones((2, 0, 8, 4))), ValueError, ["(0, 8)", "at least 1"]),
    "no channels": (
        conv(x=np.ones((2, 8, 8, 0)), w=np.ones((3, 3, 0, 6))),
        ValueError,
        ["channels must be at least 1"],
    ),
    "reflection of a single element": (
        conv(x=np.ones((2, 1, 8, 4)), padding=1, padding_mode="reflect"),
        ValueError,
        ["axis 0", "at least 2", "got 1"],
    ),
    "integers that would wrap": (
        conv(x=X.astype(np.int8), w=W.astype(np.int8)),
        TypeError,
        ["int8", "preferred_element_type"],
    ),
    "booleans": (conv(x=X > 0, w=W > 0), TypeError, ["bool"]),
    "not an array": (conv(x=[[1.0]]), TypeError, ["x must be an array", "list"]),
    "unreachable output size": (
        transpose(stride=2, padding=1, output_size=(7, 9)),
        ValueError,
        ["output_size=(7, 9) is not reachable", "stride 2", "kernel 3", "gives 4 from 7..8", "axis 1", "got 9"],
    ),
    "output padding not below the stride": (
        transpose(stride=2, padding=1, output_padding=2),
        ValueError,
        ["output_padding=2", "0..1", "7..8"],
    ),
    "output padding at stride 1": (
        transpose(output_padding=(0, 1)),
        ValueError,
        ["output_padding=(0, 1)", "from 6", "axis 1"],
    ),
    "negative output padding": (
        transpose(stride=2, output_padding=-1),
        ValueError,
        ["output_padding=-1", "at least 0"],
    ),
    "both": (transpose(stride=2, output_size=9, output_padding=0), ValueError, ["output_size=9", "output_padding=0"]),
    "SAME of another size": (
        transpose(stride=2, padding="SAME", output_size=9),
        ValueError,
        ["padding SAME", "7..8", "got 9"],
    ),
    "transposed channels that do not fit": (
        transpose(y=np.ones((2, 4, 4, 4))),
        ValueError,
        ["4 channels", "last axis is 6", "forward convolution's kernel"],
    ),
    "nothing can be that small": (
        transpose(y=np.ones((2, 1, 1, 6)), padding=3),
        ValueError,
        ["no legal output size", "gives 1 on axis 0"],
    ),
    "kernel_size that does not say the rank": (kernel(kernel_size=3), TypeError, ["kernel_size=3", "(3,)", "(3, 3)"]),
    "y of another size": (kernel(stride=2), ValueError, ["(4, 4)", "gives (3, 3)"]),
    "y of another batch": (kernel(y=np.ones((3, 4, 4, 6)), stride=2, padding=1), ValueError, ["(2,)", "(3,)"]),
    "y not divided by groups": (
        kernel(y=np.ones((2, 4, 4, 5)), stride=2, padding=1, groups=2),
        ValueError,
        ["y has 5 channels", "groups=2"],
    ),
}


@pytest.mark.parametrize(("call", "error", "says"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_by_name(call, error, says):
    with pytest.raises(error) as raised:
        call()
    for words in says:
        assert words in str(raised.value), str(raised.value)


def test_the_legal_range_in_the_message_is_the_legal_range():
    with pytest.raises(ValueError) as raised:
        transpose(stride=3, padding=1, dilation=2, output_size=(20, 20))()
    low, high = map(int, re.search(r"from (\d+)\.\.(\d+)", str(raised.value)).groups())
    for n in range(low - 2, high + 3):
        if low <= n <= high:
            assert jc.conv_transpose(Y, W, stride=3, padding=1, dilation=2, output_size=n).shape == (2, n, n, 4)
        else:
            with pytest.raises(ValueError, match="not reachable"):
                jc.conv_transpose(Y, W, stride=3, padding=1, dilation=2, output_size=n)


def test_numpy_integers_are_integers():
    assert jc.conv(X, W, stride=np.int64(2), padding=(np.int32(1), 1)).shape == (2, 4, 4, 6)
    assert jc.conv_transpose(Y, W, stride=np.array([2, 2]), padding=1, output_size=np.array([8, 7])).shape == (
        2,
        8,
        7,
        4,
    )


def test_an_image_batch_with_a_one_dimensional_kernel_is_a_batch_of_rows():
    """Any number of batch axes is legal, so (N, H, W, C) with a 1-D kernel convolves along W, never along H."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 8, 4)), jnp.float32)
    w = jnp.ones((3, 4, 6))
    assert jc.conv(x, w).shape == (2, 5, 6, 6)
    np.testing.assert_allclose(jc.conv(x, w)[1, 2], jc.conv(x[1, 2], w), rtol=1e-5)
