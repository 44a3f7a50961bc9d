"""Pooling and unpooling against the definition written as float64 loops."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxconv as jc
from jaxconv.dialects import onnx, tensorflow, torch
from jaxconv.resampling import pooling, unpooling
from jaxconv.resampling.windows import resolve_windows


def windows(n, k, s, d, pads, ceil_mode):
    """Per axis, the real input positions under each window, and the tap counts with and without pads."""
    lo, hi = pads
    extent = d * (k - 1) + 1
    room = n + lo + hi - extent
    count = (-(-room // s) if ceil_mode else room // s) + 1
    if ceil_mode and (count - 1) * s >= n + lo:
        count -= 1
    positions = [[q * s + t * d - lo for t in range(k)] for q in range(count)]
    padded = [sum(-lo <= p < n + hi for p in row) for row in positions]
    return [[p for p in row if 0 <= p < n] for row in positions], padded


def reference_max(x, per_axis):
    """(values, flat indices): first maximum in row-major order, NaN over everything."""
    sizes = x.shape[1:-1]
    out = tuple(len(p) for p, _ in per_axis)
    y = np.full((x.shape[0], *out, x.shape[-1]), -np.inf)
    at = np.zeros(y.shape, int)
    for b, c, q in itertools.product(range(x.shape[0]), range(x.shape[-1]), np.ndindex(*out)):
        best = None
        for u in itertools.product(*(p[i] for (p, _), i in zip(per_axis, q))):
            v = x[(b, *u, c)]
            if best is None or v > best or (np.isnan(v) and not np.isnan(best)):
                best, at[(b, *q, c)] = v, np.ravel_multi_index(u, sizes)
        y[(b, *q, c)] = -np.inf if best is None else best
    return y, at


def reference_mean(x, per_axis, include_pad, divisor):
    out = tuple(len(p) for p, _ in per_axis)
    y = np.zeros((x.shape[0], *out, x.shape[-1]))
    for b, c, q in itertools.product(range(x.shape[0]), range(x.shape[-1]), np.ndindex(*out)):
        taps = list(itertools.product(*(p[i] for (p, _), i in zip(per_axis, q))))
        count = np.prod([padded[i] if include_pad else len(p[i]) for (p, padded), i in zip(per_axis, q)])
        y[(b, *q, c)] = sum(x[(b, *u, c)] for u in taps) / (divisor or max(count, 1))
    return y


CASES = [  # sizes, window, stride, dilation, pads, ceil
    ((7,), (3,), (2,), (1,), ((1, 1),), False),
    ((5, 6), (2, 3), (2, 1), (1, 2), ((1, 0), (0, 2)), True),
    ((6, 5), (3, 3), (2, 2), (1, 1), ((1, 1), (1, 1)), False),
    ((5, 7), (2, 2), (3, 3), (1, 1), ((0, 0), (1, 1)), True),
    ((3, 4, 3), (2, 2, 2), (1, 2, 1), (1, 1, 2), ((0, 1), (1, 1), (0, 0)), False),
    ((23,), (11,), (3,), (1,), ((5, 5),), True),
    ((30, 1), (21, 1), (1, 1), (1, 1), ((4, 0), (0, 0)), False),
]


def draw(seed, sizes, kind):
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, (2, *sizes, 2)).astype(np.float64)  # many ties
    if kind == "nan":
        x[rng.random(x.shape) < 0.1] = np.nan
    if kind == "lowest":
        x[rng.random(x.shape) < 0.8] = -np.inf
    return x


@pytest.mark.parametrize("case", CASES, ids=str)
def test_max_pool_is_its_definition(case):
    sizes, k, s, d, pads, ceil_mode = case
    per_axis = [windows(*a, ceil_mode) for a in zip(sizes, k, s, d, pads)]
    for kind in ("ties", "nan", "lowest"):
        x = draw(1, sizes, kind)
        want, where = reference_max(x, per_axis)
        kwargs = dict(stride=s, dilation=d, padding=pads, ceil_mode=ceil_mode)
        y, at = jc.max_pool(x.astype(np.float32), k, return_indices=True, **kwargs)
        np.testing.assert_array_equal(y, want, err_msg=kind)
        np.testing.assert_array_equal(at, where, err_msg=kind)
        np.testing.assert_array_equal(jc.max_pool(x.astype(np.float32), k, **kwargs), want, err_msg=kind)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_max_pool_sends_the_gradient_to_the_first_maximum(case):
    sizes, k, s, d, pads, ceil_mode = case
    x = draw(2, sizes, "ties").astype(np.float32)
    kwargs = dict(stride=s, dilation=d, padding=pads, ceil_mode=ceil_mode)
    _, at = jc.max_pool(x, k, return_indices=True, **kwargs)
    g = np.random.default_rng(3).integers(-4, 5, at.shape).astype(np.float32)
    want = np.zeros((2, int(np.prod(sizes)), 2), np.float32)
    for (b, *q, c), v in np.ndenumerate(g):
        want[b, at[(b, *q, c)], c] += v
    for function in (
        lambda x: jc.max_pool(x, k, **kwargs),
        lambda x: jc.max_pool(x, k, return_indices=True, **kwargs)[0],
    ):
        (got,) = jax.vjp(function, x)[1](g)
        np.testing.assert_array_equal(got, want.reshape(x.shape))
        # forward mode: the tangent at the maximum
        dx = np.random.default_rng(4).standard_normal(x.shape).astype(np.float32)
        _, dy = jax.jvp(function, (x,), (dx,))
        np.testing.assert_array_equal(
            dy.ravel()[:5], np.take_along_axis(dx.reshape(2, -1, 2), np.asarray(at).reshape(2, -1, 2), 1).ravel()[:5]
        )
        assert abs(float((dy * g).sum()) - float((dx * got).sum())) < 1e-3


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("include, divisor", [(True, None), (False, None), (True, 3)])
def test_avg_pool_is_its_definition(case, include, divisor, x64):
    sizes, k, s, d, pads, ceil_mode = case
    per_axis = [windows(*a, ceil_mode) for a in zip(sizes, k, s, d, pads)]
    x = np.random.default_rng(5).standard_normal((2, *sizes, 2))
    kwargs = dict(stride=s, dilation=d, padding=pads, ceil_mode=ceil_mode)
    got = jc.avg_pool(x, k, count_include_pad=include, divisor=divisor, **kwargs)
    np.testing.assert_allclose(got, reference_mean(x, per_axis, include, divisor), atol=1e-12)


def reference_unpool(y, at, sizes):
    x = np.zeros((y.shape[0], int(np.prod(sizes)), y.shape[-1]), y.dtype)
    for index, v in np.ndenumerate(y):  # row-major: the last one stays
        if 0 <= at[index] < x.shape[1]:
            x[index[0], at[index], index[-1]] = v
    return x.reshape(y.shape[0], *sizes, y.shape[-1])


@pytest.mark.parametrize("kind", ["pooled", "arbitrary"])
def test_max_unpool_is_its_definition_and_the_winner_alone_gets_the_gradient(kind):
    rng = np.random.default_rng(6)
    sizes, x = (7, 9), rng.standard_normal((2, 7, 9, 3)).astype(np.float32)
    y, at = jc.max_pool(x, 3, stride=2, padding=1, return_indices=True)
    if kind == "arbitrary":
        at = jnp.asarray(rng.integers(-2, 70, y.shape))
    y = rng.standard_normal(y.shape).astype(np.float32)
    np.testing.assert_array_equal(jc.max_unpool(y, at, sizes), reference_unpool(y, np.asarray(at), sizes))
    # which y survive is found by unpooling row-major numbers
    order = np.arange(1, y[0, ..., 0].size + 1, dtype=np.float32).reshape(1, *y.shape[1:3], 1) + np.zeros_like(y)
    winner = reference_unpool(order, np.asarray(at), sizes)
    g = rng.standard_normal(winner.shape).astype(np.float32)
    want = np.zeros((2, y[0, ..., 0].size + 1, 3), np.float32)
    for (b, *u, c), n in np.ndenumerate(winner):
        want[b, int(n), c] = g[(b, *u, c)]
    got = jax.vjp(lambda y: jc.max_unpool(y, at, sizes), y)[1](g)[0]
    np.testing.assert_array_equal(got, want[:, 1:].reshape(y.shape))
    dy = rng.standard_normal(y.shape).astype(np.float32)
    tangent = jax.jvp(lambda y: jc.max_unpool(y, at, sizes), (y,), (dy,))[1]
    np.testing.assert_array_equal(tangent, reference_unpool(dy, np.asarray(at), sizes))


def test_max_unpool_writes_no_constant_of_its_output_into_the_program():
    """Positions are counted in the program: at 2048 x 2048 they were 16.8 MB of an exported one."""

    def size(n):
        y, i = (jax.ShapeDtypeStruct((1, n // 2, n // 2, 2), dtype) for dtype in ("float32", "int32"))
        pull = jax.jit(lambda y, i: jax.vjp(lambda y: jc.max_unpool(y, i, (n, n)), y)[1](jnp.ones((1, n, n, 2))))
        return len(jax.export.export(pull, platforms=("cpu", "cuda", "tpu"))(y, i).serialize())

    assert size(512) < size(64) + 1000


@pytest.mark.parametrize("padding, k, s, want", [
    ("SAME", 2, 2, (0, 1)), ("SAME_LOWER", 2, 2, (1, 0)), ("VALID", 2, 2, (0, 0)), ("CAUSAL", 3, 1, (2, 0)),
    ("SAME", 3, 2, (1, 1)), ("SAME", 4, 1, (1, 2)), ("SAME_LOWER", 4, 1, (2, 1)), ("SAME", 1, 3, (0, 0)),
])  # fmt: skip
def test_named_padding(padding, k, s, want):
    x = np.random.default_rng(7).standard_normal((1, 7, 1)).astype(np.float32)
    for f in (jc.max_pool, jc.avg_pool):
        np.testing.assert_array_equal(f(x, k, stride=s, padding=padding), f(x, k, stride=s, padding=(want,)))


@pytest.mark.slow
def test_batch_axes_scalars_and_tuples():
    x = np.random.default_rng(8).standard_normal((2, 3, 4, 6, 2)).astype(np.float32)
    two = jc.max_pool(x, (2, 2))
    assert two.shape == (2, 3, 2, 3, 2)
    np.testing.assert_array_equal(two[1, 2], jc.max_pool(x[1, 2], (2, 2)))
    assert jc.max_pool(x, 2).shape == (2, 1, 2, 3, 2)
    np.testing.assert_array_equal(jax.vmap(lambda v: jc.max_pool(v, (2, 2)))(x), two)
    y, at = jc.max_pool(x, (2, 2), return_indices=True)
    back = jc.max_unpool(y, at, (4, 6))
    np.testing.assert_array_equal(jax.vmap(lambda y, at: jc.max_unpool(y, at, (4, 6)))(y, at), back)
    grads = jax.vmap(
        jax.grad(lambda v: (jc.max_unpool(*jc.max_pool(v, (2, 2), return_indices=True), (4, 6)) ** 2).sum())
    )
    np.testing.assert_allclose(grads(x), 2 * back, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "float16", "bfloat16"])
def test_other_types_keep_their_type(dtype):
    x = jnp.asarray(np.random.default_rng(9).integers(0, 5, (1, 6, 6, 1)), dtype)
    y, at = jc.max_pool(x, 3, padding=1, stride=1, return_indices=True)
    want, where = jc.max_pool(x.astype("float32"), 3, padding=1, stride=1, return_indices=True)
    assert y.dtype == x.dtype and at.dtype == jnp.int32
    np.testing.assert_array_equal(y.astype("float32"), want)
    np.testing.assert_array_equal(at, where)
    mean = jc.avg_pool(x, 2)
    assert mean.dtype == x.dtype
    want = np.asarray(x, np.float64).reshape(3, 2, 3, 2).mean((1, 3)).reshape(1, 3, 3, 1)
    np.testing.assert_array_equal(np.asarray(mean, np.float64), want if "float" in dtype else np.trunc(want))


@pytest.mark.slow
def test_second_order(x64):
    x = np.random.default_rng(10).standard_normal((1, 6, 6, 1))
    for f in (lambda x: jc.max_pool(x, 3, stride=2, padding=1) ** 3, lambda x: jc.avg_pool(x, 2) ** 3):
        check_grads(f, (x,), order=2, modes=("fwd", "rev"))


@pytest.mark.parametrize("call, words", [
    (lambda x: jc.max_pool(x, 9), "window=9"), (lambda x: jc.max_pool(x, (2, 0)), "(2, 0)"),
    (lambda x: jc.max_pool(x, 2, stride=0), "stride=0"), (lambda x: jc.max_pool(x, 2, padding=-1), "padding=-1"),
    (lambda x: jc.max_pool(x, 2, padding="same_upper"), "same_upper"), (lambda x: jc.max_pool(x, 2.0), "2.0"),
    (lambda x: jc.max_pool(x, (2, 2), padding=(1, 1, 1)), "(1, 1, 1)"), (lambda x: jc.max_pool(x[0, 0], 2), "2 dim"),
    (lambda x: jc.max_pool(x > 0, 2), "bool"), (lambda x: jc.avg_pool(x, 2, divisor=0), "divisor=0"),
    (lambda x: jc.max_unpool(x, x, 8), "float32"), (lambda x: jc.max_unpool(x, jnp.zeros((1, 2), int), 8), "(1, 2)"),
    (lambda x: jc.max_unpool(x, x.astype(int), (8, 0)), "(8, 0)"),
])  # fmt: skip
def test_refusals_name_the_value(call, words):
    with pytest.raises((ValueError, TypeError)) as error:
        call(jnp.zeros((1, 5, 6, 1)))
    assert words in str(error.value)


@pytest.mark.parametrize("name, call", [
    ("max_pool", lambda x: jc.max_pool(x, 2)), ("avg_pool", lambda x: jc.avg_pool(x, 2)),
    ("max_pool_with_indices", lambda x: jc.max_pool(x, 2, return_indices=True)),
    ("max_unpool", lambda x: jc.max_unpool(x, x.astype(int), 8)),
])  # fmt: skip
def test_calls_are_found_by_name(name, call):
    names = [e.params.get("name") for e in jax.make_jaxpr(call)(jnp.zeros((1, 4, 4, 1))).eqns]
    assert name in names


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("window", [2, 3, 16])
def test_means_of_small_integers_do_not_wrap(dtype, window, rng):
    x = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, (1, 17, 16, 2)).astype(dtype)
    got = jc.avg_pool(x, window, stride=1)
    views = np.lib.stride_tricks.sliding_window_view(x.astype(np.int64), (window, window), axis=(1, 2))
    sums = views.sum((-1, -2))
    expected = np.sign(sums) * (np.abs(sums) // window**2)  # towards zero
    assert got.dtype == dtype
    np.testing.assert_array_equal(np.asarray(got, np.int64), expected)


def _mean_towards_zero(x, window, stride, padding):
    padded = [0] * padding + np.asarray(x)[0, :, 0].tolist() + [0] * padding
    sums = [sum(padded[q : q + window]) for q in range(0, len(padded) - window + 1, stride)]
    return [abs(s) // window * (1 if s >= 0 else -1) for s in sums]


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "int32"])
@pytest.mark.parametrize("size, window, stride, padding", [(40, 20, 7, 9), (300, 256, 11, 0)])
def test_means_of_integers_of_every_width_are_exact(dtype, size, window, stride, padding, rng):
    limits = np.iinfo(dtype)
    noise = rng.integers(limits.min, limits.max, (1, size, 1), dtype, endpoint=True)
    for x in (noise, np.full_like(noise, limits.max), np.full_like(noise, limits.min)):
        got = jc.avg_pool(x, window, stride=stride, padding=padding)
        assert got.dtype == dtype
        assert got.ravel().tolist() == _mean_towards_zero(x, window, stride, padding)


@pytest.mark.parametrize("dtype", ["uint64", "int64"])
def test_means_of_64_bit_integers_are_exact(dtype, rng):
    with jax.enable_x64(True):
        limits = np.iinfo(dtype)
        for x in (rng.integers(limits.min, limits.max, (1, 9, 1), dtype), np.full((1, 9, 1), limits.max, dtype)):
            got = jc.avg_pool(x, 3, stride=2, padding=1)
            assert got.dtype == dtype
            assert got.ravel().tolist() == _mean_towards_zero(x, 3, 2, 1)


def test_divisors_of_integers():
    x = np.full((1, 4, 1), -7, np.int32)
    assert jc.avg_pool(x, 2, divisor=-3).ravel().tolist() == [4, 4]
    assert jc.avg_pool(x, 3, padding=1, stride=2, count_include_pad=False).ravel().tolist() == [-7, -7]
    with pytest.raises(ValueError, match="divisor=2.5 must be a whole number for data of type int32"):
        jc.avg_pool(x, 2, divisor=2.5)
    with pytest.raises(ValueError, match="too many to sum exactly"):
        jc.avg_pool(x, 2, divisor=1 << 30)


def test_indices_beyond_int32():
    """2^32 positions do not fit into int32: int64 under x64, a refusal without."""
    x = jax.ShapeDtypeStruct((1, 1 << 16, 1 << 16, 1), "uint8")

    def pool(x):
        return jc.max_pool(x, 2, return_indices=True)

    with pytest.raises(ValueError, match="more than int32 indices can count"):
        jax.eval_shape(pool, x)
    with jax.enable_x64(True):
        y, indices = jax.eval_shape(pool, x)
        assert indices.dtype == np.int64
        assert jax.eval_shape(lambda y, i: jc.max_unpool(y, i, x.shape[1:3]), y, indices).shape == x.shape


def test_dialects_whose_indices_count_more_than_int32():
    def argmax(**options):
        return lambda x: tensorflow.max_pool_with_argmax(x, 2, 2, "VALID", **options)

    grid = jnp.zeros((1, 2, 2, 2))
    for f, shape in (
        (argmax(), (1, 1 << 15, 1 << 15, 2)),  # channels count
        (argmax(include_batch_in_index=True), (2, 1 << 15, 1 << 15, 1)),
        (lambda x: onnx.MaxPool(x, kernel_shape=[2], return_indices=True), (3, 1, 1 << 30)),
        (lambda x: torch.adaptive_max_pool1d(x, 3, return_indices=True), (1, 1, (1 << 31) + 2)),
        (lambda x: (x, torch.grid_sample(x, grid)), (1, 1, 1 << 16, 1 << 15)),
    ):
        x = jax.ShapeDtypeStruct(shape, "float32")
        with pytest.raises(ValueError, match="more than int32 indices can count"):
            jax.eval_shape(f, x)
        with jax.enable_x64(True):
            assert jax.eval_shape(f, x)[1].dtype in ("int64", "float32")
    with jax.enable_x64(True), pytest.raises(ValueError, match="output_dtype='int32' does not count"):
        jax.eval_shape(argmax(output_dtype="int32"), jax.ShapeDtypeStruct((1, 1 << 15, 1 << 15, 2), "float32"))


def test_positions_beyond_int32_by_value(x64):
    """Two rows of 2^31 + 2 positions, of which only the first four of each are there."""
    n = (1 << 31) + 2
    rows, columns = resolve_windows((1, 2, 4, 1), (1, 2), None, 0, 1)
    x = jnp.asarray([[3, 1, 2, 9], [1, 4, 9, 9]], jnp.float32)[None, :, :, None]
    _, indices = pooling._max_pool_indexed(x, (rows, dataclasses.replace(columns, n_in=n)))
    assert indices.ravel().tolist() == [0, 3, n + 1, n + 2]
    places = unpooling._places((1, 2, 2, 1), (2, n), (1, 2), (0, 1))
    assert places.ravel().tolist() == [1, 3, n + 1, n + 3]
