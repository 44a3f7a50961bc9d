"""On an accelerator: every face and gradient in every type against the float64 loops, and what is beside convolutions.

Run as `python -m pytest -m gpu tests/test_gpu.py`. All programs are compiled side by side before the first test; one
that fails to compile or to run fails its own test.
"""

import concurrent.futures
import functools
import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from test_pooling import reference_max, reference_mean, reference_unpool, windows
from test_resample import matrix

import jaxconv as jc

pytestmark = pytest.mark.gpu

# Error as the root mean square of the difference over that of the definition, which is computed from rounded operands.
# TF32 and bfloat16 round at 2^-11 and 2^-9; "exact" is float32 with precision="highest".
BOUNDS = {"exact": 1e-5, "float32": 1e-3, "bfloat16": 4e-3, "float16": 6e-4}

# sizes, kernel, stride, dilation, pads, channels in and out, groups
GEOMETRIES = {
    "dense 3x3": ((9, 8), (3, 3), 1, 1, 1, 16, 8, 1),
    "up k4 s2": ((16, 12), (4, 4), 2, 1, 1, 8, 16, 1),
    "up k2 s2": ((8, 8), (2, 2), 2, 1, 0, 8, 8, 1),
    "large k16 s8": ((32, 40), (16, 16), 8, 1, 4, 3, 4, 1),
    "thin k9 s2": ((11, 12), (9, 9), 2, 1, 4, 1, 8, 1),
    "atrous r2": ((12, 11), (3, 3), 1, 2, 2, 8, 16, 1),
    "atrous r5, depthwise": ((12, 11), (3, 3), 1, 5, 5, 8, 8, 8),
    "depthwise k4 s2": ((12, 12), (4, 4), 2, 1, 1, 8, 8, 8),
    "groups 2, r2": ((10, 9), (3, 3), 1, 2, 2, 8, 12, 2),
    "causal r4": ((40,), (2,), 1, 4, (4, 0), 16, 16, 1),
    "1-D k16 s8": ((64,), (16,), 8, 1, 4, 8, 16, 1),
    "3-D k2 s2": ((6, 8, 4), (2, 2, 2), 2, 1, 0, 4, 8, 1),
    "3-D 3x3x3 r2": ((6, 5, 7), (3, 3, 3), 1, 2, 2, 8, 4, 1),
}
BATCH = 2


def rounded(rng, shape, kind):
    dtype = "float32" if kind == "exact" else kind
    return jnp.asarray(rng.standard_normal(shape).astype(np.float32), dtype)


