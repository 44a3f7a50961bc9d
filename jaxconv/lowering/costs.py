"""What a call costs by each lowering made of XLA's operations on a CPU: a linear model of countable amounts.

``seconds = sum over kinds of RATE[kind] * amount[kind]``. The amounts are multiply-adds by the kind of program that
does them, bytes that copies move, and operations that are launched. The rates (seconds per unit) were fitted by
``benchmarks/fit_costs.py`` on the recorded measurements in ``benchmarks/results``. The model only has to rank the
lowerings of one call: the same script prints how often it picks the fastest, and what the other picks cost.

Where the compiled kernels can run they are taken without asking the model: it serves where they cannot (no compiler,
several devices, export, four axes, complex numbers, integers).
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable

from jaxconv.lowering import blocks, phases, space_to_batch, taps
from jaxconv.lowering.call import Call

ELEMENT = 4  # bytes; half precision is widened on CPUs, and double scales every amount alike
# A product with fewer than this many channels on a side leaves vector lanes idle.
LANES = 16
# Buffers beyond this many bytes are mapped afresh by the allocator at each call, and every page of them faults.
RESIDENT = 16e6

RATES: dict[str, float] = {
    "3-D dilated lax": 3.02e-10,
    "3-D lax": 1.78e-10,
    "bytes": 3.57e-11,
    "depthwise": 5.32e-11,
    "depthwise kernel": 6.44e-10,
    "depthwise lax kernel": 4.04e-09,
    "depthwise lax": 6.22e-09,
    "faulting bytes": 1.38e-09,
    "grouped lax kernel": 3.09e-09,
    "grouped lax narrow": 9.67e-11,
    "grouped lax": 2.32e-16,
    "grouped pairing": 9.96e-11,
    "grouped pairing narrow": 5.98e-11,
    "grouped product": 6.9e-11,
    "grouped product narrow": 2.23e-11,
    "grouped stuffed": 3.98e-11,
    "ops": 4.75e-06,
    "pairing": 3.66e-11,
    "pairing narrow": 3.22e-11,
    "product": 2.26e-11,
    "product narrow": 5.37e-12,
    "shuffled bytes": 8.36e-11,
    "strided depthwise": 7.25e-11,
    "strided depthwise kernel": 8.05e-10,
    "lax adjoint": 2.39e-11,
    "lax adjoint narrow": 5.14e-12,
    "lax apply": 2.71e-11,
    "lax apply narrow": 4.66e-12,
    "lax kernel": 4.93e-11,
    "lax kernel narrow": 7.3e-12,
    "lax kernel strided": 2.86e-11,
    "lax stuffed": 1.39e-12,
}

Amounts = defaultdict[str, float]


def _amounts(found: dict[str, float] | None = None, **more: float) -> Amounts:
    return defaultdict(float, {**(found or {}), **more})


def amounts(method: str, call: Call, choose: Callable[[Call], str]) -> Amounts:
    """Amounts of each kind of work that `method` spends on `call`; `choose` decides what is inside a composite one."""
    return AMOUNTS[method](call, choose)


def seconds(method: str, call: Call, choose: Callable[[Call], str]) -> float:
    """The model's estimate, where no compiled kernel serves what a composite lowering leaves."""
    call = dataclasses.replace(call, platform="cpu", runs_here=False)
    return sum(RATES[kind] * amount for kind, amount in amounts(method, call, choose).items())


def cheapest(call: Call, served: Iterable[str], choose: Callable[[Call], str]) -> str:
    """The lowering among `served` that the model expects to be fastest."""
    return min((m for m in served if m in AMOUNTS), key=lambda method: seconds(method, call, choose))


