"""One way to hold a dialect against its live peer: random argument sets, values, gradients, refusals, counted by name.

A case is a name, the arrays, and the other arguments. The peer and the dialect both get it; either both refuse, or both
give the same values (1e-9 of the largest, in float64) and the same gradients (1e-7) for a random cotangent.
JAXCONV_PARITY_CASES=200 runs the tests by the hundred, too, with that many sets for each name, and
JAXCONV_PARITY_RECORDS=FOLDER leaves the counts there (benchmarks/dialect_parity.py makes its table of them).
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

VALUE, GRADIENT = 1e-9, 1e-7
# Each case compiles a program that runs once: what LLVM would gain by optimising it costs more than it brings.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

CASES = os.environ.get("JAXCONV_PARITY_CASES")
# The hundreds take longer than the rest of the tests together.
by_the_hundred = pytest.mark.skipif(not CASES, reason="set JAXCONV_PARITY_CASES=200 to draw hundreds of argument sets")


def cases_per_name(default: int) -> int:
    return int(CASES or default)


@dataclasses.dataclass
class Case:
    """One call: `arrays` go in by position, then `args`, then `kwargs`."""

    name: str
    arrays: tuple[np.ndarray | None, ...]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    grad: tuple[int, ...] = ()  # which arrays to differentiate
    tolerance: float = 0.0  # absolute, for types that round

    def __str__(self):
        shapes = ", ".join("None" if a is None else f"{a.dtype}{list(a.shape)}" for a in self.arrays)
        rest = [repr(a) for a in self.args] + [f"{k}={v!r}" for k, v in self.kwargs.items()]
        return f"{self.name}({', '.join([shapes, *rest])})"


class Tally:
    """Cases, refusals and failures by name; `table()` is what the report shows."""

    def __init__(self, title: str):
        self.title, self.rows, self.failures = title, {}, []
        self.worst = {"value": 0.0, "gradient": 0.0}

    def row(self, name):
        return self.rows.setdefault(name, {"cases": 0, "refused": 0, "gradients": 0, "failures": 0})

    def fail(self, case, why):
        self.row(case.name)["failures"] += 1
        self.failures.append(f"{case}: {why}")

    def table(self) -> str:
        lines = [f"{self.title:32} {'cases':>7} {'refused':>8} {'gradients':>10} {'failures':>9}"]
        for name, r in sorted(self.rows.items()):
            lines.append(f"{name:32} {r['cases']:7} {r['refused']:8} {r['gradients']:10} {r['failures']:9}")
        total = {k: sum(r[k] for r in self.rows.values()) for k in ("cases", "refused", "gradients", "failures")}
        lines.append(
            f"{'total':32} {total['cases']:7} {total['refused']:8} {total['gradients']:10} {total['failures']:9}"
        )
        lines.append(f"largest error: values {self.worst['value']:.1e}, gradients {self.worst['gradient']:.1e}")
        return "\n".join(lines)

    def finish(self):
        """Print the table and fail with the first failing calls."""
        print("\n" + self.table())
        if folder := os.environ.get("JAXCONV_PARITY_RECORDS"):
            record = {"title": self.title, "rows": self.rows, "worst": self.worst, "failures": self.failures}
            one = sorted(self.rows)[:1] if len(self.rows) == 1 else []
            (pathlib.Path(folder) / f"{' '.join([self.title, *one])}.json").write_text(json.dumps(record, indent=1))
        shown = "\n".join(self.failures[:12])
        assert not self.failures, f"{len(self.failures)} failures, first ones:\n{shown}"
        assert self.rows, "no case was run"


def error(got: Any, want: Any) -> float:
    """Largest difference over the largest value (at least 1); infinite where shapes or the places of NaN and infinities
    differ."""
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape:
        return np.inf
    if got.dtype == bool or want.dtype == bool:
        return 0.0 if (got == want).all() else np.inf
    if not want.size:
        return 0.0
    got, want = got.astype(np.result_type(got, np.float64)), want.astype(np.result_type(want, np.float64))
    special = ~np.isfinite(want)
    if not np.array_equal(got[special], want[special], equal_nan=True) or not np.isfinite(got[~special]).all():
        return np.inf
    if not (~special).any():
        return 0.0
    return float(np.abs(got[~special] - want[~special]).max() / max(1.0, np.abs(want[~special]).max()))


def first(outputs):
    return outputs[0] if isinstance(outputs, (tuple, list)) else outputs


def run_case(
    tally: Tally,
    case: Case,
    ours: Callable,
    peer: Callable,
    peer_grad: Callable | None = None,
    *,
    value: float = VALUE,
    gradient: float = GRADIENT,
    peer_errors: tuple[type[Exception], ...] = (Exception,),
    rng: np.random.Generator | None = None,
) -> None:
    """Run one case both ways and count it.

    `peer(case)` gives NumPy arrays or raises; `peer_grad(case, cotangent)` gives one array for each of `case.grad`.
    """
    row = tally.row(case.name)
    row["cases"] += 1
    try:
        want = peer(case)
    except peer_errors as e:
        row["refused"] += 1
        _expect_refusal(tally, case, ours, e)
        return
    arrays = [None if a is None else jnp.asarray(a) for a in case.arrays]

    def call(*live):
        merged = list(arrays)
        for i, a in zip(used, live, strict=True):
            merged[i] = a
        return ours(*merged, *case.args, **case.kwargs)

    used = [i for i, a in enumerate(arrays) if a is not None]
    live = [arrays[i] for i in used]
    ct, wanted = None, None
    if peer_grad is not None and case.grad and np.size(first(want)):
        ct = np.asarray((rng or np.random.default_rng(0)).standard_normal(np.shape(first(want))))
        wanted = peer_grad(case, ct)  # None where the peer has no gradient
    positions = [used.index(i) for i in case.grad]

    def both(cotangent, *live):
        """Outputs, and where the peer has one the gradient."""
        if wanted is None:
            return call(*live), ()

        def forward(*moving):
            merged = list(live)
            for p, a in zip(positions, moving, strict=True):
                merged[p] = a
            outputs = call(*merged)
            return first(outputs), outputs

        out, vjp, outputs = jax.vjp(forward, *(live[p] for p in positions), has_aux=True)
        if out.shape != cotangent.shape:
            return outputs, ()  # the values say so below
        return outputs, vjp(cotangent.astype(out.dtype))

    try:
        got, grads = jax.jit(both, compiler_options=QUICK)(None if ct is None else jnp.asarray(ct), *live)
    except Exception as e:  # noqa: BLE001 - any error here is a finding
        return tally.fail(case, f"raised {type(e).__name__}: {str(e)[:300]}")
    got_all, want_all = ([v] if not isinstance(v, (tuple, list)) else v for v in (got, want))
    for g, w in zip(got_all, want_all, strict=True):
        e = error(g, w)
        if case.tolerance:
            e = (
                e
                if not np.isfinite(e)
                else max(np.abs(np.asarray(g, np.float64) - np.asarray(w, np.float64)).max() - case.tolerance, 0)
            )
        tally.worst["value"] = max(tally.worst["value"], e if np.isfinite(e) else 0)
        if not e <= value:
            return tally.fail(case, f"values differ by {e:.2e} (shapes {np.shape(g)} and {np.shape(w)})")
    if wanted is None:
        return None
    row["gradients"] += 1
    for i, g, w in zip(case.grad, grads, wanted, strict=True):
        e = error(g, w)
        tally.worst["gradient"] = max(tally.worst["gradient"], e if np.isfinite(e) else 0)
        if not e <= gradient:
            return tally.fail(case, f"gradients of array {i} differ by {e:.2e}")
    return None


def _expect_refusal(tally: Tally, case: Case, ours: Callable, peer_error: Exception) -> None:
    arrays = [None if a is None else jnp.asarray(a) for a in case.arrays]
    try:
        ours(*arrays, *case.args, **case.kwargs)
    except (ValueError, TypeError):
        return
    except Exception as e:  # noqa: BLE001 - the wrong kind of error is a finding
        tally.fail(case, f"raised {type(e).__name__}, not ValueError or TypeError: {str(e)[:200]}")
        return
    tally.fail(case, f"accepted what the peer refuses ({type(peer_error).__name__}: {str(peer_error)[:160]})")
