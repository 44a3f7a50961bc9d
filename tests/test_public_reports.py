"""Public reports about other libraries, tried here: one test each; docs/public-reports.md lists them."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxconv as jc
from jaxconv import dialects, nn

PAGE = Path(__file__).parents[1] / "docs" / "public-reports.md"
torch = dialects.torch


def test_pytorch_5112():
    """Output padding up to the larger of stride and dilation has its gradient, and a second one."""
    x, w = jnp.ones((1, 4, 1, 1)), jnp.ones((4, 1, 3, 3))
    f = lambda x: torch.conv_transpose2d(x, w, output_padding=1, dilation=2).sum()  # noqa: E731
    assert torch.conv_transpose2d(x, w, output_padding=1, dilation=2).shape == (1, 1, 6, 6)
    np.testing.assert_array_equal(jax.grad(f)(x), np.full((1, 4, 1, 1), 9))
    np.testing.assert_array_equal(jax.hessian(f)(x), np.zeros((1, 4, 1, 1) * 2))


def test_pytorch_63314():
    """The gradient of a stride reads the positions that the output was written to."""
    x = jnp.array([-2.0, -0.25]).reshape(1, 1, 2, 1)
    y, pull = jax.vjp(lambda x: jc.conv_transpose(x, jnp.full((1, 1, 1, 1), -0.5), stride=2), x)
    assert y[0, 0, :, 0].tolist() == [1, 0, 0.125]
    assert pull(jnp.array([1.5, 0, 0.75]).reshape(1, 1, 3, 1))[0][0, 0, :, 0].tolist() == [-0.75, -0.375]


def test_pytorch_15501():
    """The kernel's gradient with stride and dilation, by hand."""
    a = jnp.array([[[7.0, 3]], [[3, 2]]])
    b = jnp.array([[[3.0, 6]], [[4, 2]]])
    y, pull = jax.vjp(lambda b: torch.conv1d(a, b, padding=1, stride=2, dilation=2), b)
    assert y.tolist() == [[[18], [6]], [[12], [4]]]
    assert pull(jnp.ones_like(y))[0].tolist() == [[[0, 5]], [[0, 5]]]


def test_pytorch_13008():
    """The adjoint of a dilated convolution has the size of its input."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 5, 5, 1)), rng.standard_normal((3, 3, 1, 1))
    y, pull = jax.vjp(lambda x: jc.conv(x, w, dilation=2), x)
    np.testing.assert_allclose(
        jc.conv_transpose(y, w, dilation=2, output_size=(5, 5)), pull(y)[0], rtol=1e-5, atol=1e-6
    )


def test_pytorch_48400():
    """A stride of the kernel's length with pads upsamples along two axes and leaves the third."""
    x = jnp.arange(1.0, 17).reshape(1, 1, 1, 4, 4)
    y = torch.conv_transpose3d(x, jnp.ones((1, 1, 1, 4, 4)), stride=(1, 4, 4), padding=(0, 2, 2))
    full = np.asarray(x).repeat(4, -1).repeat(4, -2)
    np.testing.assert_array_equal(y, full[..., 2:-2, 2:-2])


def test_pytorch_92791():
    """Groups of zero are refused by name."""
    with pytest.raises(ValueError, match="groups"):
        torch.conv_transpose3d(jnp.ones((4, 3, 4, 5)), jnp.ones((4, 5, 3, 3, 3)), jnp.ones(5), groups=0)


def test_pytorch_108676():
    """Depthwise transposes with more groups than one, a 1x1 kernel and dilation."""
    x, w = jnp.ones((9, 42, 1, 5)), jnp.ones((42, 1, 1, 1))
    y = torch.conv_transpose2d(x, w, dilation=(4, 3), groups=2)
    np.testing.assert_array_equal(y, np.full((9, 2, 1, 5), 21))


def test_pytorch_37844():
    """Circular pads fall on the axis that they are given for."""
    y = jc.conv(jnp.zeros((1, 20, 10, 6)), jnp.zeros((3, 3, 6, 1)), padding=(0, 1), padding_mode="circular")
    assert y.shape == (1, 18, 10, 1)


def test_pytorch_20981():
    """Circular pads are added in full, on both sides."""
    y = jc.conv(jnp.arange(5.0).reshape(1, 5, 1), jnp.ones((1, 1, 1)), padding=1, padding_mode="circular")
    assert y[0, :, 0].tolist() == [4, 0, 1, 2, 3, 4, 0]


def test_pytorch_24504():
    """Circular pads on one side only."""
    pads = [(4, 0)]
    y = jc.conv(jnp.arange(5.0).reshape(1, 5, 1), jnp.ones((1, 1, 1)), padding=pads, padding_mode="circular")
    assert y[0, :, 0].tolist() == [1, 2, 3, 4, 0, 1, 2, 3, 4]


def test_pytorch_7645():
    """A maximum over a window that holds NaN is NaN, and only that one."""
    y = jc.max_pool(jnp.array([jnp.nan, 0, 1, 2]).reshape(1, 4, 1), 2)
    np.testing.assert_array_equal(y[0, :, 0], [np.nan, 2])


def test_pytorch_73154():
    """Unpooling to windows and strides below one is refused."""
    with pytest.raises(ValueError, match="-1024|-16"):
        torch.max_unpool2d(jnp.ones((1, 1, 2, 2)), jnp.zeros((1, 1, 2, 2), int), (16, -1024), stride=(-16, 1))


