"""Dilation schedules: which stacks of dilated convolutions see every pixel of their receptive field.

A layer with kernel size k, dilation r and an accumulated stride S reads its input at S*r*t for t = 0 .. k-1. A stack of
layers therefore reaches exactly the sums of one such offset per layer, and how often it reaches each is the convolution
of the layers' combs. Everything here is that statement, in integers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations_with_replacement, product

import numpy as np

from jaxconv._text import brief

_SEARCH_LIMIT = 100_000
# How far from a wanted field that no schedule has the nearest ones are looked for, in pixels.
_NEAREST_WITHIN = 32

Stage = tuple[int, ...]


@dataclass(frozen=True)
class RateCheck:
    """What a dilation schedule sees, per axis; made by `check_rates`.

    `counts[p]` is the number of paths from one output to position p of its receptive field along one axis. `coverage`
    is the share of the field that is reached at all (over `rank` axes), `evenness` is (sum c)^2 / (n sum c^2): one
    where all counts are equal. `distances` are M_1 .. M_n of Wang et al. (2018); it is empty, and `rule_ok` is None,
    where the schedule has parallel branches, for which the rule says nothing.
    """

    rates: tuple[int | Stage, ...]
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    ok: bool
    rule_ok: bool | None
    gcd: int
    distances: tuple[int, ...]
    receptive_field: int
    counts: np.ndarray
    coverage: float
    evenness: float
    why: str

    __repr__ = brief

    def counts_nd(self, rank: int) -> np.ndarray:
        """Counts over `rank` axes at once: for a chain the outer product of `counts` with itself.

        >>> check = check_rates([2, 2, 2])
        >>> int(np.count_nonzero(check.counts_nd(2))), check.counts_nd(2).size
        (49, 169)
        """
        return _counts([_as_stage(r) for r in self.rates], self.kernel_size, self.strides, rank)


class RateSchedules(list[RateCheck]):
    """The schedules that `search_rates` found, best first: a list that says why it is empty and prints as a table.

    `why` is a sentence where nothing was found, with the nearest fields that schedules without holes have; else "".
    """

    why: str = ""

    def __str__(self) -> str:
        if not self:
            return self.why
        rows = [f"{'rates':24} {'field':>5} {'evenness':>8}  textbook rule"]
        for check in self:
            rule = {True: "holds", False: "refuses it", None: "says nothing"}[check.rule_ok]
            rates = ", ".join(map(str, check.rates))
            rows.append(f"{rates:24} {check.receptive_field:5d} {check.evenness:8.3f}  {rule}")
        return "\n".join(rows)


def _as_stage(rate: int | Sequence[int]) -> Stage:
    return tuple(int(r) for r in rate) if isinstance(rate, Sequence) else (int(rate),)


def _per_layer(name: str, value: int | Sequence[int], layers: int) -> tuple[int, ...]:
    values = (value,) * layers if isinstance(value, (int, np.integer)) else tuple(value)
    if len(values) != layers:
        raise ValueError(f"{name} has {len(values)} entries for {layers} layers: {value!r}")
    if any(not isinstance(v, (int, np.integer)) or isinstance(v, bool) or v < 1 for v in values):
        raise ValueError(f"{name} must be integers of at least 1, got {value!r}")
    return tuple(int(v) for v in values)


def _accumulated(strides: Sequence[int]) -> list[int]:
    """The input pixels that one step of each layer's input is worth."""
    return [math.prod(strides[:i]) for i in range(len(strides))]


def _field(stages: Sequence[Stage], kernels: Sequence[int], strides: Sequence[int]) -> int:
    steps = _accumulated(strides)
    return 1 + sum((k - 1) * max(rates) * step for rates, k, step in zip(stages, kernels, steps, strict=True))


def _comb(counts: np.ndarray, axis: int, kernel: int, step: int) -> np.ndarray:
    """`counts` convolved along one axis with `kernel` ones spaced `step` apart."""
    shape = list(counts.shape)
    length = shape[axis]
    shape[axis] = length + (kernel - 1) * step
    result = np.zeros(shape, counts.dtype)
    for tap in range(kernel):
        where = [slice(None)] * counts.ndim
        where[axis] = slice(tap * step, tap * step + length)
        result[tuple(where)] += counts
    return result


