"""What a user's editor knows of the library: checked by mypy, never run (its name is no test's)."""

from typing import assert_type

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc


def operations(x: jax.Array, w: jax.Array) -> None:
    """The functions of the top level say what they return."""
    assert_type(jc.conv(x, w, stride=2, padding="SAME"), jax.Array)
    assert_type(jc.conv_transpose(x, w, stride=(2, 2), output_size=(7, 7)), jax.Array)
    assert_type(jc.conv_kernel(x, x, (3, 3)), jax.Array)
    assert_type(jc.max_pool(x, 2), jax.Array)
    assert_type(jc.max_pool(x, 2, return_indices=True), tuple[jax.Array, jax.Array])
    assert_type(jc.resize(x, (8, 8)), jax.Array)
    jc.conv(x, w, stride="2")  # type: ignore[arg-type]
    jc.max_pool(x, 2, strides=2)  # type: ignore[call-overload]


def analysis(x: jax.Array) -> None:
    """So do the rooms that load when they are named."""
    assert_type(jc.analysis.receptive_field(jnp.sin, x, method="jaxpr"), jc.analysis.ReceptiveField)
    assert_type(jc.analysis.tiled(jnp.sin, 64), jc.analysis.Tiled)
    assert_type(jc.analysis.check_rates((1, 2, 5), 3), jc.analysis.RateCheck)
    assert_type(jc.dialects.torch.conv2d(x, x), jax.Array)


def matrices(w: np.ndarray) -> None:
    """The operator is its own class."""
    operator = jc.ConvOperator(w, (8, 8), stride=2)
    assert_type(operator, jc.ConvOperator)
