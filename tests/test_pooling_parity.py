"""Pooling, unpooling and resampling against PyTorch on random arguments: values and gradients."""

import jax
import numpy as np
import pytest

import jaxconv as jc

torch = pytest.importorskip("torch")
F = torch.nn.functional
pytestmark = pytest.mark.parity
CASES = 100  # an operation


def last(t):
    """Channels last, as NumPy."""
    return np.moveaxis(np.asarray(t.detach() if hasattr(t, "detach") else t), 1, -1)


def ints(rng, low, high, rank):
    return tuple(int(v) for v in rng.integers(low, high, rank))


def compare(ours, theirs, x, rng, where):
    """Largest error of the value and of the gradient of a random linear functional of it."""
    t = torch.tensor(x, requires_grad=True)
    want = theirs(t)
    g = rng.standard_normal(want.shape)
    want.backward(torch.tensor(g))

    def both(x, g):
        y, pull = jax.vjp(ours, x)
        return y, pull(g)[0]

    y, dx = jax.jit(both)(last(x), last(g))
    assert y.shape == last(want).shape, where
    error = max(np.abs(y - last(want)).max(), np.abs(dx - last(t.grad)).max())
    assert error < 1e-9, (where, error)
    return error


def sweep(name, draw):
    worst, rng = 0.0, np.random.default_rng(20180312)
    for case in range(CASES):
        ours, theirs, x, where = draw(rng, case)
        worst = max(worst, compare(ours, theirs, x, rng, (name, case, where)))
    print(f"{name}: {CASES} cases, largest error {worst:.1e}")


