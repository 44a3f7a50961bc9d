"""The layer that is divided by its true operator norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.linear.spectrum import reshaped_kernel_norm

nnx = pytest.importorskip("flax.nnx")


@pytest.mark.slow
def test_wrapped_layer_has_the_target_norm_where_the_reshaped_kernel_does_not():
    from jaxconv.nn import Conv
    from jaxconv.nn.spectral import OperatorNorm

    inner = Conv(2, 4, (3, 3), stride=2, padding=1, bias_init=jax.nn.initializers.ones, rngs=nnx.Rngs(0))
    layer = OperatorNorm(inner, (8, 8, 2), target=0.5, first_steps=200, rngs=nnx.Rngs(1))
    origin = jnp.zeros((1, 8, 8, 2))
    matrix = jax.jacobian(lambda x: layer(x[None], update=False)[0])(origin[0]).reshape(64, 128)
    np.testing.assert_allclose(np.linalg.norm(matrix, 2), 0.5, rtol=1e-4)
    np.testing.assert_allclose(layer(origin), jnp.ones((1, 4, 4, 4)), rtol=1e-6)  # the bias stays
    operator = jc.ConvOperator(inner.kernel[...], (8, 8), stride=2, padding=1)
    np.testing.assert_allclose(layer.norm(), operator.norm(), rtol=1e-4)
    assert abs(float(reshaped_kernel_norm(inner.kernel[...]) / operator.norm()) - 1) > 0.05


@pytest.mark.slow
def test_stored_vector_follows_training_and_evaluation_leaves_it():
    from jaxconv.nn import ConvTranspose
    from jaxconv.nn.spectral import OperatorNorm

    layer = OperatorNorm(
        ConvTranspose(2, 3, (3,), stride=2, padding=1, use_bias=False, rngs=nnx.Rngs(0)), (6, 2), rngs=nnx.Rngs(1)
    )
    x = jnp.ones((2, 6, 2))

    @nnx.jit
    def step(layer, x):
        loss, gradient = nnx.value_and_grad(lambda layer: jnp.sum(layer(x) ** 2))(layer)
        kernel = layer.layer.kernel
        kernel[...] = kernel[...] - 0.01 * gradient["layer"]["kernel"][...]
        return loss

    before = np.asarray(layer.vector[...])
    losses = [float(step(layer, x)) for _ in range(3)]
    assert losses[-1] < losses[0]
    after = np.asarray(layer.vector[...])
    assert np.abs(after - before).max() > 0
    layer(x, update=False)
    np.testing.assert_array_equal(layer.vector[...], after)
    with pytest.raises(ValueError, match="target=0"):
        OperatorNorm(layer.layer, (6, 2), target=0, rngs=nnx.Rngs(0))
