"""Which lowering serves on accelerators: rules read off per-face measurements on one H200 (jax 0.11.2, bfloat16 and
TF32).

XLA's GPU backend hands the native form of each face to cuDNN when it recognises it, so `lax` is the default. It has
no fast path for three
kinds of call, which is where the other lowerings come in (times in ms of native form and alternative on that machine):

- the kernel face with a dilation: 4.8 against 0.31 at 128x128x256, rate 2 (space-to-batch);
- the adjoint with kernel and stride large and few taps a phase: 11.7 against 0.16 for k = 64, s = 32 (phases), and
into 3 channels 0.40 against 0.15;
- depthwise calls that are dilated or strided: 1.8 against 0.17 at rate 4 (space-to-batch), 1.6 against 0.16 for the
forward convolution of a
  bilinear upsampler and 1.5 against 0.34 for its kernel face (taps), 4.4 against 0.43 for its adjoint (phases with
  taps inside).

TPUs were not measured: they always take the native form.
"""

from __future__ import annotations

import math

from jaxconv.lowering.call import Call

# Phases beat the native adjoint where the kernel is this large, or the result this thin.
LARGE_STRIDE = 8
FEW_CHANNELS = 4


def choose(call: Call, served: list[str]) -> str:
    """The first rule that applies to a call on a GPU; "lax" where none does."""
    g = call.geometry
    if call.platform not in ("cuda", "rocm"):
        return "lax"
    depthwise = g.groups > 1 and call.channels_in == g.groups
    dilated = any(d > 1 and k > 1 for d, k in zip(g.dilation, g.kernel_size, strict=True))
    strided = any(s > 1 for s in g.stride)
    if dilated and "space_to_batch" in served and (depthwise or call.face == "kernel"):
        return "space_to_batch"
    if depthwise and strided and math.prod(g.kernel_size) <= 32 and "taps" in served:
        return "taps"
    if strided and call.face == "adjoint" and "phases" in served:
        thin = call.channels_in // g.groups <= FEW_CHANNELS and not depthwise
        if max(g.stride) >= LARGE_STRIDE or thin or (g.rank >= 3 and g.kernel_size == g.stride):
            return "phases"
    if g.rank >= 3 and call.face == "kernel" and g.kernel_size == g.stride and "im2col" in served:
        return "im2col"
    return "lax"
