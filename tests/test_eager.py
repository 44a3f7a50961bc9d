"""Calls outside of any trace: one program each, made of everything that decides the result, and errors as ever."""

import gc
import pathlib
import subprocess
import sys
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.dialects import lax, onnx, tensorflow, torch

RNG = np.random.default_rng(20180312)


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


X, W, Y = normal(1, 6, 6, 4), normal(3, 3, 4, 4), normal(1, 3, 3, 4)
XT, WT, B = normal(1, 4, 6, 6), normal(4, 4, 3, 3), normal(4)
COLS = normal(1, 4, 4, 36)
INDICES = jnp.arange(36).reshape(1, 3, 3, 4)

# name -> (function, operands, settings): every function that is decorated, settings in the forms that users write
CALLS = {
    "conv": (jc.conv, (X, W), {"stride": 2, "padding": ((1, 1), (0, 2))}),
    "conv circular": (jc.conv, (X, W), {"padding": [1, 2], "padding_mode": "circular"}),
    "conv_transpose": (jc.conv_transpose, (Y, W), {"stride": (2, 2), "padding": "SAME"}),
    "conv_kernel": (jc.conv_kernel, (X, X, (3, 3)), {"padding": 1, "precision": "highest"}),
    "max_pool": (jc.max_pool, (X, 2), {"return_indices": True}),
    "avg_pool": (jc.avg_pool, (X, [3, 3]), {"stride": 2, "ceil_mode": True}),
    "max_unpool": (jc.max_unpool, (Y, INDICES, 6), {}),
    "resize": (jc.resize, (X,), {"scale": (1.5, 2.0), "method": "cubic"}),
    "pixel_shuffle": (jc.pixel_shuffle, (X, 2), {}),
    "pixel_unshuffle": (jc.pixel_unshuffle, (X,), {"factor": (2, 3)}),
    "unfold": (jc.unfold, (X, 3), {}),
    "fold": (jc.fold, (COLS, 6, 3), {}),
    "torch.conv2d": (torch.conv2d, (XT, WT, B), {"padding": "same"}),
    "torch.conv1d": (torch.conv1d, (XT[:, :, 0], WT[:, :, 0], None, 1), {"groups": 1}),
    "torch.conv_transpose2d": (torch.conv_transpose2d, (XT, WT), {"stride": 2, "output_padding": 1, "bias": B}),
    "torch.max_pool2d": (torch.max_pool2d, (XT, 2), {}),
    "torch.avg_pool2d": (torch.avg_pool2d, (XT, 3), {"padding": 1}),
    "torch.adaptive_avg_pool2d": (torch.adaptive_avg_pool2d, (XT, (2, None)), {}),
    "torch.adaptive_max_pool2d": (torch.adaptive_max_pool2d, (XT, 3), {"return_indices": True}),
    "torch.interpolate": (torch.interpolate, (XT,), {"size": [7, 5], "mode": "bilinear"}),
    "torch.pixel_shuffle": (torch.pixel_shuffle, (XT, 2), {}),
    "torch.pixel_unshuffle": (torch.pixel_unshuffle, (XT, 2), {}),
    "torch.unfold": (torch.unfold, (XT, 3), {}),
    "torch.fold": (torch.fold, (normal(1, 36, 16), 6, 3), {}),
    "torch.pad": (torch.pad, (XT[0], (1, 2)), {"mode": "reflect"}),
    "tensorflow.conv2d": (tensorflow.conv2d, (X, W, [1, 2, 2, 1], "SAME"), {}),
    "tensorflow.depthwise_conv2d": (tensorflow.depthwise_conv2d, (X, W, (1, 1, 1, 1), "VALID"), {}),
    "tensorflow.conv2d_transpose": (tensorflow.conv2d_transpose, (Y, W, [1, 6, 6, 4], 2), {}),
    "tensorflow.image_resize": (tensorflow.image_resize, (X, (4, 5)), {"method": "lanczos3"}),
    "tensorflow.max_pool_with_argmax": (tensorflow.max_pool_with_argmax, (X, 2, 2, "SAME"), {"output_dtype": "int32"}),
    "tensorflow.depth_to_space": (tensorflow.depth_to_space, (X, 2), {}),
    "tensorflow.space_to_depth": (tensorflow.space_to_depth, (X, 2), {}),
    "tensorflow.space_to_batch": (tensorflow.space_to_batch, (X, [2, 3], [[0, 0], [0, 0]]), {}),
    "tensorflow.batch_to_space": (tensorflow.batch_to_space, (normal(4, 2, 2, 1), [2, 2], ((0, 0), (1, 0))), {}),
    "onnx.Conv": (onnx.Conv, (XT, WT, B), {"pads": [1, 1, 0, 0], "strides": [2, 2]}),
    "onnx.ConvTranspose": (onnx.ConvTranspose, (XT, WT), {"strides": [2, 2], "output_shape": [12, 12]}),
    "onnx.MaxPool": (onnx.MaxPool, (XT,), {"kernel_shape": [2, 2], "return_indices": True}),
    "onnx.AveragePool": (onnx.AveragePool, (XT,), {"kernel_shape": [2, 2], "count_include_pad": 1}),
    "onnx.Resize": (onnx.Resize, (XT,), {"sizes": [1, 4, 9, 9], "mode": "linear"}),
    "onnx.Upsample": (onnx.Upsample, (XT, [1.0, 1.0, 2.0, 1.5]), {}),
    "onnx.Col2Im": (onnx.Col2Im, (normal(1, 36, 16), [6, 6], [3, 3]), {}),
    "onnx.DepthToSpace": (onnx.DepthToSpace, (XT,), {"blocksize": 2}),
    "onnx.SpaceToDepth": (onnx.SpaceToDepth, (XT,), {"blocksize": 2}),
    "lax.conv_transpose": (lax.conv_transpose, (X, W, (2, 2), "SAME"), {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}),
}


