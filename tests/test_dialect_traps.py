"""Where frameworks disagree about the same words: sizes and positions by each dialect's own rule, one test a trap."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import jaxconv as jc
from jaxconv.dialects import lax, onnx, tensorflow, torch


def full_transpose(y, w, s):
    """The uncropped transpose of a 1-D stride-s convolution with kernel w (k, out, in), written as a loop."""
    n = (y.shape[1] - 1) * s + w.shape[0]
    g = reference.geometry_of((n,), w.shape[:1], s=(s,), d=(1,), padding=((0, 0),))
    return reference.conv_transpose(y, w, g)


@pytest.fixture
def operands(rng):
    def make(i, k):
        return rng.standard_normal((1, i, 2)), rng.standard_normal((k, 3, 2))

    return make


def ours_to_torch(y, w):
    return jnp.moveaxis(jnp.asarray(y), -1, 1), jnp.transpose(jnp.asarray(w), (2, 1, 0))


# ---------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    "i,k,s,d", [(4, 3, 2, 1), (4, 1, 3, 1), (3, 2, 4, 1), (5, 4, 2, 1), (3, 3, 2, 2), (4, 2, 1, 3)]
)
def test_output_sizes_follow_each_framework(i, k, s, d):
    extent = d * (k - 1) + 1
    x, w = jax.ShapeDtypeStruct((1, i, 1), jnp.float32), jax.ShapeDtypeStruct((k, 1, 1), jnp.float32)
    size = lambda *a, **kw: jax.eval_shape(lambda x, w: lax.conv_transpose(x, w, (s,), *a, **kw), x, w).shape[1]  # noqa: E731
    assert size("SAME", (d,)) == i * s
    assert size("VALID", (d,)) == (i - 1) * s + max(extent, s)
    assert size([(extent, extent + 1)], (d,)) == (i - 1) * s + 2 - extent + 2 * extent + 1
    assert size([(0, 0)], (d,), use_consistent_padding=True) == (i - 1) * s + extent
    xt, wt = jax.ShapeDtypeStruct((1, 1, i), jnp.float32), jax.ShapeDtypeStruct((1, 1, k), jnp.float32)
    for extra in range(max(s, d)):
        got = jax.eval_shape(lambda x, w, e=extra: torch.conv_transpose1d(x, w, None, s, 0, e, 1, d), xt, wt).shape[2]
        assert got == (i - 1) * s + extent + extra
    got = jax.eval_shape(
        lambda x, w: onnx.ConvTranspose(x, w, strides=[s], dilations=[d], auto_pad="SAME_UPPER"), xt, wt
    )
    assert got.shape[2] == i * s


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("i,k,s", [(4, 3, 2), (3, 1, 3), (2, 4, 3)])
def test_tensorflow_takes_exactly_the_sizes_that_could_have_produced_the_input(padding, i, k, s):
    x, w = jnp.ones((1, i, 1)), jnp.ones((k, 1, 1))
    legal = [n for n in range(1, 30) if (-(-n // s) if padding == "SAME" else -(-(n - k + 1) // s)) == i]
    for n in range(1, 20):
        call = lambda x, w, n=n: tensorflow.conv1d_transpose(x, w, [1, n, 1], s, padding)  # noqa: E731
        if n in legal:
            assert jax.eval_shape(call, x, w).shape == (1, n, 1)
        else:
            with pytest.raises(ValueError, match=rf"{legal[0]}(\.\.{legal[-1]})?"):
                jax.eval_shape(call, x, w)


# ---------------------------------------------------------------------- positions


def test_same_is_one_pixel_apart_between_lax_and_pytorch_for_kernel_3(x64, operands):
    y, w = operands(4, 3)
    full, plain = full_transpose(y, w, 2), jnp.flip(jnp.swapaxes(w, 1, 2), 0)
    from_lax = lax.conv_transpose(y, plain, (2,), "SAME")
    from_torch = torch.conv_transpose1d(*ours_to_torch(y, w), None, 2, 1, 1)
    padded = np.pad(full, ((0, 0), (0, 1), (0, 0)))
    np.testing.assert_allclose(from_lax, full[:, 0:8], atol=1e-12)
    np.testing.assert_allclose(jnp.moveaxis(from_torch, 1, -1), padded[:, 1:9], atol=1e-12)


def test_same_agrees_between_lax_and_pytorch_for_kernel_4(x64, operands):
    y, w = operands(4, 4)
    from_lax = lax.conv_transpose(y, w, (2,), "SAME", transpose_kernel=True)
    from_torch = torch.conv_transpose1d(*ours_to_torch(y, w), None, 2, 1)
    np.testing.assert_allclose(from_lax, jnp.moveaxis(from_torch, 1, -1), atol=1e-12)


@pytest.mark.parametrize("k,s", [(3, 2), (2, 2), (1, 3), (2, 4)])
def test_valid_is_pytorch_without_padding_only_where_the_kernel_covers_the_stride(k, s, x64, operands):
    y, w = operands(3, k)
    from_lax = lax.conv_transpose(y, w, (s,), "VALID", transpose_kernel=True)
    from_torch = jnp.moveaxis(torch.conv_transpose1d(*ours_to_torch(y, w), None, s), 1, -1)
    assert (from_lax.shape == from_torch.shape) == (k >= s)
    np.testing.assert_allclose(from_lax[:, : from_torch.shape[1]], from_torch, atol=1e-12)
    assert not np.any(from_lax[:, from_torch.shape[1] :])


@pytest.mark.parametrize("k,d,p,op", [(2, 1, 0, 0), (3, 1, 1, 1), (4, 1, 1, 0), (3, 2, 2, 1)])
def test_numbers_for_lax_that_mean_pytorchs_padding(k, d, p, op, x64, operands):
    """low d(k-1)-p, high d(k-1)-p+op: `1 - p`, as is often written, holds for k = 2 only."""
    y, w = operands(3, k)
    pads = [(d * (k - 1) - p, d * (k - 1) - p + op)]
    got = lax.conv_transpose(y, w, (2,), pads, (d,), transpose_kernel=True)
    want = torch.conv_transpose1d(*ours_to_torch(y, w), None, 2, p, op, 1, d)
    np.testing.assert_allclose(got, jnp.moveaxis(want, 1, -1), atol=1e-12)


def test_output_padding_beyond_the_stride_but_below_the_dilation(x64, operands):
    y, w = operands(3, 2)
    got = torch.conv_transpose1d(*ours_to_torch(y, w), None, 1, 0, 2, 1, 3)
    want = torch.conv_transpose1d(*ours_to_torch(y, w), None, 1, 0, 0, 1, 3)
    np.testing.assert_allclose(got[..., :-2], want, atol=1e-12)
    assert got.shape[-1] == want.shape[-1] + 2 and not np.any(got[..., -2:])


@pytest.mark.parametrize(
    "size,auto_pad", list(itertools.product((6, 7, 8), ("NOTSET", "SAME_LOWER", "SAME_UPPER", "VALID")))
)
def test_onnx_output_shape_puts_the_odd_pad_by_its_own_rule(size, auto_pad, x64, operands):
    y, w = operands(3, 4)
    full = full_transpose(y, w, 2)  # 8 elements
    total = 8 - size
    start = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
    got = onnx.ConvTranspose(*ours_to_torch(y, w), strides=[2], output_shape=[size], auto_pad=auto_pad)
    np.testing.assert_allclose(jnp.moveaxis(got, 1, -1), full[:, start : start + size], atol=1e-12)


def test_onnx_output_shape_larger_than_the_full_size_starts_before_it(x64, operands):
    y, w = operands(3, 2)
    full = full_transpose(y, w, 2)  # 6 elements: total = -1, floor(-1/2) = -1 for SAME_UPPER, 0 for the rest
    upper = onnx.ConvTranspose(*ours_to_torch(y, w), strides=[2], output_shape=[7], auto_pad="SAME_UPPER")
    np.testing.assert_allclose(jnp.moveaxis(upper, 1, -1), np.pad(full, ((0, 0), (1, 0), (0, 0))), atol=1e-12)
    lower = onnx.ConvTranspose(*ours_to_torch(y, w), strides=[2], output_shape=[7], auto_pad="SAME_LOWER")
    np.testing.assert_allclose(jnp.moveaxis(lower, 1, -1), np.pad(full, ((0, 0), (0, 1), (0, 0))), atol=1e-12)


# ---------------------------------------------------------------------- weights, groups, orders


def test_groups_of_every_dialect_agree(x64, rng):
    """One grouped transposed convolution in four layouts, against the definition's loops."""
    g, y, w = 2, rng.standard_normal((1, 3, 4)), rng.standard_normal((3, 3, 4))  # ours: (k, out/g, in)
    geometry = reference.geometry_of((7,), (3,), s=(2,), d=(1,), padding=((0, 0),))
    want = reference.conv_transpose(y, w, geometry, groups=g)
    yt, wt = ours_to_torch(y, w)
    got = {
        "torch": jnp.moveaxis(torch.conv_transpose1d(yt, wt, None, 2, groups=g), 1, -1),
        "onnx": jnp.moveaxis(onnx.ConvTranspose(yt, wt, strides=[2], group=g), 1, -1),
        "tensorflow": tensorflow.conv1d_transpose(y, w, [1, 7, 6], 2, "VALID"),
        "lax": lax.conv_transpose(y, w, (2,), "VALID", transpose_kernel=True, feature_group_count=g),
    }
    # The plain forward kernel of the same map: channels exchanged inside each group, taps flipped.
    plain = np.flip(w, 0).reshape(3, 3, g, 2).transpose(0, 3, 2, 1).reshape(3, 2, 6)
    got["lax, kernel not flipped"] = lax.conv_transpose(y, plain, (2,), "VALID", feature_group_count=g)
    for name, value in got.items():
        np.testing.assert_allclose(value, want, atol=1e-12, err_msg=name)


