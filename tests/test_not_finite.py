"""A NaN or an infinity reaches what reads it and nothing else: docs/conventions.md, "What is not finite"."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from cases import random_case
from ways import WAYS

import jaxconv as jc
from jaxconv.dialects import torch
from jaxconv.resampling.adaptive import adaptive_avg_pool

FACES = {
    "apply": ((0, 1), reference.conv),
    "adjoint": ((2, 1), reference.conv_transpose),
    "kernel": ((0, 2), reference.conv_kernel),
}


def own_channels(name, at, shape, case):
    """Where a NaN of a kernel, or of the output's gradient, may be met: its channels, at every tap and position."""
    own = np.zeros(shape, bool)
    if name != "adjoint":
        own[..., at[-1]] = True
    else:
        i, o = case.channels
        own[..., at[-1] // o * i + at[-2]] = True
    return own


def check_reach(seed, dtype):
    case, rng = random_case(seed), np.random.default_rng(seed)
    arrays = case.arrays(dtype)
    for name, (slots, definition) in FACES.items():
        for which, value in ((0, np.nan), (0, np.inf), (1, np.nan), (1, -np.inf)):
            operands = [arrays[slot].copy() for slot in slots]
            at = tuple(int(rng.integers(n)) for n in operands[which].shape)
            operands[which][at] = value
            with np.errstate(invalid="ignore"):
                want = definition(*operands, case.record, case.groups)
            for way in WAYS:
                if way.serves(case, name):
                    got, said = np.asarray(getattr(way, name)(*operands, case)), f"{way.name} {name} {which} {case}"
                    finite = np.isfinite(got)
                    np.testing.assert_allclose(got[finite], want[finite], 1e-3, 1e-3, err_msg=said)
                    if which == 0:
                        np.testing.assert_array_equal(finite, np.isfinite(want), said)
                    else:
                        assert (~finite <= own_channels(name, at, got.shape, case)).all(), said


@pytest.mark.parametrize("seed", [1, 6])
def test_no_lowering_of_a_face_spreads_it(seed):
    check_reach(seed, np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 32))
def test_no_lowering_of_many_faces_spreads_it(seed):
    check_reach(seed, np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(32, 38))
def test_no_lowering_in_double_precision_spreads_it(seed, x64):
    check_reach(seed, np.float64)


def nans(y, *axes):
    """Where y is NaN along these axes."""
    y = np.isnan(np.asarray(y))
    return np.argwhere(y.any(tuple(a for a in range(y.ndim) if a not in axes))).tolist()


@pytest.mark.parametrize("f", [jc.conv, functools.partial(jc.conv, method="blocks")], ids=["auto", "blocks"])
def test_members_of_vmap_and_groups_keep_it_to_themselves(f):
    """Also in an exported program, which has merged groups instead of compiled kernels."""
    pytest.importorskip("flatbuffers")
    x = jnp.ones((4, 2, 12, 4)).at[1, 0, 5, 1].set(jnp.nan)
    w = jnp.ones((4, 3, 2, 4)).at[2, 1, 0, 3].set(jnp.inf)

    def members(x, w):
        g = functools.partial(f, padding=1, groups=2)
        y, pull = jax.vjp(jax.vmap(g), x, w)
        return y, *pull(jnp.where(jnp.isfinite(y), y, 1))

    exported = jax.export.export(jax.jit(members), platforms=("cpu",))(x, w)
    for run in (members, exported.call):
        y, x_gradient, w_gradient = run(x, w)
        assert nans(y, 0, 1, 2) == [[1, 0, q] for q in (4, 5, 6)] and nans(y, 3) == [[0], [1]]
        assert np.argwhere(np.isinf(y).any((1, 2))).tolist() == [[2, 3]]
        assert nans(w_gradient, 0) == [[1]] and nans(w_gradient, 3) == [[0], [1]] and nans(w_gradient, 2) == [[1]]
        assert np.argwhere(~np.isfinite(np.asarray(x_gradient)).all((1, 2))).tolist() == [[2, 2]]