def multiply_adds(call: Call) -> float:
    """Nominal multiply-adds of the face, padding included."""
    g = call.geometry
    work = call.batch * math.prod(g.output_size) * math.prod(g.kernel_size)
    return float(work * (call.channels_in // g.groups) * call.channels_out)


def _narrow(call: Call) -> float:
    """Idle lanes relative to busy ones, for the two channel sides of a product."""
    g = call.geometry
    return LANES / (call.channels_in / g.groups) + LANES / (call.channels_out / g.groups)


def _product_kind(call: Call) -> str:
    """The kernel face contracts over all positions, the others over channels: their products run at different rates."""
    return ("grouped " if call.geometry.groups > 1 else "") + ("pairing" if call.face == "kernel" else "product")


def _input(call: Call) -> float:
    return float(call.batch * math.prod(call.geometry.input_size) * call.channels_in * ELEMENT)


def _output(call: Call) -> float:
    return float(call.batch * math.prod(call.geometry.output_size) * call.channels_out * ELEMENT)


def _kernel(call: Call) -> float:
    g = call.geometry
    return float(math.prod(g.kernel_size) * call.channels_in // g.groups * call.channels_out * ELEMENT)


def _lax(call: Call, choose) -> Amounts:
    g, work = call.geometry, multiply_adds(call)
    out = _amounts(ops=1)
    strided = call.face == "adjoint" and any(s > 1 for s in g.stride)
    if g.groups > 1:
        width = "depthwise" if call.depthwise else "grouped"
        out[f"{width} lax{' kernel' * (call.face == 'kernel')}"] = work
        if width == "grouped":
            out["grouped lax narrow"] = work * _narrow(call)
        if strided:
            out["grouped stuffed"] = work * math.prod(g.stride)
        return out
    if g.rank >= 3:
        dilated = strided or any(d > 1 for d in g.dilation)
        out["3-D dilated lax" if dilated else "3-D lax"] = work * (math.prod(g.stride) if strided else 1)
        return out
    out[f"lax {call.face}"] = work
    out[f"lax {call.face} narrow"] = work * _narrow(call)
    if call.face == "kernel" and any(s > 1 for s in g.stride):
        out["lax kernel strided"] = work
    if strided:
        # XLA writes the zero-stuffed input out before it convolves.
        stuffed = call.batch * math.prod(g.input_size) * call.channels_out * ELEMENT
        out["lax stuffed"] = work * math.prod(g.stride)
        out["bytes"] = 2.0 * stuffed
        out["faulting bytes"] = max(stuffed - RESIDENT, 0.0)
    return out


def _taps(call: Call, choose) -> Amounts:
    g = call.geometry
    boxes = list(taps.boxes(g))
    met = float(sum(math.prod(size) for *_, size in boxes)) * call.batch
    if call.depthwise:
        kind = "depthwise kernel" if call.face == "kernel" else "depthwise"
        strided = "strided " if any(s > 1 for s in g.stride) else ""
        return _amounts(
            {
                strided + kind: met * call.channels_out,
                "bytes": 2 * _input(call),
                "ops": 2 + len(boxes) * (call.face == "kernel"),
            }
        )
    work = met * (call.channels_in // g.groups) * call.channels_out
    # A pointwise pairing is one plain product: nothing is cut out, nothing added up.
    kind = "product" if g.groups == 1 and math.prod(g.kernel_size) == 1 else _product_kind(call)
    out = _amounts({kind: work, f"{kind} narrow": work * _narrow(call), "ops": 4.0 * len(boxes)})
    out["bytes"] = sum(_tap_traffic(call, *corner) for corner in boxes)
    return out


def _tap_traffic(call: Call, t, out_low, in_low, size) -> float:
    """Bytes copied to cut a tap's slices out, and to add its product to the sum; a slice that is the whole is no
    copy."""
    g = call.geometry
    positions = call.batch * math.prod(size) * ELEMENT
    whole_input = tuple(size) == g.input_size and all(s == 1 for s in g.stride)
    whole_output = tuple(size) == g.output_size
    into = 0.0 if whole_input else 2.0 * positions * call.channels_in
    out = 0.0 if whole_output else 2.0 * positions * call.channels_out
    if call.face == "kernel":
        return into + out
    # The product is written, then read, added and written again; the first one starts the sum.
    rest = 0.0 if math.prod(g.kernel_size) == 1 else 3.0 * positions
    if call.face == "apply":
        return into + rest * call.channels_out
    return out + rest * call.channels_in


def _im2col(call: Call, choose) -> Amounts:
    g = call.geometry
    taps_count = math.prod(g.kernel_size)
    if call.face == "adjoint":
        patch = call.batch * math.prod(g.input_size) * taps_count * call.channels_out * ELEMENT
    else:
        patch = call.batch * math.prod(g.output_size) * taps_count * call.channels_in * ELEMENT
    work = multiply_adds(call)
    kind = _product_kind(call)
    out = _amounts({kind: work, f"{kind} narrow": work * _narrow(call) / taps_count, "ops": 2.0 * taps_count})
    out["bytes"] = _input(call) + 2.0 * patch
    out["faulting bytes"] = max(patch - RESIDENT, 0.0)
    return out


def _inside(inner: Call, choose, times: int = 1) -> Amounts:
    found = amounts(choose(inner), inner, choose)
    return _amounts({kind: amount * times for kind, amount in found.items()})


def _phases(call: Call, choose) -> Amounts:
    g, out = call.geometry, _amounts(ops=4)
    for part in phases.parts(g) if call.face != "kernel" else [phases.whole(g)]:
        inner = phases.inner_call(call, part)
        for kind, amount in _inside(inner, choose).items():
            out[kind] += amount
        out["shuffled bytes"] += 2 * _input(inner)
        out["bytes"] += 2 * _kernel(inner)
    return out


def _space_to_batch(call: Call, choose) -> Amounts:
    inner = space_to_batch.inner_call(call)
    out = _inside(inner, choose)
    out["shuffled bytes"] += 2 * (_input(inner) + _output(inner))
    out["ops"] += 4
    return out


def _blocks(call: Call, choose) -> Amounts:
    inner = blocks.dense_call(call)
    count = call.channels_in // inner.channels_in
    out = _inside(inner, choose, count)
    out["bytes"] += 2 * (_input(call) + _output(call)) + 2 * count * _kernel(inner)
    out["ops"] += 3 * count
    return out


AMOUNTS = {
    "lax": _lax,
    "taps": _taps,
    "im2col": _im2col,
    "phases": _phases,
    "space_to_batch": _space_to_batch,
    "blocks": _blocks,
}