def _counts(stages: Sequence[Stage], kernels: Sequence[int], strides: Sequence[int], rank: int) -> np.ndarray:
    total = math.prod(len(rates) * k**rank for rates, k in zip(stages, kernels, strict=True))
    counts = np.ones((1,) * rank, np.int64 if total < 2**62 else object)
    for rates, kernel, step in zip(stages, kernels, _accumulated(strides), strict=True):
        widest = max(rates)
        branches = []
        for rate in rates:
            branch = counts
            for axis in range(rank):
                branch = _comb(branch, axis, kernel, rate * step)
            # Branches of one stage share their centre; half a pixel is rounded down, as SAME padding does.
            low = (kernel - 1) * (widest - rate) * step // 2
            high = (kernel - 1) * (widest - rate) * step - low
            branches.append(np.pad(branch, [(low, high)] * rank))
        counts = reduce(np.add, branches)
    return counts


def evenness(counts: np.ndarray) -> float:
    """(sum c)^2 / (n sum c^2): one where all counts are equal, 1/n where one position has them all."""
    values = np.asarray(counts, np.float64)
    values = values / values.max(initial=1.0)
    return float(values.sum() ** 2 / (values.size * (values**2).sum()))


def _first_gap(steps: Sequence[int], kernels: Sequence[int]) -> tuple[int, int] | None:
    """The smallest step that leaves a hole, with the contiguous reach of the steps below it; None without holes.

    Sorted by step, the layers below step r reach 0 .. R without a gap; r leaves a hole exactly where r > R + 1: R + 1
    cannot be written without it, and with r <= R + 1 the shifted copies of 0 .. R overlap or touch.
    """
    reach = 0
    for step, kernel in sorted(zip(steps, kernels, strict=True)):
        if kernel == 1:
            continue
        if step > reach + 1:
            return step, reach
        reach += (kernel - 1) * step
    return None


def _distances(steps: Sequence[int]) -> tuple[int, ...]:
    """M_n = r_n;  M_i = max(M_{i+1} - 2 r_i, 2 r_i - M_{i+1}, r_i)  (Wang et al. 2018, equation 2)."""
    distances = [steps[-1]]
    for rate in reversed(steps[:-1]):
        after = distances[0]
        distances.insert(0, max(after - 2 * rate, after - 2 * (after - rate), rate))
    return tuple(distances)


def check_rates(
    rates: Sequence[int | Sequence[int]],
    kernel_size: int | Sequence[int] = 3,
    *,
    strides: int | Sequence[int] = 1,
    rank: int = 1,
) -> RateCheck:
    """Check a dilation schedule for holes: the textbook rules, and the exact count of paths.

    counts = comb(k_1, r_1 S_1) * comb(k_2, r_2 S_2) * ..., where comb(k, r) has k ones spaced r apart and S_i is the
    product of the strides before layer i. A chain has no holes if and only if, with the steps r_i S_i sorted, each step
    is at most one more than the reach of the smaller ones (the sum of their (k - 1) r S).

    Args:
        rates: one dilation per layer, first layer first; a tuple is a stage of parallel branches that are summed.
        kernel_size: taps per axis, one for all layers or one per layer.
        strides: one for all layers or one per layer; the stride of a layer widens the steps of those after it.
        rank: the number of axes over which `coverage` is taken. It matters for `ok` only where branches are parallel.

    Returns:
        A `RateCheck`; `ok` means that there are no holes.

    Raises:
        ValueError: for an empty schedule or entries below 1.

    >>> check = check_rates([2, 2, 2], rank=2)
    >>> check.ok, check.receptive_field, round(check.coverage * 169)
    (False, 13, 49)
    >>> check_rates([1, 2, 5]).ok
    True

    Source: Wang et al., "Understanding convolution for semantic segmentation" (2018), section 3.2; the exact condition
    is that of J. L. Brown on complete sequences (1961), applied to bounded digits.
    """
    if not isinstance(rates, (list, tuple, np.ndarray)) or len(rates) == 0:
        raise ValueError(f"rates must be a sequence with one dilation per layer, got {rates!r}")
    stages = [_per_layer("rates", _as_stage(r), len(_as_stage(r))) for r in rates]
    if any(not stage for stage in stages):
        raise ValueError(f"a stage of parallel branches needs at least one rate, got {rates!r}")
    kernels = _per_layer("kernel_size", kernel_size, len(stages))
    widths = _per_layer("strides", strides, len(stages))
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    return _check(stages, kernels, widths, rank)


