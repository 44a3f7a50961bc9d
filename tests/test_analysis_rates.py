"""Dilation schedules against brute force, the published examples, and the search's promises."""

import itertools
import math

import numpy as np
import pytest

from jaxconv.analysis import check_rates, search_rates


def brute_counts(rates, kernels, strides):
    """Paths per input position, by walking through every choice of taps."""
    steps = [r * math.prod(strides[:i]) for i, r in enumerate(rates)]
    sums = [sum(t * s for t, s in zip(taps, steps)) for taps in itertools.product(*map(range, kernels))]
    return np.bincount(sums, minlength=max(sums) + 1)


def brute_distances(rates):
    """M_i from the last layer down, written as in the paper."""
    m = {len(rates): rates[-1]}
    for i in range(len(rates) - 1, 0, -1):
        r = rates[i - 1]
        m[i] = max(m[i + 1] - 2 * r, m[i + 1] - 2 * (m[i + 1] - r), r)
    return tuple(m[i] for i in sorted(m))


def test_textbook_schedules():
    holes = check_rates([2, 2, 2], kernel_size=3, rank=2)
    assert not holes.ok and holes.gcd == 2 and holes.receptive_field == 13
    assert np.count_nonzero(holes.counts_nd(2)) == 49 and holes.coverage == 49 / 169
    full = check_rates([1, 2, 3], rank=2)
    assert full.ok and full.rule_ok and full.coverage == 1 and np.count_nonzero(full.counts_nd(2)) == 169
    assert check_rates([1, 1, 1]).receptive_field == 7
    assert np.count_nonzero(check_rates([1, 2, 9]).counts) == 21 and len(check_rates([1, 2, 9]).counts) == 25


@pytest.mark.parametrize(
    ("rates", "ok", "rule_ok"),
    [([2, 2, 3], False, True), ([1, 3, 1], True, False), ([1, 2, 5], True, True), ([2, 4, 8], False, False)],
)
def test_the_rule_is_not_the_truth(rates, ok, rule_ok):
    check = check_rates(rates)
    assert (check.ok, check.rule_ok) == (ok, rule_ok)
    assert check.why.startswith("No holes" if ok else "Holes")
    assert (check.coverage == 1) is ok


def test_counts_and_condition_against_brute_force():
    rng = np.random.default_rng(7)
    for trial in range(300):
        layers = int(rng.integers(1, 5))
        rates = rng.integers(1, 6, layers).tolist()
        kernels = rng.integers(1, 5, layers).tolist()
        strides = rng.integers(1, 4, layers).tolist()
        check = check_rates(rates, kernels, strides=strides)
        expected = brute_counts(rates, kernels, strides)
        place = f"trial {trial}: check_rates({rates}, {kernels}, strides={strides})"
        np.testing.assert_array_equal(check.counts, expected, err_msg=place)
        assert check.ok == bool((expected > 0).all()), place
        assert ("No holes" in check.why) == check.ok, place
        steps = [r * math.prod(strides[:i]) for i, r in enumerate(rates)]
        assert check.distances == brute_distances(steps), place


def test_parallel_branches_are_summed_about_a_common_centre():
    check = check_rates([1, (1, 3)], rank=2)
    one, three = np.zeros((9, 9), int), np.zeros((9, 9), int)
    for i, j, a, b in itertools.product((-1, 0, 1), repeat=4):
        one[4 + i + a, 4 + j + b] += 1
        three[4 + i + 3 * a, 4 + j + 3 * b] += 1
    np.testing.assert_array_equal(check.counts_nd(2), one + three)
    assert check.ok and check.rule_ok is None and check.distances == ()
    assert not check_rates([(1, 6, 12)]).ok


def test_long_schedules_count_beyond_64_bits():
    check = check_rates([1] * 60, kernel_size=3)
    assert int(check.counts.sum()) == 3**60


def test_search_finds_the_published_schedule_and_nothing_better_exists():
    found = search_rates(3, kernel_size=3, receptive_field=17)
    assert found[0].rates == (1, 2, 5) and found[0].rule_ok
    everything = [r for r in itertools.product(range(1, 9), repeat=3) if sum(r) == 8 and check_rates(r).ok]
    assert {tuple(sorted(r)) for r in everything} == {c.rates for c in found}
    assert max(check_rates(r).evenness for r in everything) == pytest.approx(found[0].evenness, abs=1e-12)


@pytest.mark.parametrize("sawtooth", [[1, 2, 3, 1, 2, 3], [1, 2, 5, 1, 2, 5], [1, 2, 1, 2]])
def test_search_is_at_least_as_even_as_a_hand_made_sawtooth(sawtooth):
    hand = check_rates(sawtooth)
    best = search_rates(len(sawtooth), receptive_field=hand.receptive_field)[0]
    assert best.ok and best.receptive_field == hand.receptive_field
    assert best.evenness >= hand.evenness


def test_search_with_strides_mixed_kernels_and_branches():
    kernels, strides = [2, 3, 4], [1, 2, 1]
    found = search_rates(3, kernels, max_rate=4, strides=strides, top=1000)
    expected = {
        r for r in itertools.product(range(1, 5), repeat=3) if (brute_counts(r, kernels, strides) > 0).all()
    }  # fmt: skip
    assert {c.rates for c in found} == expected
    branched = search_rates([1, 2], max_rate=3, rank=2)
    assert branched and all(c.ok and c.counts_nd(2).all() for c in branched)
    assert search_rates(2, receptive_field=10) == []
    # Odd kernels have odd fields; three 3x3 layers see 27 pixels at most.
    assert search_rates(2, receptive_field=6).why.endswith("the nearest fields are 5 and 7")
    assert search_rates(3, receptive_field=30).why.endswith("has a field of 30; the nearest field is 27")
    assert search_rates(3, receptive_field=30, max_rate=2).why.endswith("the nearest field is 11")
    assert "none within 32 pixels" in search_rates(2, receptive_field=100).why
    table = str(search_rates(3, receptive_field=17)).splitlines()
    assert table[1].split()[:4] == ["1,", "2,", "5", "17"] and max(map(len, table)) <= 80


def test_bad_schedules_are_named():
    with pytest.raises(ValueError, match=r"\[1, 0\]|\(0,\)"):
        check_rates([1, 0])
    with pytest.raises(ValueError, match="2 entries for 3 layers"):
        check_rates([1, 2, 3], kernel_size=[3, 3])
    with pytest.raises(ValueError, match="one dilation per layer"):
        check_rates([])
    with pytest.raises(ValueError, match="receptive_field or max_rate"):
        search_rates([1, 3])
    with pytest.raises(ValueError, match="smaller max_rate"):
        search_rates(14, receptive_field=201)