def test_depth_to_space_has_two_orders():
    x = np.arange(8.0).reshape(1, 8, 1, 1)
    crd, dcr = (onnx.DepthToSpace(x, blocksize=2, mode=m)[0, :, :, :] for m in ("CRD", "DCR"))
    np.testing.assert_array_equal(crd, torch.pixel_shuffle(x, 2)[0])
    np.testing.assert_array_equal(crd, [[[0, 1], [2, 3]], [[4, 5], [6, 7]]])
    np.testing.assert_array_equal(dcr, [[[0, 2], [4, 6]], [[1, 3], [5, 7]]])
    np.testing.assert_array_equal(dcr, tensorflow.depth_to_space(x, 2, "NCHW")[0])


def test_nearest_of_jax_image_is_pytorchs_nearest_exact():
    x = np.arange(5.0, dtype=np.float32)
    for m in (2, 3, 7):
        jax_nearest = jax.image.resize(x, (m,), "nearest")
        np.testing.assert_array_equal(torch.interpolate(x[None, None], m, mode="nearest-exact")[0, 0], jax_nearest)
    assert not np.array_equal(torch.interpolate(x[None, None], 2)[0, 0], jax.image.resize(x, (2,), "nearest"))


def test_a_scale_that_keeps_the_size_is_passed_over_where_pytorch_does():
    row = jnp.arange(3.0)
    plane = jnp.broadcast_to(row[:, None], (3, 3))[None, None]
    for mode in ("nearest", "bilinear"):
        np.testing.assert_array_equal(torch.interpolate(plane, scale_factor=1.3, mode=mode), plane)
    np.testing.assert_array_equal(torch.interpolate(row[None, None], scale_factor=1.3, mode="linear").ravel(), row)
    # Not in one dimension, by the nearest center, or in large outputs.
    assert torch.interpolate(row[None, None], scale_factor=1.3).ravel().tolist() == [0, 0, 1]
    long = jnp.broadcast_to(jnp.arange(150.0)[:, None], (150, 2))[None, None]
    assert torch.interpolate(long, scale_factor=(1.004, 1))[0, 0, -1, 0] == 148
    exact = torch.interpolate(plane, scale_factor=1.3, mode="nearest-exact")
    assert exact[0, 0, :, 0].tolist() == [0, 1, 1]