def visited(call):
    """The files of jaxconv of which a function runs in `call`."""
    package, files = pathlib.Path(jc.__file__).parent, set()

    def look(frame, event, _):
        path = pathlib.Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(package):
            files.add(str(path.relative_to(package)))

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(before)
    return files


def is_kept(call):
    """Whether `call` only looks up a program: nothing is checked, resolved or traced."""
    work = ("ops", "trilinear", "geometry", "lattice", "padding", "lowering", "resampling")
    return not {name for name in visited(call) if name.startswith(work)}


def strided():
    return jc.conv(X, W, stride=2)


# ---------------------------------------------------------------------- one program


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_a_program_that_is_kept(name):
    function, operands, settings = CALLS[name]
    first = function(*operands, **settings)
    assert is_kept(lambda: function(*operands, **settings))
    plain = jax.jit(lambda: function(*operands, **settings))()  # traced: the function itself
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(plain), strict=True):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "setting",
    [
        lambda: jax.default_matmul_precision("highest"),
        lambda: jax.numpy_dtype_promotion("strict"),
        lambda: jax.enable_x64(True),
        lambda: jax.numpy_rank_promotion("raise"),
    ],
)
def test_a_program_is_of_one_setting_of_jax(setting):
    strided()
    with setting():
        assert not is_kept(strided)
        assert is_kept(strided)
    assert is_kept(strided)


def test_what_a_setting_of_jax_decides_is_decided_in_every_call():
    for _ in range(2):
        whole = jnp.ones((1, 2, 2, 1), jnp.int32)
        assert jc.conv(X, W.astype(jnp.bfloat16)).dtype == jnp.float32
        with jax.numpy_dtype_promotion("strict"), pytest.raises(jax.dtypes.TypePromotionError):
            jc.conv(X, W.astype(jnp.bfloat16))
        with pytest.raises(TypeError, match="at most 16 bits"):
            jc.resize(whole, 4)
        with jax.enable_x64(True):
            assert jc.resize(whole, 4).dtype == jnp.int32
            assert jc.conv(X.astype(jnp.float64), W).dtype == jnp.float64


def test_operands_decide_by_shape_type_and_weakness():
    half = W.astype(jnp.bfloat16)
    weak = jnp.broadcast_to(jnp.asarray(1.0), X.shape)
    assert weak.weak_type and jc.conv(weak, half).dtype == jnp.bfloat16
    assert jc.conv(X, half).dtype == jnp.float32
    assert jc.conv(X[:, :4], W).shape == (1, 2, 4, 4) and jc.conv(X, W).shape == (1, 4, 4, 4)
    assert torch.conv2d(XT, WT, None).shape == torch.conv2d(XT, WT, B).shape
    np.testing.assert_allclose(torch.conv2d(XT, WT, B), torch.conv2d(XT, WT) + B[:, None, None], rtol=1e-5, atol=1e-5)