RESAMPLED = {
    "a wide mean": (lambda x: jc.avg_pool(x, 16), (48, 33)),
    "wide means side by side": (lambda x: jc.avg_pool(x, 16, stride=5, padding=4), (20, 33)),
    "windows of padding alone": (lambda x: jc.avg_pool(x, 10, stride=2, padding=11), (4, 5)),
    "the mean of all": (lambda x: jc.avg_pool(x, (12, 20)), (24, 20)),
    "beyond 64 taps": (lambda x: jc.avg_pool(x, (2, 70), stride=1), (3, 80)),
    "antialiased": (lambda x: jc.resize(x, (8, 3), antialias=True), (32, 24)),
    "antialiased to less than a 64th": (lambda x: jc.resize(x, (4, 2), antialias=True), (8, 160)),
    "cubic": (lambda x: jc.resize(x, (5, 31), method="cubic", antialias=True), (16, 9)),
    "area": (lambda x: jc.resize(x, (3, 5), method="area"), (17, 23)),
    "adaptive": (lambda x: adaptive_avg_pool(x, (3, 4)), (7, 8)),
    "enlarged": (lambda x: jc.resize(x, (64, 20)), (4, 5)),
}
SLOW = ("wide means side by side", "the mean of all", "cubic", "enlarged", "beyond 64 taps")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in RESAMPLED])
def test_means_and_resizes_pass_on_what_they_read(name):
    """An output has the weight that it gives an input, if that input is 1 and the others 0; gradients the other way."""
    f, size = RESAMPLED[name]
    rng = np.random.default_rng(4)
    x = jnp.zeros((2, *size, 2), jnp.float32)
    y, pull = jax.vjp(jax.jit(f), x)
    for g, a in [(f, x), (lambda a: pull(a)[0], y)]:
        for value in (np.nan, np.inf):
            at = tuple(int(rng.integers(n)) for n in a.shape)
            np.testing.assert_array_equal(~np.isfinite(jax.jit(g)(a.at[at].set(value))), g(a.at[at].set(1)) != 0)


@pytest.mark.parametrize("name", ["mean", "resize"])
def test_derivatives_of_maps_read_what_the_definition_reads(name, x64, rng):
    """In double precision, in both modes, and under vmap: sums over the entries of the matrix that are not zero."""
    if name == "mean":  # of 70 from 5 positions with pads of 69: windows of padding alone read nothing
        f, n = (lambda x: jc.avg_pool(x, 70, stride=2, padding=69)), 5
        matrix = np.array([[0 <= j + 69 - 2 * q < 70 for j in range(n)] for q in range(37)]) / 70
    else:
        f, n = (lambda x: jc.resize(x, 60)), 3
        at = [min(max((o + 0.5) * n / 60 - 0.5, 0), n - 1) for o in range(60)]
        matrix = np.array([[max(0, 1 - abs(j - a)) for j in range(n)] for a in at])

    def by_definition(matrix, vectors):
        return np.array([[sum(m * v for m, v in zip(row, vector) if m) for row in matrix] for vector in vectors])

    def series(shape, value):
        vectors = rng.standard_normal((2, shape))
        vectors[0, rng.integers(shape)] = value
        return vectors

    _, pull = jax.vjp(f, jnp.zeros((1, n, 1)))
    for value in (np.nan, np.inf):
        tangents, cotangents = series(n, value), series(len(matrix), value)
        forward = jax.vmap(lambda t: jax.jvp(f, (0 * t,), (t,))[1])(tangents[:, None, :, None])
        reverse = jax.vmap(lambda t: pull(t)[0])(jnp.asarray(cotangents[:, None, :, None]))
        np.testing.assert_allclose(forward[:, 0, :, 0], by_definition(matrix, tangents), 1e-12, 1e-12)
        np.testing.assert_allclose(reverse[:, 0, :, 0], by_definition(matrix.T, cotangents), 1e-12, 1e-12)


def test_samples_beyond_the_border_read_nothing():
    x = jnp.full((1, 1, 2, 2), jnp.inf)
    grid = jnp.asarray([[[[-3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]]])
    y, pull = jax.vjp(torch.grid_sample, x, grid)
    assert y.ravel().tolist() == [0, 0, np.inf]
    assert np.isfinite(pull(jnp.ones_like(y))[1][0, 0, :2]).all()
    assert np.isfinite(pull(jnp.asarray([[[[jnp.nan, jnp.inf, 1.0]]]]))[0]).all()
