"""jaxconv.dialects.lax against jax.lax itself: random argument sets, layouts, and groups put together from parts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dialect_harness import Case, Tally, cases_per_name, run_case
from jax import lax

from jaxconv.dialects import lax as dialect

SEED = 20180312


def peer(case):
    out = jax.jit(lambda *a: lax.conv_transpose(*a, **case.kwargs))(*case.arrays)
    if 0 in out.shape:
        raise ValueError("lax returns an empty array, which the dialect refuses")
    return np.asarray(out)


def peer_grad(case, cotangent):
    forward = lambda *a: lax.conv_transpose(*a, **case.kwargs)  # noqa: E731
    return jax.jit(lambda ct, *a: jax.vjp(forward, *a)[1](ct))(cotangent, *case.arrays)


def cases():
    rng = np.random.default_rng(SEED)
    pick = lambda *choices: choices[rng.integers(len(choices))]  # noqa: E731
    while True:
        rank = pick(1, 1, 2)
        kernel, transposed = [pick(1, 2, 3, 4) for _ in range(rank)], pick(True, False)
        x = rng.standard_normal((pick(1, 2), *(pick(2, 3) for _ in range(rank)), 2))
        w = rng.standard_normal((*kernel, *((3, 2) if transposed else (2, 3))))
        numbers = [(pick(-1, 0, 1, 2, 3), pick(0, 1, 2)) for _ in range(rank)]
        kwargs = {
            "strides": tuple(pick(1, 2, 3) for _ in range(rank)),
            "padding": pick("SAME", "VALID", tuple(numbers)),
            "rhs_dilation": pick(None, tuple(pick(1, 2) for _ in range(rank))),
            "transpose_kernel": transposed,
            "use_consistent_padding": pick(True, False),
        }
        if rank == 2 and pick(True, False):
            kwargs["dimension_numbers"] = ("NCHW", "OIHW", pick("NCHW", "NHWC"))
            x, w = np.moveaxis(x, -1, 1), np.transpose(w, (3, 2, 0, 1))
        yield Case("conv_transpose", (x, w), (), kwargs, (0, 1))


def sweep(count):
    tally = Tally("jaxconv.dialects.lax")
    for case in itertools.islice(cases(), count):
        run_case(tally, case, dialect.conv_transpose, peer, peer_grad)
    tally.finish()


def test_random_argument_sets(x64):
    sweep(8)


@pytest.mark.slow
def test_random_argument_sets_by_the_hundred(x64):
    sweep(cases_per_name(50))


@pytest.mark.parametrize("transposed", [False, True])
def test_groups_are_the_parts_side_by_side(transposed, x64, rng):
    x = rng.standard_normal((2, 3, 6))
    w = rng.standard_normal((3, 2, 6) if transposed else (3, 3, 4))
    step = w.shape[-1] // 2
    parts = [
        lax.conv_transpose(
            x[..., 3 * g : 3 * g + 3], w[..., step * g : step * (g + 1)], (2,), "SAME", transpose_kernel=transposed
        )
        for g in range(2)
    ]
    got = dialect.conv_transpose(x, w, (2,), "SAME", transpose_kernel=transposed, feature_group_count=2)
    np.testing.assert_allclose(got, jnp.concatenate(parts, -1), atol=1e-12)


@pytest.mark.parametrize("transposed", [False, True])
def test_without_spatial_axes_it_is_a_matrix_product(transposed, x64, rng):
    x, w = rng.standard_normal((2, 3)), rng.standard_normal((4, 3) if transposed else (3, 4))
    got = dialect.conv_transpose(x, w, (), "VALID", transpose_kernel=transposed)
    np.testing.assert_allclose(got, lax.conv_transpose(x, w, (), "VALID", transpose_kernel=transposed), atol=1e-12)
