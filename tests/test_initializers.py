"""Initialisers against what they are for: interpolation, and nearest-neighbour upsampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc


@pytest.mark.parametrize("s, groups", [(1, 1), (2, 1), (3, 4), (4, 2), (2, 4)])
def test_bilinear_transposed_convolution_is_linear_resizing_inside(s, groups):
    k, p = 2 * s - s % 2, -(-(s - 1) // 2)
    x = np.random.default_rng(s).standard_normal((1, 6, 5, 4)).astype("float32")
    w = jc.initializers.bilinear()(None, (k, k, 4 // groups, 4))
    got = jc.conv_transpose(x, w, stride=s, padding=p, groups=groups, output_size=(6 * s, 5 * s))
    inside = (slice(None), slice(s, -s), slice(s, -s))
    np.testing.assert_allclose(got[inside], jc.resize(x, (6 * s, 5 * s))[inside], atol=1e-5)


@pytest.mark.parametrize("scale, kernel", [(2, (3, 3)), ((3,), (3,)), ((1, 2, 2), (1, 3, 1))])
def test_icnr_starts_as_nearest_upsampling(scale, kernel):
    r = scale if isinstance(scale, tuple) else (scale,) * len(kernel)
    w = jc.initializers.icnr(jax.nn.initializers.he_normal(), scale)(
        jax.random.key(0), (*kernel, 4, 2 * int(np.prod(r))), jnp.float32
    )
    x = np.random.default_rng(0).standard_normal((2, *(5,) * len(kernel), 4)).astype("float32")
    y = jc.pixel_shuffle(jc.conv(x, w, padding="SAME"), r)
    small = jc.conv(x, w[..., :: int(np.prod(r))], padding="SAME")
    np.testing.assert_allclose(y, jc.resize(small, tuple(5 * v for v in r), method="nearest"), atol=1e-5)
    assert float(jnp.std(w)) > 0


@pytest.mark.parametrize("call, words", [
    (lambda: jc.initializers.bilinear()(None, (3, 3)), "(3, 3)"),
    (lambda: jc.initializers.icnr(jax.nn.initializers.ones, 2)(None, (3, 3, 4, 6)), "6 output channels"),
    (lambda: jc.initializers.icnr(jax.nn.initializers.ones, 0)(None, (3, 3, 4, 8)), "scale=0"),
])  # fmt: skip
def test_refusals_name_the_value(call, words):
    with pytest.raises(ValueError) as error:
        call()
    assert words in str(error.value)