def _check(stages: Sequence[Stage], kernels: tuple[int, ...], strides: tuple[int, ...], rank: int) -> RateCheck:
    counts = _counts(stages, kernels, strides, 1)
    branched = any(len(stage) > 1 for stage in stages)
    over_rank = counts if rank == 1 or not branched else _counts(stages, kernels, strides, rank)
    power = rank // over_rank.ndim  # a chain's counts are an outer product: powers of the counts along one axis
    coverage = np.count_nonzero(over_rank) ** power / over_rank.size**power
    steps = [stage[0] * step for stage, step in zip(stages, _accumulated(strides), strict=True)]
    divisor = reduce(
        math.gcd,
        (r * s for g, k, s in zip(stages, kernels, _accumulated(strides), strict=True) if k > 1 for r in g),
        0,
    )
    distances = () if branched else _distances(steps)
    rule_ok = None if branched else divisor <= 1 and (len(steps) == 1 or distances[1] <= kernels[0])
    ok = bool(coverage == 1)
    why = (
        _branch_reason(ok, coverage, divisor) if branched else _reason(ok, rule_ok, divisor, steps, kernels, distances)
    )
    return RateCheck(
        rates=tuple(s[0] if len(s) == 1 else s for s in stages),
        kernel_size=kernels,
        strides=strides,
        ok=ok,
        rule_ok=rule_ok,
        gcd=max(divisor, 1),
        distances=distances,
        receptive_field=len(counts),
        counts=counts,
        coverage=float(coverage),
        evenness=evenness(counts),
        why=why,
    )


def _branch_reason(ok: bool, coverage: float, divisor: int) -> str:
    if ok:
        return "No holes: together the branches reach every position of the receptive field."
    cause = (
        f"all steps are multiples of {divisor}" if divisor > 1 else "the branches' taps leave positions between them"
    )
    return f"Holes: {coverage:.1%} of the receptive field is reached, because {cause}."


def _reason(ok, rule_ok, divisor, steps, kernels, distances) -> str:
    if ok:
        rule = "" if rule_ok else f" (the textbook rule would refuse it: {_rule(divisor, distances, kernels[0])})"
        return f"No holes: every step is at most one more than the reach of the smaller ones{rule}."
    step, reach = _first_gap(steps, kernels) or (0, 0)
    share = f" All steps are multiples of {divisor}, so the field is a grid of period {divisor}." if divisor > 1 else ""
    rule = " The textbook rule does not notice." if rule_ok else ""
    below = f"the smaller ones reach only {reach} pixels" if reach else "no smaller one fills the gaps between its taps"
    return f"Holes: step {step} is too wide, {below}, and at most {reach + 1} would do.{share}{rule}"


def _rule(divisor: int, distances: Sequence[int], kernel: int) -> str:
    if divisor > 1:
        return f"common divisor {divisor}"
    return f"M_2 = {distances[1]} > k = {kernel}"