def test_align_corners_with_one_output_reads_the_first_element():
    x = jnp.arange(1.0, 5.0).reshape(1, 1, 4)
    assert torch.interpolate(x, 1, mode="linear", align_corners=True).item() == 1
    assert (
        onnx.Resize(x, None, None, [1, 1, 1], mode="linear", coordinate_transformation_mode="align_corners").item() == 1
    )


def test_last_of_duplicate_indices_wins_and_gets_the_gradient():
    y, i = jnp.asarray([[[1.0, 2.0, 3.0]]]), jnp.asarray([[[1, 1, 0]]])
    for unpool in (
        lambda y: torch.max_unpool1d(y, i, 2),
        lambda y: onnx.MaxUnpool(y, i, kernel_shape=[2], strides=[2]),
    ):
        assert unpool(y).ravel().tolist() == [3, 2, 0, 0, 0, 0]
        assert jax.grad(lambda y, f=unpool: f(y).sum())(y).ravel().tolist() == [0, 1, 1]


def test_integers_keep_their_type_and_their_wrap():
    x, w = jnp.full((1, 1, 2), 100, jnp.int8), jnp.full((1, 1, 2), 1, jnp.int8)
    assert torch.conv1d(x, w).item() == -56  # 200 in 8 bits
    x = jnp.asarray([[[-3, 2, 4]]], jnp.int32)
    assert torch.avg_pool1d(x, 2, 1).ravel().tolist() == [0, 3]  # towards zero
    assert torch.max_pool1d(x, 2, 1).dtype == jnp.int32


