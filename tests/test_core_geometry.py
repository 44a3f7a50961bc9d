"""Sizes: forward, backward, by every rule, against trying sizes one by one."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
import reference
from cases import RULES, random_case
from ways import geometry

import jaxconv as jc
from jaxconv import ConvGeometry
from jaxconv.padding import runs, source_positions


def resolve(n, **kw):
    try:
        return ConvGeometry.resolve(input_size=(n,), **kw)
    except ValueError:
        return None


@pytest.mark.parametrize("padding", [*RULES, ((0, 0),), ((1, 1),), ((-1, 2),), ((2, -1),)], ids=str)
def test_legal_input_sizes_are_those_that_give_the_output(padding):
    for k, s, d, b in itertools.product((1, 2, 3, 4), (1, 2, 3), (1, 2, 3), (1, 2, 3)):
        kw = {"kernel_size": (k,), "stride": s, "dilation": d, "base_dilation": b, "padding": padding}
        by_output = {}
        for n in range(1, 40):
            if (g := resolve(n, **kw)) is not None:
                by_output.setdefault(g.output_size, []).append((n, g))
        complete = sorted(by_output)[:-1]  # the last output may also come from inputs above 39
        for m in complete:
            want = [n for n, _ in by_output[m]]
            for _, g in by_output[m]:
                assert list(g.legal_input_sizes()[0]) == want, g


@pytest.mark.parametrize("seed", range(60))
def test_resolve_agrees_with_the_plain_formula_and_round_trips(seed):
    case = random_case(seed)
    g = geometry(dataclasses.replace(case, mode="zeros"))
    assert g.output_size == case.record["m"] and g.pads == tuple(map(tuple, case.record["pads"]))
    back = ConvGeometry.resolve_transpose(
        input_size=g.output_size, kernel_size=case.k, stride=case.stride, padding=case.padding, dilation=case.dilation,
        groups=case.groups, output_size=case.n,
    )  # fmt: skip
    assert back == g and hash(back) == hash(g)
    assert all(isinstance(v, int) for v in (*g.output_size, *g.offsets, *g.stride))


@pytest.mark.parametrize(
    ("rule", "i", "k", "s", "d", "default"),
    [
        ("VALID", 4, 3, 2, 1, 9),
        ("VALID", 4, 1, 3, 1, 10),
        ("SAME", 4, 3, 2, 1, 8),
        ("SAME_LOWER", 4, 5, 3, 1, 12),
        ("CAUSAL", 4, 2, 2, 8, 8),
        (1, 4, 3, 2, 1, 7),
        (0, 4, 3, 2, 2, 11),
    ],
)
def test_the_default_size_of_a_transpose(rule, i, k, s, d, default):
    """The smallest legal size for numbers and VALID, i*s for SAME, SAME_LOWER and CAUSAL."""
    kw = {"input_size": (i,), "kernel_size": (k,), "stride": s, "dilation": d, "padding": rule}
    assert ConvGeometry.resolve_transpose(**kw).input_size == (default,)
    smallest = ConvGeometry.resolve_transpose(**kw, output_padding=0)
    assert smallest.input_size[0] == smallest.legal_input_sizes()[0].start
    assert smallest.output_padding == (0,) or isinstance(rule, str)


def test_numbers_agree_with_pytorch_formula():
    for i, k, s, d, p, op in itertools.product((1, 3, 5), (1, 2, 3, 4), (1, 2, 3), (1, 2), (0, 1), (0, 1, 2)):
        size = (i - 1) * s + d * (k - 1) + 1 - 2 * p + op
        if op >= s or size - op < 1:
            continue
        g = ConvGeometry.resolve_transpose(
            input_size=(i,), kernel_size=(k,), stride=s, dilation=d, padding=p, output_padding=op
        )
        assert g.input_size == (size,) and g.output_padding == (op,)


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_source_positions_and_runs_describe_numpy_pad(mode):
    """numpy.pad is the witness where it has the mode; the reference's one-step loop everywhere."""
    for n, lo, hi in itertools.product(range(1, 6), range(-2, 9), range(-2, 9)):
        if n + lo + hi < 1 or (mode == "reflect" and n == 1):
            continue
        positions = source_positions(n, (lo, hi), mode)
        assert positions.tolist() == [reference.source(p, n, mode) for p in range(-lo, n + hi)]
        if lo >= 0 and hi >= 0:
            name = {"circular": "wrap", "reflect": "reflect", "replicate": "edge"}[mode]
            assert positions.tolist() == np.pad(np.arange(n), (lo, hi), mode=name).tolist()
        rebuilt = []
        for start, length, step in runs(n, (lo, hi), mode):
            rebuilt += [start + step * j for j in range(length)]
        assert rebuilt == positions.tolist()


def test_sizes_lists_exactly_the_settings_that_lead_from_one_size_to_another(rng):
    for start, end in rng.integers(1, 20, (6, 2)).tolist():
        found = jc.sizes(start, end)
        up = end > start
        x = np.ones((start, 1), np.float32)
        for f in found[:: max(1, len(found) // 3)]:
            w = np.ones((f.kernel_size, 1, 1), np.float32)
            result = jax.eval_shape(functools.partial(jc.conv_transpose if up else jc.conv, **f.arguments), x, w)
            assert result.shape == (end, 1), (start, end, f)
            assert f.even == (f.kernel_size % f.stride == 0)
        # The definition, for one stride: every kernel and padding whose output has that many elements.
        large, small = max(start, end), min(start, end)
        expected = {
            (k, p)
            for k in range(1, 9)
            for p in range(k // 2 + 1)
            if k >= 2 and large + 2 * p >= k and len(range(0, large + 2 * p - k + 1, 2)) == small
        }
        assert {(f.kernel_size, f.padding) for f in jc.sizes(start, end, stride=2)} == expected


def test_sizes_refuses_what_is_no_size():
    for settings, message in (
        (dict(start=0, end=3), "start=0 must be at least 1"),
        (dict(start=3, end=5, stride=0), "stride=0 must be at least 1"),
        (dict(start=3, end=5, padding=-1), "padding=-1 must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            jc.sizes(**settings)
    with pytest.raises(TypeError, match="end=2.5 must be an integer"):
        jc.sizes(3, 2.5)