def test_pytorch_68873():
    """Indices are positions of the size that they were taken in: unpooling to it and pooling again gives them back."""
    x = jnp.arange(1.0, 26).reshape(1, 5, 5, 1)
    pooled, where = jc.max_pool(x, 2, return_indices=True)
    np.testing.assert_array_equal(jc.max_pool(jc.max_unpool(pooled, where, (5, 5)), 2), pooled)


def test_pytorch_76487():
    """With aligned corners from n to 2n - 1 every second sample is the input's."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 4, 1)), jnp.float32)
    y = jc.resize(x, (7, 7), align_corners=True)
    np.testing.assert_allclose(y[:, ::2, ::2], x, atol=1e-6)


def test_jax_11517():
    """Pads that take more than there is are refused before any compilation."""
    with pytest.raises(ValueError, match="-5"):
        jc.conv(jnp.ones((1, 2, 3, 1)), jnp.ones((2, 2, 1, 1)), padding=[(5, 16), (-5, 1)])


def test_xla_48713():
    """Crops on one side and pads on the other read nothing outside of the row."""
    x = np.arange(6 * 15 * 8, dtype=np.float32).reshape(1, 15, 6, 8)
    y = jc.conv(x, np.eye(8, dtype=np.float32).reshape(1, 1, 8, 8), padding=[(0, 0), (-5, 1)])
    np.testing.assert_array_equal(y, np.pad(x[:, :, 5:], ((0, 0), (0, 0), (0, 1), (0, 0))))
    lax = jc.conv(x, np.eye(8, dtype=np.float32).reshape(1, 1, 8, 8), padding=[(0, 0), (-5, 1)], method="lax")
    np.testing.assert_array_equal(lax, y)


def test_jax_3973():
    """A dilated window longer than its input: pads keep the size, and without pads it is refused."""
    assert jc.avg_pool(jnp.ones((1, 1, 1)), 3, stride=1, dilation=3, padding="SAME").shape == (1, 1, 1)
    with pytest.raises(ValueError, match="7"):
        jc.avg_pool(jnp.ones((1, 1, 1)), 3, stride=1, dilation=3)


def test_equinox_884():
    """A one-dimensional transpose of stride 8, kernel 16 and pads of 4 is eight times as long."""
    layer = nn.ConvTranspose(4, 2, (16,), stride=8, padding=4, rngs=nnx.Rngs(0))
    assert layer(jnp.ones((1, 100, 4))).shape == (1, 800, 2)


def test_equinox_641():
    """Adaptive means of sizes that do not divide are PyTorch's windows: from floor(q n/m) to ceil((q + 1) n/m)."""
    x = np.random.default_rng(0).standard_normal((2, 3, 10))
    want = np.stack([x[..., q * 10 // 4 : -(-(q + 1) * 10 // 4)].mean(-1) for q in range(4)], -1)
    np.testing.assert_allclose(torch.adaptive_avg_pool1d(jnp.asarray(x), 4), want, rtol=1e-5, atol=1e-6)


def test_tensorflow_29841():
    """Transposes in three dimensions are dilated, each axis by its own rate."""
    y = jc.conv_transpose(jnp.ones((1, 3, 3, 3, 1)), jnp.ones((3, 3, 3, 1, 1)), dilation=(2, 1, 3))
    assert y.shape == (1, 7, 5, 9, 1)
    assert y[0, :, 0, 0, 0].tolist() == [1, 1, 2, 1, 2, 1, 1]


def test_tensorflow_46994():
    """Windows of zero pixels are refused."""
    with pytest.raises(ValueError, match="0"):
        jc.avg_pool(jnp.ones((1, 1, 1)), 0, stride=1, padding="SAME")


def test_tensorflow_13643():
    """Batches of nothing: results of the right size, gradients of zero."""
    x, w = jnp.zeros((0, 7, 7, 1)), jnp.ones((5, 5, 1, 16))
    f = lambda w: jc.conv_transpose(x, jnp.swapaxes(w, -1, -2), stride=2)  # noqa: E731
    assert f(w).shape == (0, 17, 17, 16)
    np.testing.assert_array_equal(jax.grad(lambda w: f(w).sum())(w), jnp.zeros_like(w))


def test_keras_22127():
    """Output padding of the stride or more is refused with its legal range."""
    with pytest.raises(ValueError, match="output_padding"):
        jc.conv_transpose(jnp.ones((1, 10, 10, 3)), jnp.ones((3, 3, 3, 3)), stride=2, output_padding=3)


def test_tensorflow_53291():
    """Unshuffling takes channels apart one after the other, as PyTorch does, and shuffling undoes it."""
    x = jnp.arange(1.0, 13).reshape(1, 2, 2, 3)
    y = jc.pixel_unshuffle(x, 2)
    assert y.reshape(-1).tolist() == [1, 4, 7, 10, 2, 5, 8, 11, 3, 6, 9, 12]
    np.testing.assert_array_equal(jc.pixel_shuffle(y, 2), x)


def test_the_page_lists_every_report_and_no_other():
    here = {m.replace("_", "#") for m in re.findall(r"^def test_((?:[a-z]+)_\d+)\(", Path(__file__).read_text(), re.M)}
    assert set(re.findall(r"\[([a-z]+#\d+)\]\(https://github\.com/", PAGE.read_text())) == here
    assert len(here) >= 20
