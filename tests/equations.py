"""Random `conv_general_dilated` equations in any layout, and their values from the definition."""

import numpy as np
import reference
from jax import lax


def random_equation(rng):
    """(lhs, rhs, parameters of lax.conv_general_dilated, spatial size of the result): every parameter at random."""
    rank = int(rng.choice([1, 2], p=[0.6, 0.4]))
    while True:
        n, k = rng.integers(1, 7, rank), rng.integers(1, 7 - rank, rank)
        b, d, s = (rng.choice([1, 1, 2, 3], rank) for _ in range(3))
        pads = [tuple(int(v) for v in rng.integers(-2, 5, 2)) for _ in range(rank)]
        padded = [bb * (nn - 1) + 1 + lo + hi for bb, nn, (lo, hi) in zip(b, n, pads, strict=True)]
        m = [(p - dd * (kk - 1) - 1) // ss + 1 for p, dd, kk, ss in zip(padded, d, k, s, strict=True)]
        if min(m) >= 1:
            break
    kind = rng.choice(["none", "feature", "batch"])
    groups = 1 if kind == "none" else int(rng.integers(2, 4))
    feature, batch = (groups if kind == "feature" else 1), (groups if kind == "batch" else 1)
    contracted, produced, count = (int(v) for v in rng.integers(1, 4, 3))
    specs = [tuple(int(v) for v in rng.permutation(rank + 2)) for _ in range(3)]
    numbers = lax.ConvDimensionNumbers(*specs)
    lhs = _placed(rng, numbers.lhs_spec, (count * batch, contracted * feature, *n))
    rhs = _placed(rng, numbers.rhs_spec, (produced * groups, contracted, *k))
    params = {
        "window_strides": tuple(map(int, s)),
        "padding": tuple(pads),
        "lhs_dilation": tuple(map(int, b)),
        "rhs_dilation": tuple(map(int, d)),
        "dimension_numbers": numbers,
        "feature_group_count": feature,
        "batch_group_count": batch,
    }
    return lhs, rhs, params, tuple(map(int, m))


def value(lhs, rhs, params, size):
    """The equation's result from the definition's loops."""
    numbers = params["dimension_numbers"]
    x = np.transpose(lhs, (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]))
    w = np.transpose(rhs, (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0]))
    geometry = {
        "n": x.shape[1:-1],
        "k": w.shape[:-2],
        "m": size,
        "b": params["lhs_dilation"],
        "d": params["rhs_dilation"],
        "s": params["window_strides"],
        "lo": tuple(lo for lo, _ in params["padding"]),
        "mode": "zeros",
    }
    groups = params["batch_group_count"]
    parts = zip(np.split(x, groups, 0), np.split(w, groups, -1), strict=True)
    y = np.concatenate([reference.conv(a, b, geometry, params["feature_group_count"]) for a, b in parts], -1)
    return np.transpose(y, np.argsort((numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])))


def _placed(rng, spec, sizes):
    shape = [0] * len(spec)
    for axis, size in zip(spec, sizes, strict=True):
        shape[axis] = int(size)
    return rng.standard_normal(shape)
