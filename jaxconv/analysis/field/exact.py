"""Counts beyond 2^53 as exact integers: the sweep modulo several primes, put together at the end."""

from collections.abc import Sequence

import numpy as np

from ..graph.sweep import pull_back
from ..graph.trace import Traced

_PRIMES_BELOW = 2**31


def _primes(product_above: int) -> list[int]:
    """The largest primes below 2^31 whose product is above a number: sums of products of two stay below 2^63."""
    found, product, candidate = [], 1, _PRIMES_BELOW - 1
    while product <= product_above:
        if all(candidate % d for d in range(3, int(candidate**0.5) + 1, 2)):
            found.append(candidate)
            product *= candidate
        candidate -= 2
    return found


def exact_counts(traced: Traced, seed: np.ndarray, starts: Sequence[int], through_global: bool) -> np.ndarray:
    """The counts of a sweep from `seed` as Python integers, over the input's spatial shape."""
    power: dict[int, int] = {}
    rough, corner = pull_back(traced.source, traced.out, seed, starts, through_global=through_global, exponents=power)
    axes = traced.spatial_axes
    total = np.zeros(traced.input_size, object)
    if not rough.size:
        return total
    value = np.zeros(rough.shape, object)
    modulus = 1
    for prime in _primes((int(rough.max() * 2) + 1) << power.get(traced.source.number, 0)):
        part, _ = pull_back(
            traced.source, traced.out, seed.astype(np.int64), starts, through_global=through_global, modulus=prime
        )
        step = (part.astype(object) - value) * pow(modulus, -1, prime) % prime
        value = value + modulus * step
        modulus *= prime
    others = tuple(a for a in range(value.ndim) if a not in axes)
    order = sorted(axes)
    part = value.sum(axis=others) if others else value
    part = part.transpose([order.index(a) for a in axes])
    total[tuple(slice(corner[a], corner[a] + n) for a, n in zip(axes, part.shape, strict=True))] = part
    return total
