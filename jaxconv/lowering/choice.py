"""Which lowering serves a call: a pure function of face, geometry, channels, dtype and platform."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxconv.geometry import ConvGeometry
from jaxconv.lowering import blocks, costs, patches, residues, rules, taps, window
from jaxconv.lowering.call import Call
from jaxconv.lowering.cpu import faces as native


class Lowering(NamedTuple):
    """One way to compute the faces: which calls it serves, and how."""

    serves: Callable[[str, ConvGeometry, int, int], bool]
    apply: Callable
    adjoint: Callable
    kernel: Callable


def _inner(function: Callable) -> Callable:
    """A lowering that leaves a simpler call behind, which goes through the choice again."""

    def lowered(a: Array, b: Array, call: Call) -> Array:
        return function(a, b, call, lambda inner, p, q: run("auto", inner, p, q))

    return lowered


METHODS = {
    "window": Lowering(lambda *_: True, window.apply, window.adjoint, window.kernel),
    "taps": Lowering(taps.serves, taps.apply, taps.adjoint, taps.kernel),
    "patches": Lowering(patches.serves, patches.apply, patches.adjoint, patches.kernel),
    "phases": Lowering(
        residues.serves_phases,
        _inner(residues.phases_apply),
        _inner(residues.phases_adjoint),
        _inner(residues.phases_kernel),
    ),
    "space_to_batch": Lowering(
        residues.serves_space_to_batch,
        _inner(residues.batch_apply),
        _inner(residues.batch_adjoint),
        _inner(residues.batch_kernel),
    ),
    "native": Lowering(native.serves, native.apply, native.adjoint, native.kernel),
    "blocks": Lowering(blocks.serves, _inner(blocks.apply), _inner(blocks.adjoint), _inner(blocks.kernel)),
}


def _takes(method: str, call: Call) -> bool:
    """Whether the named lowering can serve this very call."""
    if not serves(method, call.face, call.geometry, call.channels_in, call.channels_out):
        return False
    return method != "native" or native.serves_call(call)


def serves(method: str, face: str, geometry: ConvGeometry, channels_in: int, channels_out: int) -> bool:
    """Whether the named lowering can compute this face of this geometry at all."""
    return METHODS[method].serves(face, geometry, channels_in, channels_out)


@functools.lru_cache(maxsize=65536)
def choose(call: Call) -> str:
    """Name of the lowering that serves `call` best, from the call alone: no timing, no state.

    On CPUs the cheapest by the fitted cost model ([`costs`][jaxconv.lowering.costs]); elsewhere by rules read off
    recorded measurements ([`rules`][jaxconv.lowering.rules]).

    Example:
        >>> import numpy as np
        >>> g = ConvGeometry.resolve(input_size=(56, 56), kernel_size=(3, 3), padding=1, groups=128)
        >>> choose(Call("apply", g, 2, 128, 128, np.dtype("float32"), np.dtype("float32"), None, "cpu"))
        'taps'
    """
    served = [m for m in METHODS if _takes(m, call)]
    if call.platform in ("cpu", None):
        return min(served, key=lambda method: costs.seconds(method, call, choose) * costs.CAUTION.get(method, 1.0))
    return rules.choose(call, served)


def run(method: str, call: Call, a: Array, b: Array) -> Array:
    """Evaluate one face with the named lowering; "auto" asks [`choose`][jaxconv.lowering.choose].

    A derivative carries its function's `method` along; where that cannot serve the other face, the choice does.
    """
    if call.platform in ("cpu", None) and jnp.issubdtype(call.dtype, jnp.floating) and jnp.finfo(call.dtype).bits < 32:
        # CPUs have no half-precision products worth their conversions (and XLA lacks some of them): widen once, here.
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        call = dataclasses.replace(call, dtype=jnp.dtype(jnp.float32))
    name = method if method != "auto" and _takes(method, call) else choose(call)
    return getattr(METHODS[name], call.face)(a, b, call)