def test_equal_settings_of_other_types_are_told_apart():
    expected = jc.conv(X, W, stride=1, padding=((1, 1), (1, 1)))
    for wrong in ({"stride": True}, {"stride": 1.0}, {"stride": (True, 1)}, {"stride": (1.0, 1.0)},
                  {"padding": ((1, 1), (True, 1))}, {"padding": [[1, 1], [1, 1.0]]}):  # fmt: skip
        with pytest.raises(TypeError, match="must be an integer"):
            jc.conv(X, W, **wrong)
    assert jc.resize(X, (9, 12)).shape == jc.resize(X, scale=(1.5, 2.0)).shape == (1, 9, 12, 4)
    with pytest.raises(TypeError, match="must be an integer"):
        jc.resize(X, (9.0, 12.0))
    for same in (
        {"padding": 1},
        {"padding": np.array([1, 1])},
        {"padding": jnp.array([1, 1])},
        {"padding": np.int64(1)},
    ):
        np.testing.assert_allclose(jc.conv(X, W, **same), expected, rtol=1e-5, atol=1e-5)


def test_arrays_of_numpy_and_numbers_are_read_as_ever():
    expected = strided()
    found = jc.conv(np.asarray(X, np.float64), W, stride=2)
    assert found.dtype == jnp.float32 and is_kept(lambda: jc.conv(np.asarray(X, np.float64), W, stride=2))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for wrong in (1.0, [1.0], None):
        with pytest.raises(TypeError, match="x must be an array"):
            jc.conv(wrong, W)
    assert jc.max_pool([[[1.0], [3.0]]], 2).tolist() == [[[3.0]]]


# ---------------------------------------------------------------------- errors, traces, memory


@pytest.mark.parametrize(
    "call",
    [
        lambda conv: conv(X, W[..., :3, :]),
        lambda conv: conv(X, W, stride=0),
        lambda conv: conv(X, W, strides=2),
        lambda conv: conv(X, W, 2),
        lambda conv: conv(X, W, x=X),
        lambda conv: conv(X),
        lambda conv: conv(X, W, padding=[1, 2, 3]),
    ],
)
def test_errors_are_those_of_the_function(call):
    with pytest.raises((ValueError, TypeError)) as expected:
        call(jc.conv.__wrapped__)
    with pytest.raises(expected.type) as found:
        call(jc.conv)
    assert str(found.value) == str(expected.value)
    assert not getattr(found.value, "__notes__", None) and found.value.__context__ is None


def test_what_is_traced_is_traced_as_ever():
    def plain(x, w):
        return jc.conv.__wrapped__(x, w, stride=2) + jc.conv.__wrapped__(X, W, stride=2)

    def function(x, w):
        return jc.conv(x, w, stride=2) + strided()

    for of in (lambda f: f, jax.jit, lambda f: jax.grad(lambda *a: f(*a).sum(), (0, 1)), jax.checkpoint):
        expected, found = (
            str(jax.make_jaxpr(of(f))(X, W)).replace("name=plain", "name=function") for f in (plain, function)
        )
        assert found == expected
    mapped = jax.vmap(lambda x: strided() + jc.conv(x, W, stride=2))(X[None])
    np.testing.assert_allclose(mapped[0], 2 * strided(), rtol=1e-5)


def test_at_compile_time_and_under_checks_of_leaks():
    @jax.jit
    def total():
        with jax.ensure_compile_time_eval():
            assert not isinstance(strided(), jax.core.Tracer)
        return strided().sum()

    np.testing.assert_allclose(total(), strided().sum(), rtol=1e-5)
    with jax.checking_leaks():
        np.testing.assert_allclose(total(), strided().sum(), rtol=1e-5)
    with jax.disable_jit():
        assert not is_kept(strided)


def test_a_nan_is_found_by_jax_debug_nans():
    x, w = jnp.full((1, 3, 3, 1), jnp.inf), jnp.ones((2, 2, 1, 1)).at[0].set(-1)
    assert np.isnan(jc.conv(x, w)).all()
    with jax.debug_nans(True):
        for call in (jc.conv, jax.jit(jc.conv), jax.grad(lambda x, w: jc.conv(x, w).sum())):
            with pytest.raises(FloatingPointError, match="nan"):
                call(x, w)


def test_no_array_is_kept():
    x, w = normal(1, 5, 5, 4), normal(3, 3, 4, 4)
    y = jc.conv(x, w)
    arrays = [weakref.ref(a) for a in (x, w, y)]
    del x, w, y
    gc.collect()
    assert [a() for a in arrays] == [None] * 3


def test_the_first_call_of_a_process_may_be_traced():
    program = """
import jax, jax.numpy as jnp
import jaxconv as jc
from jaxconv import _compat

x, w = jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 2))
traced = []
jax.jit(lambda x: (traced.append(_compat.nothing_is_traced()), jc.conv(x, w))[1])(x)
assert traced == [False] and _compat.nothing_is_traced()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