def search_rates(
    layers: int | Sequence[int],
    kernel_size: int | Sequence[int] = 3,
    receptive_field: int | None = None,
    max_rate: int | None = None,
    *,
    strides: int | Sequence[int] = 1,
    rank: int = 1,
    top: int = 20,
) -> RateSchedules:
    """Find the dilation schedules without holes, best first.

    All schedules of the wanted receptive field are compared (those with holes are cut off by the exact condition that
    `check_rates` states) and ranked by evenness; without a wanted field, the widest field comes first. Where the order
    of the layers changes nothing to the counts, the ascending one is given: networks that were trained with the same
    rates in descending order were worse (docs/experiments/schedules.md).

    Args:
        layers: the number of layers, or per layer its number of parallel branches (1 for a plain layer).
        kernel_size: taps per axis, one for all layers or one per layer.
        receptive_field: the wanted size in pixels per axis; None for the widest that can be had.
        max_rate: the largest dilation allowed; None for no limit.
        strides: one for all layers or one per layer.
        rank: the number of axes that must be covered (matters for parallel branches only).
        top: how many schedules to return at most.

    Returns:
        A list of `RateCheck`, best first; empty where no schedule without holes has the wanted field: its `why` then
        names the nearest fields that can be had.

    Raises:
        ValueError: for arguments below 1, or where the search would be too large without a tighter limit.

    >>> search_rates(3, kernel_size=3, receptive_field=17)[0].rates
    (1, 2, 5)
    >>> search_rates(3, kernel_size=3)[0].rates
    (1, 3, 9)
    >>> search_rates(5, kernel_size=3, receptive_field=64).why
    'no schedule without holes of 5 layers has a field of 64; the nearest fields are 63 and 65'
    """
    branches = (1,) * layers if isinstance(layers, (int, np.integer)) else tuple(layers)
    if not branches:
        raise ValueError(f"layers must be at least 1, got {layers!r}")
    branches = _per_layer("layers", branches, len(branches))
    kernels = _per_layer("kernel_size", kernel_size, len(branches))
    widths = _per_layer("strides", strides, len(branches))
    for name, value in (("receptive_field", receptive_field), ("max_rate", max_rate), ("rank", rank), ("top", top)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    checks = list(_without_holes(branches, kernels, widths, receptive_field, max_rate, rank))
    wide = receptive_field is None
    checks.sort(key=lambda c: (-c.receptive_field if wide else 0, -round(c.evenness, 12), c.rule_ok is False, c.rates))
    found = RateSchedules(checks[:top])
    if not found and receptive_field is not None:
        found.why = _why_none(branches, kernels, widths, receptive_field, max_rate, rank)
    return found


def _without_holes(branches, kernels, widths, wanted: int | None, max_rate: int | None, rank: int):
    """The checks of all schedules without holes that have the wanted field, unsorted."""
    plain = all(b == 1 for b in branches)
    found = (
        _chains(kernels, widths, wanted, max_rate) if plain else _branched(branches, kernels, widths, wanted, max_rate)
    )
    for stages in found:
        check = _check(stages, kernels, widths, rank)
        if check.ok:
            yield check


def _why_none(branches, kernels, widths, wanted: int, max_rate: int | None, rank: int) -> str:
    """A sentence with the nearest fields below and above that schedules without holes have."""

    def nearest(fields: range) -> list[int]:
        for field in fields:
            try:
                if any(True for _ in _without_holes(branches, kernels, widths, field, max_rate, rank)):
                    return [field]
            except ValueError:  # too many to compare
                break
        return []

    near = nearest(range(wanted - 1, max(wanted - _NEAREST_WITHIN, 1) - 1, -1))
    near += nearest(range(wanted + 1, wanted + _NEAREST_WITHIN + 1))
    limit = "" if max_rate is None else f" with rates up to {max_rate}"
    start = f"no schedule without holes of {len(branches)} layers{limit} has a field of {wanted}"
    if not near:
        return f"{start}, and none within {_NEAREST_WITHIN} pixels of it"
    plural = "fields are" if len(near) > 1 else "field is"
    return f"{start}; the nearest {plural} {' and '.join(map(str, near))}"


def _too_many() -> ValueError:
    return ValueError(
        f"more than {_SEARCH_LIMIT} schedules would have to be compared; give a smaller max_rate or a receptive_field"
    )


def _chains(kernels, strides, wanted: int | None, max_rate: int | None) -> Iterator[list[Stage]]:
    """All hole-free chains: steps are chosen in ascending order, each at most the reach so far plus one."""
    steps = _accumulated(strides)
    alike = len(set(kernels)) == 1 and set(steps) == {1}
    left_over = [(k - 1) * s for k, s in zip(kernels, steps, strict=True)]
    visited = 0

    def extend(rates: dict[int, int], reach: int, last: tuple[int, int]) -> Iterator[list[Stage]]:
        nonlocal visited
        visited += 1
        if visited > _SEARCH_LIMIT:
            raise _too_many()
        open_layers = [i for i in range(len(kernels)) if i not in rates]
        if not open_layers:
            if wanted is None or reach == wanted - 1:
                yield [(rates[i],) for i in range(len(kernels))]
            return
        least = reach + sum(left_over[i] * max(1, -(-last[0] // steps[i])) for i in open_layers)
        if wanted is not None and least > wanted - 1:
            return
        for layer in open_layers[:1] if alike else open_layers:
            highest = 1 if kernels[layer] == 1 else (reach + 1) // steps[layer]
            if max_rate is not None:
                highest = min(highest, max_rate)
            for rate in range(1, highest + 1):
                key = (rate * steps[layer], layer) if kernels[layer] > 1 else (0, layer)
                if key > last:
                    yield from extend({**rates, layer: rate}, reach + left_over[layer] * rate, key)

    yield from extend({}, 0, (0, -1))


def _branched(branches, kernels, strides, wanted, max_rate) -> Iterator[list[Stage]]:
    """All schedules with parallel stages, by enumeration; branches within a stage are in ascending order."""
    steps = _accumulated(strides)
    if max_rate is None and wanted is None:
        raise ValueError("a search with parallel branches needs receptive_field or max_rate")
    choices = []
    for count, kernel, step in zip(branches, kernels, steps, strict=True):
        limit = 1 if kernel == 1 else (wanted - 1) // ((kernel - 1) * step) if wanted is not None else max_rate
        limit = max(min(limit, max_rate or limit), 0)
        if math.comb(limit + count, count) > _SEARCH_LIMIT:
            raise _too_many()
        choices.append(list(combinations_with_replacement(range(1, limit + 1), count)))
    if math.prod(map(len, choices)) > _SEARCH_LIMIT:
        raise _too_many()
    for stages in product(*choices):
        if wanted is None or _field(stages, kernels, strides) == wanted:
            yield list(stages)