@functools.cache
def operands(name, kind):
    """x, w, y on the device, the plain-number record of the geometry, and the settings of the calls."""
    n, k, s, d, pad, i, o, g = GEOMETRIES[name]
    pads = (pad, pad) if isinstance(pad, int) else pad
    r = len(n)
    record = reference.geometry_of(n, k, s=(s,) * r, d=(d,) * r, padding=(pads,) * r)
    rng = np.random.default_rng(20180312)
    x, w, y = (rounded(rng, v, kind) for v in ((BATCH, *n, i), (*k, i // g, o), (BATCH, *record["m"], o)))
    settings = {"stride": s, "dilation": d, "padding": [pads] * r, "groups": g}
    settings |= {"precision": "highest"} if kind == "exact" else {}
    return (x, w, y), record, settings, g


@functools.cache
def wanted(name, kind):
    """The three faces by their definition."""
    (x, w, y), record, _, g = operands(name, kind)
    args = record, g
    return reference.conv(x, w, *args), reference.conv_transpose(y, w, *args), reference.conv_kernel(x, y, *args)


def faces(name, kind):
    (x, w, y), record, settings, _ = operands(name, kind)

    def f(x, w, y):
        return (
            jc.conv(x, w, **settings),
            jc.conv_transpose(y, w, output_size=record["n"], **settings),
            jc.conv_kernel(x, y, record["k"], **settings),
        )

    return f, (x, w, y), lambda: wanted(name, kind)


def gradients(name, kind):
    """Of the convolution and of its transpose, as jax differentiates them."""
    (x, w, y), record, settings, _ = operands(name, kind)

    def f(x, w, y):
        along = jax.vjp(lambda x, w: jc.conv(x, w, **settings), x, w)[1](y)
        back = jax.vjp(lambda y, w: jc.conv_transpose(y, w, output_size=record["n"], **settings), y, w)[1](x)
        return *along, *back

    def want():
        out, into, kernel = wanted(name, kind)
        return into, kernel, out, kernel

    return f, (x, w, y), want


def wide_results(name, kind):
    """Half-precision operands with float32 asked for as the result's type."""
    (x, w, y), record, settings, _ = operands(name, kind)
    settings = {**settings, "preferred_element_type": "float32"}

    def f(x, w, y):
        return (
            jc.conv(x, w, **settings),
            jc.conv_transpose(y, w, output_size=record["n"], **settings),
            jc.conv_kernel(x, y, record["k"], **settings),
        )

    return f, (x, w, y), lambda: wanted(name, kind)


def image(kind, shape=(2, 9, 8, 3)):
    return rounded(np.random.default_rng(7), shape, kind)


def pooled(kind):
    x = image(kind)
    per_axis = [windows(n, 3, 2, 1, (1, 1), False) for n in (9, 8)]
    g = rounded(np.random.default_rng(8), (2, *(len(p) for p, _ in per_axis), 3), kind)

    def f(x, g):
        (y, at), pull = jax.vjp(lambda x: jc.max_pool(x, 3, stride=2, padding=1, return_indices=True), x)
        mean, pull_mean = jax.vjp(lambda x: jc.avg_pool(x, 3, stride=2, padding=1), x)
        return y, at, pull((g, np.zeros(at.shape, jax.dtypes.float0)))[0], mean, pull_mean(g)[0]

    def want():
        wide, ct = np.asarray(x, np.float64), np.asarray(g, np.float64)
        y, at = reference_max(wide, per_axis)
        into, mean_into = np.zeros((2, 72, 3)), np.zeros(wide.shape)
        for index, v in np.ndenumerate(ct):
            into[index[0], at[index], index[-1]] += v
            for u in itertools.product(*(p[i] for (p, _), i in zip(per_axis, index[1:3], strict=True))):
                mean_into[(index[0], *u, index[-1])] += v / 9
        return y, at, into.reshape(wide.shape), reference_mean(wide, per_axis, True, None), mean_into

    return f, (x, g), want


def unpooled(kind):
    """Windows that overlap name positions twice: the last one in row-major order wins."""
    rng = np.random.default_rng(9)
    y, g = image(kind, (2, 4, 5, 3)), rounded(rng, (2, 7, 9, 3), kind)
    at = jnp.asarray(rng.integers(-2, 66, y.shape), jnp.int32)

    def f(y, at, g):
        out, pull = jax.vjp(lambda y: jc.max_unpool(y, at, (7, 9)), y)
        return out, pull(g)[0]

    def want():
        out = reference_unpool(np.asarray(y, np.float64), np.asarray(at), (7, 9))
        order = np.arange(1.0, 21).reshape(1, 4, 5, 1) + np.zeros(y.shape)
        winner = reference_unpool(order, np.asarray(at), (7, 9)).astype(int)
        into = np.zeros((2, 21, 3))
        for (b, *u, c), n in np.ndenumerate(winner):
            into[b, n, c] = np.asarray(g, np.float64)[(b, *u, c)]
        return out, into[:, 1:].reshape(y.shape)

    return f, (y, at, g), want


RESIZES = {
    "nearest x2": ((18, 16), {"method": "nearest"}),
    "linear x2": ((18, 16), {"method": "linear"}),
    "linear, corners": ((13, 5), {"method": "linear", "align_corners": True}),
    "cubic x2": ((18, 16), {"method": "cubic"}),
    "linear, smaller, antialias": ((4, 5), {"method": "linear", "antialias": True}),
    "area": ((4, 3), {"method": "area"}),
}


def resized(name, kind):
    size, options = RESIZES[name]
    x, g = image(kind), rounded(np.random.default_rng(10), (2, *size, 3), kind)

    def f(x, g):
        y, pull = jax.vjp(lambda x: jc.resize(x, size, **options), x)
        return y, pull(g)[0]

    def want():
        rows, columns = (matrix(n, m, **options) for n, m in zip((9, 8), size, strict=True))
        wide, ct = np.asarray(x, np.float64), np.asarray(g, np.float64)
        return (
            np.einsum("oi,pj,bijc->bopc", rows, columns, wide),
            np.einsum("oi,pj,bopc->bijc", rows, columns, ct),
        )

    return f, (x, g), want


def columns(kind):
    """Windows as columns and back, and a pixel shuffle with its inverse."""
    x = image(kind, (2, 6, 5, 4))

    def f(x):
        cols = jc.unfold(x, (3, 3), padding=1)
        return cols, jc.fold(cols, (6, 5), (3, 3), padding=1), jc.pixel_unshuffle(jc.pixel_shuffle(x, 2), 2)

    def want():
        wide = np.asarray(x, np.float64)
        padded = np.pad(wide, [(0, 0), (1, 1), (1, 1), (0, 0)])
        cols = np.concatenate([padded[:, i : i + 6, j : j + 5] for i in range(3) for j in range(3)], -1)
        times = np.pad(np.ones((6, 5)), 1)
        uses = sum(times[i : i + 6, j : j + 5] for i in range(3) for j in range(3))
        return cols, wide * uses[:, :, None], wide

    return f, (x,), want


def _jobs():
    for name, kind in itertools.product(GEOMETRIES, BOUNDS):
        yield f"faces, {name}, {kind}", functools.partial(faces, name, kind)
        yield f"gradients, {name}, {kind}", functools.partial(gradients, name, kind)
    for name, kind in itertools.product(("dense 3x3", "up k4 s2", "atrous r5, depthwise"), ("bfloat16", "float16")):
        yield f"float32 results, {name}, {kind}", functools.partial(wide_results, name, kind)
    for kind in ("float32", "bfloat16", "float16"):
        for what in (pooled, unpooled, columns):
            yield f"{what.__name__}, {kind}", functools.partial(what, kind)
        for name in RESIZES:
            yield f"resize {name}, {kind}", functools.partial(resized, name, kind)


JOBS = dict(_jobs())


@pytest.fixture(scope="module")
def computed(request):
    """What each job of the selected tests gives, or the exception that it ended with."""
    selected = {item.callspec.params["job"] for item in request.session.items if hasattr(item, "callspec")}
    made = {job: JOBS[job]() for job in JOBS if job in selected}

    def compile_and_run(job):
        f, args, _ = made[job]
        return [np.asarray(a) for a in jax.tree.leaves(jax.jit(f).lower(*args).compile()(*args))]

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {job: pool.submit(compile_and_run, job) for job in made}
        wants = {job: made[job][2]() for job in made}  # meanwhile
    return {job: (future, made[job][1], wants[job]) for job, future in futures.items()}


def error(got, want):
    """Root mean square of the difference over that of the definition."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape and np.isfinite(got).all()
    return np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2))


def test_there_is_an_accelerator():
    assert jax.default_backend() in ("gpu", "tpu"), "the tests marked gpu were run on a machine without one"


@pytest.mark.parametrize("job", JOBS)
def test_results_are_the_definition_on_the_accelerator(job, computed):
    future, args, expected = computed[job]
    got = future.result()
    kind = job.rpartition(", ")[2]
    assert len(got) == len(expected)
    bound = BOUNDS[kind]
    wide = job.startswith("float32 results")
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        if np.issubdtype(a.dtype, np.integer):
            np.testing.assert_array_equal(a, b)
            continue
        assert a.dtype == (np.float32 if wide else args[0].dtype), f"result {i}"
        assert error(a, b) < (min(bound, BOUNDS["float32"]) if wide else bound), f"result {i} of {job}"
