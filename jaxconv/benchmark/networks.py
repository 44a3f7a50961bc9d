"""Whole networks: one training step (forward, backward, SGD) and one inference by different convolutions.

Each network is written once, as a function of kernels and a backend, so that nothing but the convolutions differs:
jaxconv's operations, lax as flax calls it, the lax version through `jaxconv.accelerate`, and PyTorch.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv._accelerate import accelerate
from jaxconv.benchmark.contenders import SPATIAL, Absent, Prepared
from jaxconv.ops import conv, conv_transpose

RATE = 1e-3
STACK_RATES = (1, 2, 5, 1, 2, 5, 4, 8, 16)
WAVENET_RATES = tuple(2**i for i in range(8))
CLASSES = 8


@dataclasses.dataclass(frozen=True)
class Network:
    """A network to train for one step: what it is, its input and its widths."""

    name: str
    kind: str
    batch: int
    size: tuple[int, ...]
    widths: tuple[int, ...]
    channels: int = 3

    @property
    def rank(self) -> int:
        """Spatial axes."""
        return len(self.size)


ON_CPU = (
    Network("U-Net 16..256", "unet", 2, (96, 96), (16, 32, 64, 128, 256)),
    Network("dilated residual stack, 64 channels", "stack", 2, (48, 48), (64,), 64),
    Network("U-Net 3-D 8..32", "unet", 1, (16, 32, 32), (8, 16, 32), 1),
    Network("DCGAN generator 256..32", "dcgan", 8, (4, 4), (256, 128, 64, 32), 100),
    Network("HiFi-GAN-like generator", "hifigan", 1, (32,), (128, 64, 32, 16), 80),
    Network("WaveNet-like stack, 32 channels", "wavenet", 1, (4000,), (32,), 32),
)
ON_GPU = (
    Network("U-Net 64..1024", "unet", 16, (256, 256), (64, 128, 256, 512, 1024)),
    Network("dilated residual stack, 256 channels", "stack", 16, (128, 128), (256,), 256),
    Network("U-Net 3-D 32..128", "unet", 2, (64, 64, 64), (32, 64, 128), 1),
    Network("DCGAN generator 1024..128", "dcgan", 128, (4, 4), (1024, 512, 256, 128), 100),
    Network("HiFi-GAN-like generator", "hifigan", 16, (32,), (512, 256, 128, 64), 80),
    Network("WaveNet-like stack, 128 channels", "wavenet", 8, (16000,), (128,), 128),
)


class Backend(Protocol):
    """What a network is written in."""

    def conv(self, x: Any, w: Any, rate: int = 1, causal: bool = False) -> Any:
        """A convolution that keeps the size."""

    def up(self, x: Any, w: Any, stride: int, pad: int) -> Any:
        """A transposed convolution."""

    def relu(self, x: Any) -> Any:
        """max(x, 0)."""

    def halve(self, x: Any) -> Any:
        """2-fold max pooling."""

    def join(self, a: Any, b: Any) -> Any:
        """Channels of both."""


# A kernel: ("conv" or "up", shape in jaxconv's layout (*k, in, out) of the forward convolution).
Kernel = tuple[str, tuple[int, ...]]


def kernels(net: Network) -> list[Kernel]:
    """Kernels in the order in which the network uses them."""
    return list(
        {"unet": _unet_kernels, "dcgan": _dcgan_kernels, "hifigan": _hifigan_kernels}.get(net.kind, _stack)(net)
    )


def _stack(net: Network) -> Iterator[Kernel]:
    c, wavenet = net.widths[0], net.kind == "wavenet"
    size = (2,) if wavenet else (3,) * net.rank
    for _ in WAVENET_RATES if wavenet else STACK_RATES:
        yield "conv", (*size, c, c)


def _unet_kernels(net: Network) -> Iterator[Kernel]:
    r, last = net.rank, net.channels
    for c in net.widths:
        yield "conv", (*(3,) * r, last, c)
        yield "conv", (*(3,) * r, c, c)
        last = c
    for c in reversed(net.widths[:-1]):
        yield "up", (*(2,) * r, c, last)
        yield "conv", (*(3,) * r, 2 * c, c)
        yield "conv", (*(3,) * r, c, c)
        last = c
    yield "conv", (*(1,) * r, last, CLASSES)


def _dcgan_kernels(net: Network) -> Iterator[Kernel]:
    yield "conv", (3, 3, net.channels, net.widths[0])
    for before, after in zip(net.widths, (*net.widths[1:], 3), strict=True):
        yield "up", (4, 4, after, before)


def _hifigan_kernels(net: Network) -> Iterator[Kernel]:
    yield "conv", (7, net.channels, net.widths[0])
    for (before, after), k in zip(zip(net.widths, net.widths[1:], strict=False), (16, 16, 4), strict=True):
        yield "up", (k, after, before)
        for _ in (1, 3, 5):
            yield "conv", (3, after, after)
    yield "conv", (7, net.widths[-1], 1)


def forward(net: Network, ws: Any, x: Any, b: Backend) -> Any:
    """The network's output."""
    rest = iter(ws)
    if net.kind in ("stack", "wavenet"):
        causal = net.kind == "wavenet"
        for w, rate in zip(rest, WAVENET_RATES if causal else STACK_RATES, strict=True):
            x = x + b.relu(b.conv(x, w, rate, causal))
        return x
    if net.kind == "dcgan":
        x = b.relu(b.conv(x, next(rest)))
        for level, w in enumerate(rest):
            x = b.up(x, w, 2, 1)
            x = x if level == len(net.widths) - 1 else b.relu(x)
        return x
    if net.kind == "hifigan":
        x = b.conv(x, next(rest))
        for stride, pad in ((8, 4), (8, 4), (2, 1)):
            x = b.up(b.relu(x), next(rest), stride, pad)
            for rate in (1, 3, 5):
                x = x + b.conv(b.relu(x), next(rest), rate)
        return b.conv(b.relu(x), next(rest))
    skips: list[Any] = []
    for level in range(len(net.widths)):
        x = b.halve(x) if level else x
        for _ in range(2):
            x = b.relu(b.conv(x, next(rest)))
        skips.append(x)
    skips.pop()
    while skips:
        x = b.join(skips.pop(), b.up(x, next(rest), 2, 0))
        for _ in range(2):
            x = b.relu(b.conv(x, next(rest)))
    return b.conv(x, next(rest))


