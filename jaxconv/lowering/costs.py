"""What a call costs by each lowering on a CPU: a linear model of a few amounts that can be counted from the geometry.

``seconds = sum over kinds of RATE[kind] * amount[kind]``. The amounts are multiply-adds by the kind of program that does them, bytes that copies move,
and operations that are launched; the rates (seconds per unit) were fitted by non-negative least squares on the recorded measurements in
``benchmarks/results`` by ``benchmarks/fit_costs.py``, each case weighted by 1/time. The model only has to rank the lowerings of
one call: how often it picks the fastest, and what the other picks cost, is printed by the same script.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from jaxconv.lowering import blocks, residues, taps

if TYPE_CHECKING:
    from jaxconv.lowering.choice import Call

ELEMENT = 4  # bytes; half precision is widened on CPUs, and double scales every amount alike
# A product with fewer than this many channels on a side leaves vector lanes idle.
LANES = 16
# Buffers beyond this many bytes are mapped afresh by the allocator at each call, and every page of them faults.
RESIDENT = 16e6

RATES: dict[str, float] = {
    "3-D dilated window": 2e-10,
    "3-D window": 3e-11,
    "bytes": 2e-10,
    "depthwise": 1e-10,
    "depthwise kernel": 3e-10,
    "faulting bytes": 6e-10,
    "grouped kernel": 5e-09,
    "grouped product": 3e-11,
    "grouped product narrow": 2e-11,
    "grouped stuffed": 1e-10,
    "grouped window": 3e-10,
    "ops": 5e-06,
    "product": 1.2e-11,
    "product narrow": 1e-11,
    "shuffled bytes": 5e-10,
    "strided depthwise": 2e-10,
    "strided depthwise kernel": 3e-10,
    "window adjoint": 1e-11,
    "window adjoint narrow": 2e-12,
    "window apply": 1e-11,
    "window apply narrow": 2e-12,
    "window kernel": 2e-11,
    "window kernel narrow": 1e-11,
    "window stuffed": 1e-12,
}


def amounts(method: str, call: Call, choose: Callable[[Call], str]) -> Counter:
    """Amounts of each kind of work that `method` spends on `call`; `choose` decides what is inside a composite one."""
    return {
        "window": _window,
        "taps": _taps,
        "patches": _patches,
        "phases": _phases,
        "space_to_batch": _space_to_batch,
        "blocks": _blocks,
    }[method](call, choose)


def seconds(method: str, call: Call, choose: Callable[[Call], str]) -> float:
    """The model's estimate."""
    return sum(RATES[kind] * amount for kind, amount in amounts(method, call, choose).items())


def multiply_adds(call: Call) -> float:
    """Nominal multiply-adds of the face, padding included."""
    g = call.geometry
    work = call.batch * math.prod(g.output_size) * math.prod(g.kernel_size)
    return float(work * (call.channels_in // g.groups) * call.channels_out)


def _narrow(call: Call) -> float:
    """Idle lanes relative to busy ones, for the two channel sides of a product."""
    g = call.geometry
    return LANES / (call.channels_in / g.groups) + LANES / (call.channels_out / g.groups)


def _input(call: Call) -> float:
    return float(call.batch * math.prod(call.geometry.input_size) * call.channels_in * ELEMENT)


def _output(call: Call) -> float:
    return float(call.batch * math.prod(call.geometry.output_size) * call.channels_out * ELEMENT)


def _kernel(call: Call) -> float:
    g = call.geometry
    return float(math.prod(g.kernel_size) * call.channels_in // g.groups * call.channels_out * ELEMENT)


def _window(call: Call, choose) -> Counter:
    g, work = call.geometry, multiply_adds(call)
    out: Counter = Counter(ops=1)
    strided = call.face == "adjoint" and any(s > 1 for s in g.stride)
    if g.groups > 1:
        out[f"grouped {'kernel' if call.face == 'kernel' else 'window'}"] = work
        if strided:
            out["grouped stuffed"] = work * math.prod(g.stride)
        return out
    if g.rank >= 3:
        dilated = strided or any(d > 1 for d in g.dilation)
        out["3-D dilated window" if dilated else "3-D window"] = work * (math.prod(g.stride) if strided else 1)
        return out
    out[f"window {call.face}"] = work
    out[f"window {call.face} narrow"] = work * _narrow(call)
    if strided:
        out["window stuffed"] = work * math.prod(g.stride)
    return out


def _taps(call: Call, choose) -> Counter:
    g = call.geometry
    boxes = list(taps.boxes(g))
    met = float(sum(math.prod(size) for *_, size in boxes)) * call.batch
    if taps.is_depthwise(call):
        kind = "depthwise kernel" if call.face == "kernel" else "depthwise"
        strided = "strided " if any(s > 1 for s in g.stride) else ""
        return Counter({strided + kind: met * call.channels_out, "bytes": 2 * _input(call), "ops": 2 + len(boxes) * (call.face == "kernel")})
    work = met * (call.channels_in // g.groups) * call.channels_out
    kind = "grouped product" if g.groups > 1 else "product"
    out = Counter({kind: work, f"{kind} narrow": work * _narrow(call), "ops": 4.0 * len(boxes)})
    sides = {
        "apply": call.channels_in + 2 * call.channels_out,
        "adjoint": 2 * call.channels_in + call.channels_out,
        "kernel": call.channels_in + call.channels_out,
    }[call.face]
    out["bytes"] = met * sides * ELEMENT
    return out


def _patches(call: Call, choose) -> Counter:
    g = call.geometry
    taps_count = math.prod(g.kernel_size)
    if call.face == "adjoint":
        patch = call.batch * math.prod(g.input_size) * taps_count * call.channels_out * ELEMENT
    else:
        patch = call.batch * math.prod(g.output_size) * taps_count * call.channels_in * ELEMENT
    work = multiply_adds(call)
    kind = "grouped product" if g.groups > 1 else "product"
    out = Counter({kind: work, f"{kind} narrow": work * _narrow(call) / taps_count, "ops": 2.0 * taps_count})
    out["bytes"] = _input(call) + 2.0 * patch
    out["faulting bytes"] = max(patch - RESIDENT, 0.0)
    return out


def _inside(inner: Call, choose, times: int = 1) -> Counter:
    found = amounts(choose(inner), inner, choose)
    return Counter({kind: amount * times for kind, amount in found.items()})


def _phases(call: Call, choose) -> Counter:
    inner = residues.phase_call(call)
    out = _inside(inner, choose)
    out["shuffled bytes"] += 2 * _input(inner)
    out["bytes"] += 2 * _kernel(inner)
    out["ops"] += 4
    return out


def _space_to_batch(call: Call, choose) -> Counter:
    inner = residues.batch_call(call)
    out = _inside(inner, choose)
    moved = {"apply": (1, 1), "adjoint": (1, 1), "kernel": (1, 1)}[call.face]
    out["shuffled bytes"] += 2 * (moved[0] * _input(inner) + moved[1] * _output(inner))
    out["ops"] += 4
    return out


def _blocks(call: Call, choose) -> Counter:
    inner = blocks.dense_call(call)
    count = call.channels_in // inner.channels_in
    out = _inside(inner, choose, count)
    out["bytes"] += 2 * (_input(call) + _output(call)) + 2 * count * _kernel(inner)
    out["ops"] += 3 * count
    return out
