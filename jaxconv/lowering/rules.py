"""Which lowering serves on accelerators: rules that are pure functions of the call, with what they were read off.

GPUs. XLA's backend hands `lax`'s form of each face to cuDNN where it recognises it, so that is the default. Times of
`lax`'s form and the alternative in ms on one H200 (jax 0.11.2, bfloat16; TF32 shows the same picture):

- the kernel face with a dilation, which XLA gives to cuDNN as a forward convolution with a window of the image's size:
  4.8 against 0.31 at 128x128x256, rate 2 (space-to-batch; taps where an axis has both a stride and a dilation, and
  where most taps see nothing but padding: at 32x32x2048 to 256, rate 24, XLA for an H100 executes 87 GFLOP for
  space-to-batch, 39 for `lax`'s form and 10 for taps, none of them timed);
  depthwise calls with a dilation 1.8 against 0.17 at rate 4;
- the adjoint with large kernel and stride and few taps a phase: 11.7 against 0.16 for k = 64, s = 32 (phases), and
  into 3 channels 0.40 against 0.15;
- depthwise calls with a stride: 1.6 against 0.16 for the forward convolution of a bilinear upsampler and 1.5 against
  0.34 for its kernel face (taps), 4.4 against 0.43 for its adjoint (taps within phases);
- three axes with kernel = stride: 1.4 against 0.59 for the adjoint (phases, whose product fold makes without the
  shuffle of the last axis; apply, 1.2, is its mirror image), 1.2 against 0.51 for the kernel face (im2col).

TPUs. `lax`'s form has a path for strides, dilations and groups, and nearly always the fewest cycles. The exceptions,
in thousand cycles as the compiler of libtpu estimates them for v5e in bfloat16, `lax`'s form against the alternative:

- kernel = stride along the last axis, which is then a change of view (fold): 8x64x64x128 to 8x128x128x64, k = s = 2:
  adjoint 343 against 250, apply 239 against 231, kernel 150 against 144; not the adjoint into channels that fill the
  lanes already, 16x32x32x256 to 16x64x64x128: 250 against 308 (at s = 4 again: 591 against 403), and of one axis only
  the thin ones: 4096 to 8192 positions of 32 channels 162 against 216, to 32768 of one channel 446 against 129;
- and along three axes, 1x32x32x32x128 to 1x64x64x64x64: kernel 462 against 49 (fold), apply 813 against 111 and adjoint
  2,122 against 535 (fold, as one product); not the adjoint into more channels, batch 8 of 8x16x16 to 16x32x32: into 64
  457 against 271, into 96 459 against 539, into 128 516 against 541, and with k = s = 4 513 against 542;
- nor volumes whose batch is a multiple of eight and whose channels, 8 to 63, leave lanes free: between layers XLA then
  lays the batch beside the channels, where folding is no view but a copy, which a layer alone does not show. Training
  steps of two-level U-Nets of 32 and 64 channels: with batch 2 of 8x32x32 4,332 against 3,896, with batch 4 8,215
  against 7,572, but with batch 8 5,937 against 6,371 and with batch 16 of 8x16x16 2,802 against 3,022; of 64 and 128
  channels 1,714 against 1,821 (not taken: the layer alone has 457 against 271);
- the adjoint with large kernel and stride: k = 64, s = 32 with 21 channels at 8x16x16: 140,284 against 10,551 (phases).

One thing depends on the chip, and stands in `lax`'s form itself. A v6e multiplies by 256x256 at once and wants a
kernel's 128 input channels innermost, where the adjoint contracts 256 output channels and more (as a transposed layer's
kernel is stored in lax); left to itself the compiler keeps the kernel's own order. As it comes against held in that
order, k4 s2: 16x32x32 of 128 channels from 256 154 against 95, from 384 220 against 163, from 1,024 552 against 317,
batch 64 215 against 173; 112 channels 137 against 95, 80 104 against 94; stride 1, 3x3, 64x32x32 234 against 192;
8x1024, k16 s8, 78 against 55; the DCGAN generator's inference 699 against 653; the most that is lost is 2%, 128x16x16
76 against 77. Not from 192 or 320 channels, 88 against 93 and 155 against 161, nor into 64 or 192, 342 against 351 and
678 against 698. On a v5e it is the copy of the kernel that is lost, 250 against 254.

Not taken for the kernel face: a window of y with x as the kernel and the taps reversed, which is what `lax`'s gradient
of a transposed layer is. The compiler exchanges the two again and reverses all of x first, by an instruction without an
estimate, which brings x into fast memory for the copies that follow. The convolution is then ours, to the cycle. Where
x is an argument that looks like a gain (64x32x32x64 to 64x64x64x3, k4 s2: 57 against 32); behind an elementwise
operation it is none (330 against 332; k64 s32 with 21 channels 2,028 against 2,356, v6e 1,410 against 1,668), and in a
training step a loss: FSRCNN 2,098 against 2,504, the DCGAN generator 3,787 against 3,933.

Sums over taps are never chosen for dense calls there: nine unrolled products take a minute and more to compile.

CPUs. Fourier transforms where the kernel is so large that they are faster than the compiled kernels by twice and more.
CPU-milliseconds of the forward face, compiled kernels against transforms (AVX2, float32, batch 1; jax 0.10.2):

- few channels: 200x200 taps on 200x200, 300 against 3; 31x31 on 256x256, 3 to 3 channels, 45 against 6; 15x15 there,
  12 against 7 (not taken); 1,025 taps on 16,384, 4 against 0.6; 11x11x11 on 32x32x32, 2 channels, 29 against 6;
- depthwise: 1,024 taps on 16,384 of 16 channels, 17 against 3.4; 31x31 on 56x56 of 64 channels, 16 against 13 (not
  taken);
- more channels: 21x21 on 128x128, 16 to 16 channels, 54 against 80, FCN-32s's 64x64, 31 against 58 (neither taken).

8-bit integers on CPUs. XLA has fast products of them (AVX512-VNNI), which convolutions of many channels reach by
`lax`'s form, im2col, taps or phases. Elsewhere it runs loops. Milliseconds of one core, what was chosen before against
float32 in the compiled kernels (`integers`):

- transposed, with up to 16 channels on a side: DCGAN's last layer 3.5 against 0.6, ENet's upsampling 2.5 against 0.3
  and its head 16 against 2.2, FSRCNN's last layer 4.9 against 1.3; in four groups of 32 channels 41 against 1.5; not
  FCN-8s of 21 channels, 0.9 against 2.6;
- convolutions of volumes of 32 channels: 27 against 3.7 (im2col 5.4); from 16 channels 6.7 against 0.58; not from 64
  channels to 11, 0.5 against 1.0, nor in groups, 0.8 against 1.1;
- along one axis im2col, where `lax`'s form is a loop: 0.45 against 8.6 for WaveNet's layer.
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxconv.lowering import costs, fft, taps
from jaxconv.lowering.call import Call

# Phases beat the native adjoint where the stride is this large (on TPUs: this larger one), or the result this thin.
LARGE_STRIDE = 8
TPU_LARGE_STRIDE = 32
# Batches of this many fill the second axis of a TPU's tiles.
TILE = 8
FEW_CHANNELS = 4
# More taps than this are not summed in one fused loop.
FEW_TAPS = 32
# Products tap by tap serve where they are this many times less work than space-to-batch, whose padding they leave out.
MOSTLY_PADDING = 4

# As many channels do not fill XLA's products of 8-bit integers.
THIN = 16
# Multiply-adds that the compiled kernels have to save for each unit of a transform's work, by how well they run: with
# few channels a group, and with as many as fill their vectors.
TRANSFORM = 12
TRANSFORM_WIDE = 80


def cpu(call: Call, served: list[str]) -> str | None:
    """Transforms for very large kernels, where the program runs on one device (XLA gathers what it transforms)."""
    g = call.geometry
    if "fft" not in served or not call.runs_here or math.prod(g.kernel_size) <= FEW_TAPS:
        return None
    i, o = call.channels_in // g.groups, call.channels_out // g.groups
    circle = math.prod(c.length * c.blocks for c in fft.circles(g))
    units = (call.batch * (call.channels_in + call.channels_out) + i * call.channels_out) * circle * math.log2(circle)
    return "fft" if costs.multiply_adds(call) > (TRANSFORM if min(i, o) <= 4 else TRANSFORM_WIDE) * units else None


def integers(call: Call, served: list[str]) -> str | None:
    """8-bit integers as float32 where XLA has no fast product of them: thin layers, volumes, transposed groups."""
    g = call.geometry
    if not jnp.issubdtype(call.dtype, jnp.integer) or jnp.iinfo(call.dtype).bits != 8 or call.depthwise:
        return None
    i, o = call.channels_in // g.groups, call.channels_out // g.groups
    loops = g.rank == 3 or (i <= THIN and g.groups == 1) if call.face == "apply" else g.groups > 1 or min(i, o) <= THIN
    if "integers" in served and loops:
        return "integers"
    return "im2col" if g.rank == 1 and call.face == "apply" and "im2col" in served else None


def gpu(call: Call, served: list[str]) -> str | None:
    """The first rule that applies to a call on a GPU."""
    g = call.geometry
    strided = any(s > 1 for s in g.stride)
    dilated = any(d > 1 and k > 1 for d, k in zip(g.dilation, g.kernel_size, strict=True))
    volume_of_blocks = g.rank >= 3 and strided and g.kernel_size == g.stride
    if dilated and (call.depthwise or call.face == "kernel"):
        if "taps" in served and call.face == "kernel" and g.groups == 1 and _sees_mostly_padding(call):
            return "taps"
        if "space_to_batch" in served:
            return "space_to_batch"
        if "taps" in served and call.face == "kernel":
            return "taps"
    if "taps" in served and call.depthwise and strided and math.prod(g.kernel_size) <= FEW_TAPS:
        return "taps"
    if "fold" in served and call.face != "kernel" and volume_of_blocks:
        return "fold"
    if "phases" in served and call.face == "adjoint" and strided:
        thin = call.channels_in // g.groups <= FEW_CHANNELS and not call.depthwise
        if max(g.stride) >= LARGE_STRIDE or thin or volume_of_blocks:
            return "phases"
    if "im2col" in served and call.face == "kernel" and volume_of_blocks:
        return "im2col"
    return None


def _sees_mostly_padding(call: Call) -> bool:
    """Whether the products of pixels that a dilated kernel gradient needs are few beside those of space-to-batch."""
    g = call.geometry
    needed = sum(math.prod(size) for *_, size in taps.boxes(g))
    split = math.prod(-(-m // d) * d for m, d in zip(g.output_size, g.dilation, strict=True)) * math.prod(g.kernel_size)
    return math.prod(g.kernel_size) <= FEW_TAPS and MOSTLY_PADDING * needed <= split


def tpu(call: Call, served: list[str]) -> str | None:
    """The first rule that applies to a call on a TPU."""
    g = call.geometry
    if "fold" in served and _folds(call):
        return "fold"
    if "phases" in served and call.face == "adjoint" and max(g.stride) >= TPU_LARGE_STRIDE:
        return "phases"
    return None


def _folds(call: Call) -> bool:
    """Whether folding the last axis saves cycles: `apply` most often, the others by what fills the lanes."""
    rank, channels = call.geometry.rank, call.channels_in
    if rank >= 3 and 8 <= channels < 64 and call.batch % TILE == 0:
        return False
    if call.face == "apply":
        return True
    if call.face == "adjoint":
        return channels <= (8 if rank == 1 else 64) or (rank == 2 and call.geometry.stride[-1] > 2)
    return rank >= 2 or channels <= 4 or channels >= 128