def test_nan_wins_in_pooling_and_pads_never_do():
    x = jnp.asarray([[[-2.0, jnp.nan, -1.0, -5.0]]])
    y, i = torch.max_pool1d(x, 2, padding=1, return_indices=True)
    np.testing.assert_array_equal(y.ravel(), [-2, np.nan, -5])
    assert i.ravel().tolist() == [0, 1, 3]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_convolution_types(dtype):
    x, w = jnp.ones((1, 2, 4), dtype), jnp.ones((2, 2, 3), dtype)
    for y in (torch.conv1d(x, w), torch.conv_transpose1d(x, w, stride=2), onnx.Conv(x, w)):
        assert y.dtype == dtype
    assert torch.conv1d(x, w).ravel()[0] == 6


def test_circular_pads_beside_an_axis_cropped_to_nothing():
    assert torch.pad(jnp.ones((1, 2, 3, 4)), (1, 2, -2, -1), "circular").shape == (1, 2, 0, 7)


def test_a_batch_of_none_and_an_input_without_channels():
    assert torch.conv2d(jnp.ones((0, 2, 4, 4)), jnp.ones((3, 2, 3, 3))).shape == (0, 3, 2, 2)
    y = torch.conv1d(jnp.ones((1, 0, 4)), jnp.ones((3, 0, 2)), jnp.arange(3.0))
    np.testing.assert_array_equal(y, jnp.broadcast_to(jnp.arange(3.0)[:, None], (1, 3, 3)))
    assert tensorflow.conv1d(jnp.ones((1, 2, 1)), jnp.ones((3, 1, 2)), 1, "VALID").shape == (1, 0, 2)


@pytest.mark.parametrize(
    "n,k,s,same,valid", [(0, 1, 1, 0, 0), (0, 3, 1, 0, None), (0, 3, 2, 0, 0), (2, 3, 1, 2, 0), (1, 3, 1, 1, None)]
)
def test_tensorflow_gives_empty_arrays_where_its_division_says_zero(n, k, s, same, valid):
    """As TensorFlow 2.21 computes them: negative numerators are rounded towards zero, smaller sizes refused."""
    x, w = jnp.ones((1, n, 2)), jnp.ones((k, 2, 3))
    for padding, size in (("SAME", same), ("VALID", valid)):
        if size is None:
            with pytest.raises(ValueError):
                tensorflow.conv1d(x, w, s, padding)
            continue
        assert tensorflow.conv1d(x, w, s, padding).shape == (1, size, 3)
        if size == 0:  # and back: nothing to add up
            y = tensorflow.conv1d_transpose(jnp.ones((1, 0, 3)), w, [1, n, 2], s, padding)
            assert y.shape == (1, n, 2) and not y.any()
    with pytest.raises(ValueError):
        tensorflow.conv1d_transpose(jnp.ones((1, 0, 3)), w, [1, n + 3 * s, 2], s)


def test_tensorflow_edges_that_change_nothing_or_give_nothing():
    x = jnp.arange(4.0).reshape(2, 2)
    none = np.zeros((0, 2), np.int32)
    np.testing.assert_array_equal(tensorflow.space_to_batch(x, [], none), x)
    np.testing.assert_array_equal(tensorflow.batch_to_space(x, [], none), x)
    assert tensorflow.conv2d(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 0)), 1, "SAME").shape == (1, 4, 4, 0)
    with pytest.raises(ValueError, match="empty image"):
        tensorflow.image_resize(jnp.ones((1, 2, 2, 0)), (3, 3))


def test_dialects_and_core_are_one_implementation(rng):
    """A dialect's jaxpr holds the core's primitive and no convolution of lax."""
    x, w = jnp.ones((1, 2, 4, 4)), jnp.ones((2, 3, 3, 3))
    text = str(jax.make_jaxpr(lambda x, w: torch.conv_transpose2d(x, w, stride=2))(x, w))
    assert "conv_adjoint" in text and "conv_general_dilated" not in text
    y = jc.conv_transpose(jnp.moveaxis(x, 1, -1), jnp.transpose(w, (2, 3, 1, 0)), stride=2)
    np.testing.assert_array_equal(torch.conv_transpose2d(x, w, stride=2), jnp.moveaxis(y, -1, 1))