class _Jax:
    """What all JAX backends share."""

    relu = staticmethod(jax.nn.relu)

    def halve(self, x: Any) -> Any:
        n, *space, c = x.shape
        split = [v for s in space for v in (s // 2, 2)]
        return x.reshape(n, *split, c).max(tuple(range(2, 2 * len(space) + 1, 2)))

    def join(self, a: Any, b: Any) -> Any:
        return jnp.concatenate([a, b], -1)


class Ours(_Jax):
    """jaxconv's operations."""

    def conv(self, x: Any, w: Any, rate: int = 1, causal: bool = False) -> Any:
        """`jaxconv.conv`."""
        return conv(x, w, padding="CAUSAL" if causal else "SAME", dilation=rate)

    def up(self, x: Any, w: Any, stride: int, pad: int) -> Any:
        """`jaxconv.conv_transpose`."""
        return conv_transpose(x, w, stride=stride, padding=pad)


class Lax(_Jax):
    """lax as flax calls it: transposed kernels are stored flipped, and the convolution is zero-stuffed."""

    def conv(self, x: Any, w: Any, rate: int = 1, causal: bool = False) -> Any:
        """`lax.conv_general_dilated`."""
        r = w.ndim - 2
        numbers = (f"N{SPATIAL[r]}C", f"{SPATIAL[r]}IO", f"N{SPATIAL[r]}C")
        pads: Any = [(rate * (w.shape[0] - 1), 0)] if causal else "SAME"
        return lax.conv_general_dilated(x, w, (1,) * r, pads, rhs_dilation=(rate,) * r, dimension_numbers=numbers)

    def up(self, x: Any, w: Any, stride: int, pad: int) -> Any:
        """`lax.conv_transpose` with the pads of the dilated input."""
        r = w.ndim - 2
        numbers = (f"N{SPATIAL[r]}C", f"{SPATIAL[r]}IO", f"N{SPATIAL[r]}C")
        pads = [(k - 1 - pad, k - 1 - pad) for k in w.shape[:r]]
        return lax.conv_transpose(x, w, (stride,) * r, pads, dimension_numbers=numbers)


def inputs(net: Network, dtype: str, flipped: bool) -> tuple[list[Any], Any]:
    """Random kernels and input; `flipped` stores transposed kernels as flax does."""
    rng = np.random.default_rng(0)
    found = []
    for kind, shape in kernels(net):
        fan = math.prod(shape[:-1]) if kind == "conv" else shape[-1] * 2
        w = rng.standard_normal(shape).astype(np.float32) / np.sqrt(fan)
        if flipped and kind == "up":
            w = np.swapaxes(w[(slice(None, None, -1),) * net.rank], -1, -2)
        found.append(jnp.asarray(w, dtype))
    return found, jnp.asarray(rng.standard_normal((net.batch, *net.size, net.channels)), dtype)


def _step(net: Network, backend: Backend) -> Callable:
    def loss(ws, x):
        return jnp.mean(jnp.square(forward(net, ws, x, backend).astype(jnp.float32)))

    def step(ws, x):
        value, gradient = jax.value_and_grad(loss)(ws, x)
        return value, [w - (RATE * g).astype(w.dtype) for w, g in zip(ws, gradient, strict=True)]

    return step


NETWORK_CONTENDERS = ("jaxconv", "accelerate", "lax", "torch")


def prepare(net: Network, contender: str, dtype: str, task: str = "training step") -> tuple[Prepared, float]:
    """A ready call and a figure that must be the same for every contender: the loss, or the output's mean square.

    Args:
        net: the network.
        contender: "jaxconv", "accelerate", "lax" or "torch".
        dtype: of kernels and input.
        task: "training step" or "inference".

    Returns:
        The call and the figure.

    Raises:
        Absent: PyTorch is not installed.
    """
    if contender == "torch":
        return _torch(net, dtype, task)
    args = inputs(net, dtype, flipped=contender != "jaxconv")
    backend: Any = Ours() if contender == "jaxconv" else Lax()
    f = _step(net, backend) if task == "training step" else lambda ws, x: forward(net, ws, x, backend)
    start = time.perf_counter()
    program = jax.jit(accelerate(f) if contender == "accelerate" else f).lower(*args).compile()
    out = jax.block_until_ready(program(*args))
    first = time.perf_counter() - start
    figure = out[0] if task == "training step" else jnp.mean(jnp.square(out.astype(jnp.float32)))
    memory = program.memory_analysis()
    temporary = None if memory is None else int(memory.temp_size_in_bytes)
    return Prepared(lambda: jax.block_until_ready(program(*args)), first, temporary), float(figure)


def _torch(net: Network, dtype: str, task: str) -> tuple[Prepared, float]:
    if importlib.util.find_spec("torch") is None:
        raise Absent("torch is not installed")
    import torch
    import torch.nn.functional as F

    device, r = "cuda" if torch.cuda.is_available() else "cpu", net.rank
    layout = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}[r]
    convolve, transpose = getattr(F, f"conv{r}d"), getattr(F, f"conv_transpose{r}d")

    class Torch:
        relu = staticmethod(F.relu)
        halve = staticmethod(lambda x: getattr(F, f"max_pool{r}d")(x, 2))
        join = staticmethod(lambda a, b: torch.cat([a, b], 1))

        def conv(self, x, w, rate=1, causal=False):
            if causal:
                return convolve(F.pad(x, (rate * (w.shape[-1] - 1), 0)), w, dilation=rate)
            return convolve(x, w, padding=rate * (w.shape[-1] // 2), dilation=rate)

        def up(self, x, w, stride, pad):
            return transpose(x, w, stride=stride, padding=pad)

    def tensor(a: Any, order: Any) -> Any:
        moved = torch.tensor(np.transpose(np.asarray(a), order), device=device, dtype=getattr(torch, dtype))
        return moved.contiguous(memory_format=layout)

    found, x = inputs(net, "float32", flipped=False)
    ws = [tensor(w, (r + 1, r, *range(r))).requires_grad_() for w in found]
    data = tensor(x, (0, r + 1, *range(1, r + 1)))

    def step():
        if task == "inference":
            with torch.no_grad():
                out = forward(net, ws, data, Torch())
        else:
            loss = forward(net, ws, data, Torch()).float().square().mean()
            gradient = torch.autograd.grad(loss, ws)
            with torch.no_grad():
                out = loss, [w - RATE * g for w, g in zip(ws, gradient, strict=True)]
        if device == "cuda":
            torch.cuda.synchronize()
        return out

    first = step()
    figure = first[0].detach() if task == "training step" else first.float().square().mean()
    return Prepared(step), float(figure)
