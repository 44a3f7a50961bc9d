"""Whole networks: one training step (forward, backward, SGD) of the same network by different convolutions.

The networks are plain functions of a list of kernels, so that nothing but the convolutions differs: jaxconv's
operations, lax as flax calls it, the
lax version through `jaxconv.accelerate`, and PyTorch modules of the same shape.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv._accelerate import accelerate
from jaxconv.benchmark.contenders import Absent, Prepared
from jaxconv.ops import conv, conv_transpose

RATE = 1e-3
STACK_RATES = (1, 2, 5, 1, 2, 5, 4, 8, 16)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network to train for one step: its kind, input and widths."""

    name: str
    kind: str  # "unet" or "stack"
    batch: int
    size: tuple[int, int]
    widths: tuple[int, ...]


ON_CPU = (
    Network("U-Net 16..256", "unet", 2, (96, 96), (16, 32, 64, 128, 256)),
    Network("dilated residual stack, 64 channels", "stack", 2, (48, 48), (64,)),
)
ON_GPU = (
    Network("U-Net 64..1024", "unet", 16, (256, 256), (64, 128, 256, 512, 1024)),
    Network("dilated residual stack, 256 channels", "stack", 16, (128, 128), (256,)),
)


def kernel_shapes(net: Network) -> list[tuple[int, ...]]:
    """Kernels in the order in which the network uses them; transposed ones in jaxconv's layout (forward
    convolution)."""
    if net.kind == "stack":
        c = net.widths[0]
        return [(3, 3, c, c)] * len(STACK_RATES)
    shapes, last = [], 3
    for c in net.widths:
        shapes += [(3, 3, last, c), (3, 3, c, c)]
        last = c
    for c in reversed(net.widths[:-1]):
        shapes += [(2, 2, c, last), (3, 3, 2 * c, c), (3, 3, c, c)]
        last = c
    return [*shapes, (1, 1, last, 8)]


def forward(net: Network, kernels: Sequence[Any], x: Any, convolve: Callable, transpose: Callable) -> Any:
    """The network; `convolve(x, w, dilation)` keeps the size, `transpose(y, w)` doubles it."""
    if net.kind == "stack":
        for w, rate in zip(kernels, STACK_RATES, strict=True):
            x = x + jax.nn.relu(convolve(x, w, rate))
        return x
    rest = iter(kernels)
    skips = []
    for level in range(len(net.widths)):
        if level:
            n, h, w, c = x.shape
            x = x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
        for _ in range(2):
            x = jax.nn.relu(convolve(x, next(rest), 1))
        skips.append(x)
    skips.pop()
    while skips:
        x = jnp.concatenate([skips.pop(), transpose(x, next(rest))], -1)
        for _ in range(2):
            x = jax.nn.relu(convolve(x, next(rest), 1))
    return convolve(x, next(rest), 1)


def _ours(x, w, rate):
    return conv(x, w, padding="SAME", dilation=rate)


def _ours_transposed(y, w):
    return conv_transpose(y, w, stride=2)


def _lax(x, w, rate):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", rhs_dilation=(rate, rate), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _lax_transposed(y, w):
    # As flax does it: the kernel is stored flipped and with its channels swapped, and the convolution is zero-stuffed.
    return lax.conv_transpose(y, w, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def inputs(net: Network, dtype: str, flipped: bool) -> tuple[list[Any], Any, Any]:
    """Random kernels, images and targets; `flipped` stores transposed kernels as flax does."""
    rng = np.random.default_rng(0)
    kernels = []
    for shape in kernel_shapes(net):
        w = rng.standard_normal(shape).astype(np.float32) / np.sqrt(np.prod(shape[:-1]))
        if flipped and shape[:2] == (2, 2):
            w = np.swapaxes(w[::-1, ::-1], -1, -2)
        kernels.append(jnp.asarray(w, dtype))
    channels = net.widths[0] if net.kind == "stack" else 3
    x = jnp.asarray(rng.standard_normal((net.batch, *net.size, channels)), dtype)
    out = net.widths[0] if net.kind == "stack" else 8
    target = jnp.asarray(rng.standard_normal((net.batch, *net.size, out)), dtype)
    return kernels, x, target


def _step(net: Network, convolve: Callable, transpose: Callable) -> Callable:
    def loss(kernels, x, target):
        return jnp.mean((forward(net, kernels, x, convolve, transpose) - target).astype(jnp.float32) ** 2)

    def step(kernels, x, target):
        value, gradient = jax.value_and_grad(loss)(kernels, x, target)
        return value, [w - (RATE * g).astype(w.dtype) for w, g in zip(kernels, gradient, strict=True)]

    return step


def _prepare(step: Callable, args: tuple) -> tuple[Prepared, float]:
    start = time.perf_counter()
    program = jax.jit(step).lower(*args).compile()
    value, _ = jax.block_until_ready(program(*args))
    first = time.perf_counter() - start
    memory = program.memory_analysis()
    return (
        Prepared(lambda: jax.block_until_ready(program(*args)), first, memory and int(memory.temp_size_in_bytes)),
        float(value),
    )


def prepare(net: Network, contender: str, dtype: str) -> tuple[Prepared, float]:
    """A ready training step and the loss of its first evaluation, which must be the same for every contender.

    Raises:
        Absent: PyTorch is not installed.
    """
    if contender == "torch":
        return _torch(net, dtype)
    args = inputs(net, dtype, flipped=contender != "jaxconv")
    if contender == "jaxconv":
        return _prepare(_step(net, _ours, _ours_transposed), args)
    step = _step(net, _lax, _lax_transposed)
    return _prepare(accelerate(step) if contender == "accelerate" else step, args)


NETWORK_CONTENDERS = ("jaxconv", "accelerate", "lax", "torch")


def _torch(net: Network, dtype: str) -> tuple[Prepared, float]:
    if importlib.util.find_spec("torch") is None:
        raise Absent("torch is not installed")
    import torch
    import torch.nn.functional as F

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = getattr(torch, dtype)
    kernels, x, target = inputs(net, "float32", flipped=False)
    ws = [
        torch.tensor(np.transpose(np.asarray(w), (3, 2, 0, 1)), device=device, dtype=kind)
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
        for w in kernels
    ]
    images, wanted = (
        torch.tensor(np.moveaxis(np.asarray(a), -1, 1), device=device, dtype=kind).contiguous(
            memory_format=torch.channels_last
        )
        for a in (x, target)
    )

    def convolve(x, w, rate=1):
        return F.conv2d(x, w, padding=rate * (w.shape[-1] // 2), dilation=rate)

    def network(x):
        if net.kind == "stack":
            for w, rate in zip(ws, STACK_RATES, strict=True):
                x = x + F.relu(convolve(x, w, rate))
            return x
        rest, skips = iter(ws), []
        for level in range(len(net.widths)):
            if level:
                x = F.max_pool2d(x, 2)
            for _ in range(2):
                x = F.relu(convolve(x, next(rest)))
            skips.append(x)
        skips.pop()
        while skips:
            x = torch.cat([skips.pop(), F.conv_transpose2d(x, next(rest), stride=2)], 1)
            for _ in range(2):
                x = F.relu(convolve(x, next(rest)))
        return convolve(x, next(rest))

    def step():
        loss = ((network(images) - wanted).float() ** 2).mean()
        gradient = torch.autograd.grad(loss, ws)
        with torch.no_grad():
            updated = [w - RATE * g for w, g in zip(ws, gradient, strict=True)]
        if device == "cuda":
            torch.cuda.synchronize()
        return loss, updated

    value, _ = step()
    return Prepared(step), float(value.detach())