def pool_arguments(rng, rank):
    k = ints(rng, 1, 4, rank)
    p = tuple(int(rng.integers(0, v // 2 + 1)) for v in k)
    return dict(k=k, s=ints(rng, 1, 4, rank), p=p, d=ints(rng, 1, 3, rank), n=ints(rng, 5, 9, rank))


def torch_of(name, rank):
    return getattr(F, f"{name}{rank}d")


def test_max_pool_and_unpool(x64):
    def draw(rng, case):
        rank, ceil_mode = int(rng.integers(1, 4)), bool(rng.integers(2))
        a = pool_arguments(rng, rank)
        x = rng.integers(-3, 4, (2, 2, *a["n"])).astype(float) if case % 2 else rng.standard_normal((2, 2, *a["n"]))
        kwargs = dict(stride=a["s"], padding=a["p"], dilation=a["d"], ceil_mode=ceil_mode)
        _, at = torch_of("max_pool", rank)(torch.tensor(x), a["k"], return_indices=True, **kwargs)
        _, got = jc.max_pool(last(x), a["k"], return_indices=True, **kwargs)
        np.testing.assert_array_equal(got, last(at), err_msg=str((a, kwargs)))
        # The size that PyTorch takes when none is given.
        back = tuple((m - 1) * s - 2 * p + k for m, s, p, k in zip(at.shape[2:], a["s"], a["p"], a["k"]))
        places, count = int(np.prod(back)), int(np.prod(at.shape[2:]))
        if case % 3 or min(back) < 1 or count > places:
            return (
                lambda x: jc.max_pool(x, a["k"], **kwargs),
                lambda t: torch_of("max_pool", rank)(t, a["k"], **kwargs),
                x,
                (a, kwargs),
            )
        y = rng.standard_normal(at.shape)
        # PyTorch gives the gradient to losers too: without duplicates there are none.
        chosen = np.stack([rng.permutation(places)[:count] for _ in range(4)])
        at = torch.tensor(chosen.reshape(at.shape))
        unpool = torch_of("max_unpool", rank)
        indices = last(at)
        return (
            lambda y: jc.max_unpool(y, indices, back),
            lambda t: unpool(t, at, a["k"], a["s"], a["p"]),
            y,
            ("unpool", a),
        )

    sweep("max_pool and max_unpool", draw)


def test_unpool_duplicates_last_wins(x64):
    rng = np.random.default_rng(0)
    for case in range(20):
        x = rng.standard_normal((2, 3, 9, 10))
        y, at = F.max_pool2d(torch.tensor(x), 3, 2, 1, return_indices=True)
        y = torch.tensor(rng.standard_normal(y.shape))  # at duplicates the values differ
        want = F.max_unpool2d(y, at, 3, 2, 1, output_size=(9, 10))
        np.testing.assert_array_equal(jc.max_unpool(last(y), last(at), (9, 10)), last(want), err_msg=str(case))


def test_avg_pool(x64):
    def draw(rng, case):
        rank = int(rng.integers(1, 4))
        a = pool_arguments(rng, rank)
        kwargs = dict(stride=a["s"], padding=a["p"], ceil_mode=bool(rng.integers(2)), count_include_pad=bool(case % 2))
        divisor = int(rng.integers(1, 5)) if rank > 1 and case % 5 == 0 else None
        extra = {} if divisor is None else {"divisor_override": divisor}
        return (
            lambda x: jc.avg_pool(x, a["k"], divisor=divisor, **kwargs),
            lambda t: torch_of("avg_pool", rank)(t, a["k"], **kwargs, **extra),
            rng.standard_normal((2, 2, *a["n"])),
            (a, kwargs, divisor),
        )

    sweep("avg_pool", draw)


MODES = {
    "linear": {1: "linear", 2: "bilinear", 3: "trilinear"},
    "cubic": {2: "bicubic"},
    "nearest": dict.fromkeys((1, 2, 3), "nearest"),
    "nearest-exact": dict.fromkeys((1, 2, 3), "nearest-exact"),
    "area": dict.fromkeys((1, 2, 3), "area"),
}


@pytest.mark.parametrize("method", MODES)
def test_resize(method, x64):
    def draw(rng, case):
        rank = 2 if method == "cubic" else int(rng.integers(1, 4))
        # Antialiased resizing to one column is inconsistent in PyTorch 2.13: the order of the axes changes it.
        antialias = method in ("linear", "cubic") and rank == 2 and case % 3 == 0
        low = 2 if antialias else 1
        n, m = ints(rng, low, 8, rank), ints(rng, low, 12, rank)
        flags, kwargs = {}, dict(size=m)
        if method in ("linear", "cubic"):
            flags = dict(align_corners=bool(rng.integers(2)) and not antialias, antialias=antialias)
            if case % 4 == 0 and not flags["align_corners"] and not antialias:
                # Where the rounded size equals the input's, PyTorch copies instead of using the given scale.
                kwargs = dict(scale=tuple(float(v) for v in rng.uniform(2.0, 3.0, rank)))
        theirs = {"scale_factor" if k == "scale" else k: v for k, v in kwargs.items()}
        return (
            lambda x: jc.resize(x, method=method, **kwargs, **flags),
            lambda t: F.interpolate(t, mode=MODES[method][rank], **theirs, **flags),
            rng.standard_normal((2, 2, *n)),
            (n, kwargs, flags),
        )

    sweep(f"resize {method}", draw)


def test_shuffles_and_folds(x64):
    def draw(rng, case):
        r, n, C = int(rng.integers(1, 4)), ints(rng, 1, 5, 2), 2
        if case % 4 == 0:
            x = rng.standard_normal((2, C * r * r, *n))
            return lambda x: jc.pixel_shuffle(x, r), lambda t: F.pixel_shuffle(t, r), x, ("shuffle", r, n)
        if case % 4 == 1:
            x = rng.standard_normal((2, C, *(v * r for v in n)))
            return lambda x: jc.pixel_unshuffle(x, r), lambda t: F.pixel_unshuffle(t, r), x, ("unshuffle", r, n)
        a = pool_arguments(rng, 2)
        taps = int(np.prod(a["k"]))
        kwargs = dict(stride=a["s"], padding=a["p"], dilation=a["d"])
        out = jc.unfold(np.zeros((1, *a["n"], 1)), a["k"], **kwargs).shape[1:3]

        def to_ours(cols):  # (N, P, C * taps) channel first to (N, *out, taps * C)
            return cols.reshape(2, *out, C, taps).swapaxes(-1, -2).reshape(2, *out, taps * C)

        def to_theirs(cols):
            return cols.reshape(2, *out, taps, C).swapaxes(-1, -2).reshape(2, -1, C * taps)

        if case % 4 == 2:
            return (
                lambda x: to_theirs(jc.unfold(x, a["k"], **kwargs)),
                lambda t: F.unfold(t, a["k"], **kwargs),
                rng.standard_normal((2, C, *a["n"])),
                ("unfold", a),
            )
        return (
            lambda c: jc.fold(to_ours(c), a["n"], a["k"], **kwargs),
            lambda t: F.fold(t, a["n"], a["k"], **kwargs),
            rng.standard_normal((2, C * taps, int(np.prod(out)))),
            ("fold", a),
        )

    sweep("shuffles and folds", draw)
