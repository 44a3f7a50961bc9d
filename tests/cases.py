"""Random convolutions for the tests: small enough to loop over, wide enough to meet every rule, each printable as a
line to paste."""

import dataclasses
import itertools

import numpy as np
import reference
from hypothesis import strategies as st


@dataclasses.dataclass(frozen=True)
class Case:
    """One convolution: all that a call of jaxconv needs, and the plain-number record that the definition needs."""

    n: tuple
    k: tuple
    stride: tuple
    dilation: tuple
    padding: object  # "SAME", "SAME_LOWER", "VALID", "CAUSAL" or ((lo, hi), ...)
    groups: int = 1
    mode: str = "zeros"
    channels: tuple = (2, 3)  # per group
    batch: int = 2
    seed: int = 0

    @property
    def params(self):
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "padding_mode": self.mode,
        }

    @property
    def record(self):
        return reference.geometry_of(
            self.n, self.k, s=self.stride, d=self.dilation, padding=self.padding, mode=self.mode
        )

    @property
    def legal(self):
        if min(self.record["m"]) < 1:
            return False
        return self.mode != "reflect" or all(
            n > 1 or max(p) <= 0 for n, p in zip(self.n, self.record["pads"], strict=True)
        )

    def arrays(self, dtype=np.float64):
        """Random x, w, y of the right shapes."""
        rng = np.random.default_rng([self.seed, 7])
        i, o = (c * self.groups for c in self.channels)
        shapes = (self.batch, *self.n, i), (*self.k, i // self.groups, o), (self.batch, *self.record["m"], o)
        if np.issubdtype(dtype, np.complexfloating):
            return [(rng.standard_normal(s) + 1j * rng.standard_normal(s)).astype(dtype) for s in shapes]
        return [rng.standard_normal(s).astype(dtype) for s in shapes]

    def sizes_with_the_same_output(self):
        """Every input size that gives this case's output size, by trying sizes: the legal output sizes of the
        transpose."""
        choices = []
        for axis, n in enumerate(self.n):
            reach = range(max(1, n - 2 * self.stride[axis]), n + 2 * self.stride[axis] + 1)
            same = []
            for candidate in reach:
                size = tuple(candidate if a == axis else v for a, v in enumerate(self.n))
                other = dataclasses.replace(self, n=size)
                if other.record["m"] == self.record["m"] and other.legal:
                    same.append(candidate)
            choices.append(same)
        return [dataclasses.replace(self, n=size) for size in itertools.product(*choices)]

    def __str__(self):
        return f"FAILING GEOMETRY, paste into tests/test_core_regressions.py: {self!r}"


RULES = ("SAME", "SAME_LOWER", "VALID", "CAUSAL")
MODES = ("zeros", "zeros", "zeros", "circular", "reflect", "replicate")


def random_case(seed, *, ranks=(1, 1, 2, 2, 3), modes=MODES, groups=(1, 1, 2, 3)):
    """A legal random case, the same for the same seed."""
    rng = np.random.default_rng(seed)
    while True:
        rank = int(rng.choice(ranks))
        top = {1: 8, 2: 7, 3: 5}[rank]
        case = Case(
            n=tuple(int(v) for v in rng.integers(1, top + 1, rank)),
            k=tuple(int(v) for v in rng.integers(1, 5 if rank < 3 else 4, rank)),
            stride=tuple(int(v) for v in rng.integers(1, 4, rank)),
            dilation=tuple(int(v) for v in rng.choice([1, 1, 2, 3], rank)),
            padding=_random_padding(rng, rank),
            groups=int(rng.choice(groups)),
            mode=str(rng.choice(modes)),
            channels=(int(rng.integers(1, 3)), int(rng.integers(1, 4))),
            batch=int(rng.integers(1, 3)),
            seed=seed,
        )
        if case.legal:
            return case


def _random_padding(rng, rank):
    if rng.random() < 0.4:
        return str(rng.choice(RULES))
    return tuple((int(rng.integers(-2, 4)), int(rng.integers(-2, 4))) for _ in range(rank))


@st.composite
def cases(draw, max_rank=2):
    """hypothesis strategy over legal cases; shrinks towards rank 1, size 1, stride 1 and no padding."""
    rank = draw(st.integers(1, max_rank))

    def axis(low, high):
        return st.tuples(*[st.integers(low, high)] * rank)

    pads = st.tuples(*[st.tuples(st.integers(-2, 3), st.integers(-2, 3))] * rank)
    case = Case(
        n=draw(axis(1, 7)),
        k=draw(axis(1, 4)),
        stride=draw(axis(1, 3)),
        dilation=draw(axis(1, 3)),
        padding=draw(st.one_of(pads, st.sampled_from(RULES))),
        groups=draw(st.integers(1, 2)),
        mode=draw(st.sampled_from(("zeros", "circular", "reflect", "replicate"))),
        channels=(1, draw(st.integers(1, 2))),
        batch=1,
    )
    from hypothesis import assume

    assume(case.legal)
    return case
