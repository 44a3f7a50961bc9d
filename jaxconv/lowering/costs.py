"""What a call costs by each lowering on a CPU: a linear model of a few amounts that can be counted from the geometry.

``seconds = sum over kinds of RATE[kind] * amount[kind]``. The amounts are multiply-adds by the kind of program that
does them, bytes that copies move,
and operations that are launched; the rates (seconds per unit) were fitted by non-negative least squares on the
recorded measurements in
``benchmarks/results`` by ``benchmarks/fit_costs.py``, each case weighted by 1/time. The model only has to rank the
lowerings of
one call: how often it picks the fastest, and what the other picks cost, is printed by the same script.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

from jaxconv.geometry import ConvGeometry
from jaxconv.lowering import blocks, residues, taps
from jaxconv.lowering.call import Call

ELEMENT = 4  # bytes; half precision is widened on CPUs, and double scales every amount alike
# A product with fewer than this many channels on a side leaves vector lanes idle.
LANES = 16
# What the compiled kernels round channels up to, and below how many they take the taps of the last axis together.
NATIVE_VECTOR = 8
NATIVE_THIN = 32
# Buffers beyond this many bytes are mapped afresh by the allocator at each call, and every page of them faults.
RESIDENT = 16e6

RATES: dict[str, float] = {
    "3-D dilated window": 3.02e-10,
    "3-D window": 1.78e-10,
    "bytes": 3.57e-11,
    "depthwise": 5.32e-11,
    "depthwise kernel": 6.44e-10,
    "depthwise native kernel": 4.04e-09,
    "depthwise native window": 6.22e-09,
    "faulting bytes": 1.38e-09,
    "grouped native kernel": 3.09e-09,
    "grouped native narrow": 9.67e-11,
    "grouped native window": 2.32e-16,
    "grouped pairing": 9.96e-11,
    "grouped pairing narrow": 5.98e-11,
    "grouped product": 6.9e-11,
    "grouped product narrow": 2.23e-11,
    "grouped stuffed": 3.98e-11,
    "native call": 4.25e-05,
    "native depthwise": 7.92e-11,
    "native depthwise kernel": 8.63e-11,
    "native packed": 1.7e-09,
    "native pairing": 2.28e-11,
    "native pairing packed": 1.28e-10,
    "native pairing steps": 3.38e-09,
    "native pointers": 1.65e-09,
    "native product": 2.17e-11,
    "native spread": 4.85e-10,
    "native steps": 1.14e-09,
    "ops": 4.75e-06,
    "pairing": 3.66e-11,
    "pairing narrow": 3.22e-11,
    "product": 2.26e-11,
    "product narrow": 5.37e-12,
    "shuffled bytes": 8.36e-11,
    "strided depthwise": 7.25e-11,
    "strided depthwise kernel": 8.05e-10,
    "window adjoint": 2.39e-11,
    "window adjoint narrow": 5.14e-12,
    "window apply": 2.71e-11,
    "window apply narrow": 4.66e-12,
    "window kernel": 4.93e-11,
    "window kernel narrow": 7.3e-12,
    "window kernel strided": 2.86e-11,
    "window stuffed": 1.39e-12,
}

# The compiled kernels do what the geometry says, so their estimate is sure; one for operations of XLA is not (what it
# fuses, copies and maps is its own affair), and must promise this much less to be believed. On the record the geometric
# mean of chosen over fastest is 1.033 at 0.3 and 1.038 from 0.2 down to 0; the record has no call below a million
# multiply-adds, and there `jaxconv bench --scaling` found the operations of XLA chosen where they took up to four times
# as long as the kernels.
CAUTION = {"native": 0.05}

Amounts = defaultdict[str, float]


def _amounts(found: dict[str, float] | None = None, **more: float) -> Amounts:
    return defaultdict(float, {**(found or {}), **more})


def amounts(method: str, call: Call, choose: Callable[[Call], str]) -> Amounts:
    """Amounts of each kind of work that `method` spends on `call`; `choose` decides what is inside a composite one."""
    return {
        "window": _window,
        "taps": _taps,
        "patches": _patches,
        "phases": _phases,
        "space_to_batch": _space_to_batch,
        "blocks": _blocks,
        "native": _native,
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


def _window(call: Call, choose) -> Amounts:
    g, work = call.geometry, multiply_adds(call)
    out = _amounts(ops=1)
    strided = call.face == "adjoint" and any(s > 1 for s in g.stride)
    if g.groups > 1:
        width = "depthwise" if call.depthwise else "grouped"
        out[f"{width} native {'kernel' if call.face == 'kernel' else 'window'}"] = work
        if width == "grouped":
            out["grouped native narrow"] = work * _narrow(call)
        if strided:
            out["grouped stuffed"] = work * math.prod(g.stride)
        return out
    if g.rank >= 3:
        dilated = strided or any(d > 1 for d in g.dilation)
        out["3-D dilated window" if dilated else "3-D window"] = work * (math.prod(g.stride) if strided else 1)
        return out
    out[f"window {call.face}"] = work
    out[f"window {call.face} narrow"] = work * _narrow(call)
    if call.face == "kernel" and any(s > 1 for s in g.stride):
        out["window kernel strided"] = work
    if strided:
        # XLA writes the zero-stuffed input out before it convolves.
        stuffed = call.batch * math.prod(g.input_size) * call.channels_out * ELEMENT
        out["window stuffed"] = work * math.prod(g.stride)
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


def _patches(call: Call, choose) -> Amounts:
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
    inner = residues.phase_call(call)
    out = _inside(inner, choose)
    out["shuffled bytes"] += 2 * _input(inner)
    out["bytes"] += 2 * _kernel(inner)
    out["ops"] += 4
    return out


def _space_to_batch(call: Call, choose) -> Amounts:
    inner = residues.batch_call(call)
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


def _native(call: Call, choose) -> Amounts:
    g, vector = call.geometry, NATIVE_VECTOR
    met = float(sum(math.prod(size) for *_, size in taps.boxes(g))) * call.batch
    out = _amounts({"native call": 1.0})
    i, o = call.channels_in // g.groups, call.channels_out // g.groups
    uses, (xs, ys) = math.prod(g.output_size) * math.prod(g.kernel_size), map(math.prod, (g.input_size, g.output_size))
    if call.face == "kernel" and _native_narrow_pairing(g, i, o, uses // max(1, min(xs, ys))):
        out["native depthwise kernel"] = met * min(i * max(g.groups * o, vector), o * max(g.groups * i, vector))
        out["native spread"] = 0.0 if i * o == 1 else _input(call) * o / ELEMENT
        return out
    contracted, resulting = (o, i) if call.face == "adjoint" else (i, o)
    operand = ys if call.face == "adjoint" else xs
    if _native_narrow(g, contracted, resulting, uses // max(1, operand)):
        lanes = max(g.groups * resulting, vector)
        out["native depthwise"] = met * contracted * lanes
        out["native spread"] = (
            float(call.batch * operand * contracted * lanes) if i * o > 1 or g.groups < vector else 0.0
        )
        return out
    together = i < NATIVE_THIN and g.kernel_size[-1] > 1  # the last axis's taps as one run of memory
    if call.face == "kernel":
        span = g.kernel_size[-1] if together else 1
        busy = min(_up(span * i, vector) * o, _up(o, vector) * span * i) / span
        out["native pairing"] = met * busy * g.groups
        out["native pairing packed"] = met * (i + o / span) * g.groups
        out["native pairing steps"] = met / span * g.groups
        return out
    if call.face == "adjoint":
        i, o = o, i
    together = i < NATIVE_THIN and g.kernel_size[-1] > 1 and g.groups == 1 and g.dilation[-1] == 1
    padded = o * _up(i, vector) if o <= 4 and i >= vector else i * _up(o, vector)
    out["native product"] = met * padded * g.groups
    out["native packed"] = _kernel(call) / ELEMENT
    runs = met / (g.kernel_size[-1] if together else 1)
    out["native pointers"] = runs
    out["native steps"] = runs * g.groups * -(-o // (2 * vector))
    return out


def _native_narrow(g: ConvGeometry, contracted: int, resulting: int, uses: int) -> bool:
    """As `narrow` in native/source/planes.h: channels of few are taken lane by lane."""
    if g.groups == 1 or resulting >= NATIVE_VECTOR:
        return False
    few = resulting == 1 and contracted <= 2 * NATIVE_VECTOR and uses >= 4
    return few or contracted * resulting <= 2 + 2 * uses


def _native_narrow_pairing(g: ConvGeometry, i: int, o: int, uses: int) -> bool:
    """As `narrow_pairing` in native/source/planes.h."""
    if g.groups == 1 or min(i, o) >= NATIVE_VECTOR:
        return False
    return o == 1 or (i * o <= 8 + 3 * uses and (o == 2 or max(i, o) <= 2 * NATIVE_VECTOR))


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
