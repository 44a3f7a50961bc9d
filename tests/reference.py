"""The definition of the trilinear form as plain float64 (or complex128) loops over the lattice: the only judge of
values.

    T(x, w, y) = sum over batch, q, t, i, o of  x[u, i] w[t, i, o] y[q, o]     where b*u + lo = s*q + d*t

Nothing here calls jaxconv's geometry or ops: sizes, pads and spacings come in as plain numbers.
"""

import itertools

import numpy as np


def source(p, n, mode):
    """The input element that stands at position p (counted from the first input element), or None for a zero."""
    if 0 <= p < n:
        return p
    if mode == "zeros":
        return None
    if mode == "circular":
        return p % n
    if mode == "replicate":
        return 0 if p < 0 else n - 1
    while not 0 <= p < n:  # reflect at the border elements, as often as it takes
        p = -p if p < 0 else 2 * (n - 1) - p
    return p


def coincidences(n, k, m, *, b=1, d=1, s=1, lo=0, mode="zeros"):
    """All (u, t, q) of one axis that meet, by trying every t and q."""
    out = []
    for q, t in itertools.product(range(m), range(k)):
        p = s * q + d * t - lo  # position on the input's line, b per element
        if p % b:
            continue
        u = source(p // b, n, mode)
        if u is not None and 0 <= u < n:
            out.append((u, t, q))
    return out


def _meetings(geometry):
    axes = [
        coincidences(n, k, m, b=b, d=d, s=s, lo=lo, mode=geometry["mode"])
        for n, k, m, b, d, s, lo in zip(
            *(geometry[key] for key in ("n", "k", "m", "b", "d", "s", "lo")),
            strict=True,
        )
    ]
    for meeting in itertools.product(*axes):
        yield tuple(zip(*meeting, strict=True))


def _wide(a):
    a = np.asarray(a)
    return a.astype(np.complex128 if np.iscomplexobj(a) else np.float64)


def conv(x, w, geometry, groups=1):
    """y of the form's first face; x (batch, *n, I), w (*k, I/groups, O)."""
    x, w = _wide(x), _wide(w)
    y = np.zeros((x.shape[0], *geometry["m"], w.shape[-1]), np.result_type(x, w))
    for u, t, q in _meetings(geometry):
        for into, out in _groups(x.shape[-1], w.shape[-1], groups):
            y[(slice(None), *q, out)] += x[(slice(None), *u, into)] @ w[(*t, slice(None), out)]
    return y


def conv_transpose(y, w, geometry, groups=1):
    """x of the second face; y (batch, *m, O)."""
    y, w = _wide(y), _wide(w)
    x = np.zeros((y.shape[0], *geometry["n"], w.shape[-2] * groups), np.result_type(y, w))
    for u, t, q in _meetings(geometry):
        for into, out in _groups(x.shape[-1], w.shape[-1], groups):
            x[(slice(None), *u, into)] += y[(slice(None), *q, out)] @ w[(*t, slice(None), out)].T
    return x


def conv_kernel(x, y, geometry, groups=1):
    """w of the third face."""
    x, y = _wide(x), _wide(y)
    w = np.zeros((*geometry["k"], x.shape[-1] // groups, y.shape[-1]), np.result_type(x, y))
    for u, t, q in _meetings(geometry):
        for into, out in _groups(x.shape[-1], y.shape[-1], groups):
            w[(*t, slice(None), out)] += x[(slice(None), *u, into)].T @ y[(slice(None), *q, out)]
    return w


def _groups(channels_in, channels_out, groups):
    """The channels of x and of y that each group connects."""
    i, o = channels_in // groups, channels_out // groups
    return [(slice(g * i, g * i + i), slice(g * o, g * o + o)) for g in range(groups)]


def pads_of(padding, n, k, d, s):
    """Pads of one axis from a rule's name or numbers, written out from DESIGN's words, not from jaxconv."""
    extent = d * (k - 1) + 1
    if padding == "VALID":
        return 0, 0
    if padding == "CAUSAL":
        return extent - 1, 0
    if padding in ("SAME", "SAME_LOWER"):
        m = -(-n // s)
        total = max((m - 1) * s + extent - n, 0)
        return (total // 2, total - total // 2) if padding == "SAME" else (total - total // 2, total // 2)
    return padding


def geometry_of(n, k, *, s, d, padding, mode="zeros", b=None):
    """The plain-number record of a convolution: a dict of per-axis tuples. `padding` is one entry per axis, or a
    rule's name."""
    rank = len(n)
    b = b or (1,) * rank
    names = padding if not isinstance(padding, str) else (padding,) * rank
    pads = [pads_of(p, *rest) for p, *rest in zip(names, n, k, d, s, strict=True)]
    m = tuple(
        (bb * (nn - 1) + 1 + lo + hi - dd * (kk - 1) - 1) // ss + 1
        for nn, kk, ss, dd, bb, (lo, hi) in zip(n, k, s, d, b, pads, strict=True)
    )
    return {
        "n": n,
        "k": k,
        "m": m,
        "b": b,
        "d": d,
        "s": s,
        "lo": tuple(lo for lo, _ in pads),
        "pads": pads,
        "mode": mode,
    }
