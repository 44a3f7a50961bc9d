"""The four steps give what the operation and the definition give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from cases import random_case
from test_matrix import REGISTRY

from jaxconv.linear.recipe import conv_transpose_steps


def check(case):
    _, w, y = case.arrays()
    with jax.enable_x64(True):
        steps = conv_transpose_steps(y, w, **case.params, output_size=case.n)
        want = reference.conv_transpose(y, w, case.record, case.groups)
        np.testing.assert_allclose(steps.result, want, rtol=1e-12, atol=1e-12, err_msg=str(case))
    s, m = case.stride, case.record["m"]
    assert steps.inserted.shape[1:-1] == tuple((a - 1) * b + 1 for a, b in zip(m, s, strict=True))
    assert steps.kernel.shape == (*case.k, w.shape[-1] // case.groups, w.shape[-2] * case.groups)


@pytest.mark.parametrize("index", [0, 3, 6])
def test_steps_end_in_the_transposed_convolution(index):
    check(REGISTRY[index])


@pytest.mark.slow
def test_steps_over_the_registry_and_random_cases():
    for case in [*REGISTRY, *map(random_case, range(4000, 4006))]:
        check(case)


def test_output_padding_pads_the_end_and_crops_where_negative():
    y, w = jnp.ones((4, 1)), jnp.ones((3, 1, 1))
    assert conv_transpose_steps(y, w, stride=2, padding=1, output_padding=1).pads == ((1, 2),)
    assert conv_transpose_steps(y, w, stride=2, padding=((4, 0),)).pads == ((-2, 2),)
    with pytest.raises(ValueError, match="output_size=.9,. is not reachable"):
        conv_transpose_steps(y, w, stride=2, padding=1, output_size=9)
