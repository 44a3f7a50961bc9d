"""What networks are measured in: jaxconv's operations, lax as flax calls it, the lax version through
`jaxconv.accelerate`, and PyTorch; one training step (forward, backward, SGD) or one inference of each.
"""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv._accelerate import accelerate
from jaxconv.benchmark.contenders import SPATIAL, Absent, Prepared, fresh_caches
from jaxconv.benchmark.networks import Backend, Network, forward, inputs
from jaxconv.benchmark.runner import time_in_turn
from jaxconv.ops import conv, conv_transpose
from jaxconv.resampling.pooling import max_pool, max_unpool

TASKS = ("training step", "inference")
RATE = 1e-3
EPSILON = 1e-5


class _Jax:
    """What all JAX backends share.

    Args:
        training: whether batch normalisation takes the batch's statistics.
    """

    def __init__(self, training: bool):
        self.training = training

    relu = staticmethod(jax.nn.relu)

    def halve(self, x: Any) -> Any:
        n, *space, c = x.shape
        split = [v for s in space for v in (s // 2, 2)]
        return x.reshape(n, *split, c).max(tuple(range(2, 2 * len(space) + 1, 2)))

    def join(self, a: Any, b: Any) -> Any:
        return jnp.concatenate([a, b], -1)

    def prelu(self, x: Any, slope: Any) -> Any:
        return jnp.where(x > 0, x, slope * x)

    def norm(self, x: Any, scale: Any, shift: Any, mean: Any, variance: Any) -> Any:
        if self.training:  # as flax computes them
            wide = x.astype(jnp.float32)
            mean = wide.mean(tuple(range(x.ndim - 1)))
            variance = jnp.square(wide).mean(tuple(range(x.ndim - 1))) - jnp.square(mean)
        factor = lax.rsqrt(variance + EPSILON) * scale
        return ((x - mean) * factor + shift).astype(x.dtype)

    def pool(self, x: Any) -> Any:
        return max_pool(x, (3, 3), stride=2, padding=1, return_indices=True)

    def unpool(self, x: Any, indices: Any) -> Any:
        return max_unpool(x, indices, tuple(2 * n for n in x.shape[1:-1]))

    def more_channels(self, x: Any, count: int) -> Any:
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, count)])


class Ours(_Jax):
    """jaxconv's operations."""

    def conv(
        self, x: Any, w: Any, *, rate: int = 1, causal: bool = False, stride: int = 1, pad: int | None = None
    ) -> Any:
        """`jaxconv.conv`."""
        padding: Any = "CAUSAL" if causal else "SAME" if pad is None else pad
        return conv(x, w, padding=padding, dilation=rate, stride=stride)

    def up(self, x: Any, w: Any, stride: int, pad: int, extra: int = 0) -> Any:
        """`jaxconv.conv_transpose`."""
        return conv_transpose(x, w, stride=stride, padding=pad, output_padding=extra)


class Lax(_Jax):
    """lax as flax calls it: transposed kernels are stored flipped, and the convolution is zero-stuffed."""

    def conv(
        self, x: Any, w: Any, *, rate: int = 1, causal: bool = False, stride: int = 1, pad: int | None = None
    ) -> Any:
        """`lax.conv_general_dilated`."""
        r = w.ndim - 2
        pads: Any = "SAME" if pad is None else [(pad, pad)] * r
        pads = [(rate * (w.shape[0] - 1), 0)] if causal else pads
        return lax.conv_general_dilated(
            x, w, (stride,) * r, pads, rhs_dilation=(rate,) * r, dimension_numbers=_numbers(r)
        )

    def up(self, x: Any, w: Any, stride: int, pad: int, extra: int = 0) -> Any:
        """`lax.conv_transpose` with the pads of the dilated input."""
        r = w.ndim - 2
        pads = [(k - 1 - pad, k - 1 - pad + extra) for k in w.shape[:r]]
        return lax.conv_transpose(x, w, (stride,) * r, pads, dimension_numbers=_numbers(r))


def _numbers(rank: int) -> tuple[str, str, str]:
    return f"N{SPATIAL[rank]}C", f"{SPATIAL[rank]}IO", f"N{SPATIAL[rank]}C"


def _step(net: Network, backend: Backend) -> Callable:
    def loss(ws, x):
        return jnp.mean(jnp.square(forward(net, ws, x, backend).astype(jnp.float32)))

    def step(ws, x):
        value, gradient = jax.value_and_grad(loss)(ws, x)
        return value, [w - (RATE * g).astype(w.dtype) for w, g in zip(ws, gradient, strict=True)]

    return step


def function(net: Network, contender: str, task: str) -> Callable[..., Any]:
    """What is compiled: (parameters, image) to the loss and new parameters, or to the output.

    Args:
        net: the network.
        contender: "jaxconv", "accelerate" or "lax".
        task: "training step" or "inference".

    Returns:
        The function.
    """
    training = task == "training step"
    backend: Any = (Ours if contender == "jaxconv" else Lax)(training)
    f = _step(net, backend) if training else lambda ws, x: forward(net, ws, x, backend)
    return accelerate(f) if contender == "accelerate" else f


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
    training = task == "training step"
    args = inputs(net, dtype, flipped=contender != "jaxconv")
    f = function(net, contender, task)
    fresh_caches()
    start = time.perf_counter()
    program = jax.jit(f).lower(*args).compile()
    compiling = time.perf_counter() - start
    out = jax.block_until_ready(program(*args))
    first = time.perf_counter() - start
    figure = out[0] if training else jnp.mean(jnp.square(out.astype(jnp.float32)))
    memory = program.memory_analysis()
    temporary = None if memory is None else int(memory.temp_size_in_bytes)
    held = sum(a.nbytes for a in jax.tree.leaves(args))
    call = functools.partial(_wait_for, program, args)
    return Prepared(call, compiling, first, temporary, held), float(figure)


def _wait_for(program: Any, args: Any) -> Any:
    return jax.block_until_ready(program(*args))


def _torch(net: Network, dtype: str, task: str) -> tuple[Prepared, float]:
    """PyTorch in the better of contiguous and channels-last."""
    if importlib.util.find_spec("torch") is None:
        raise Absent("torch is not installed")
    import torch

    last = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}[net.rank]
    found = [_torch_in(layout, net, dtype, task) for layout in {torch.contiguous_format: 0, last: 0}]
    seconds = [time_in_turn({"torch": ready.call}, 3, 2.0)["torch"] for ready, _ in found]
    return found[seconds.index(min(seconds))]


def _torch_in(layout: Any, net: Network, dtype: str, task: str) -> tuple[Prepared, float]:
    import torch

    step = torch_step(layout, net, dtype, task)

    def call():
        out = step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return out

    first = call()
    figure = first[0].detach() if task == "training step" else first.float().square().mean()
    return Prepared(call), float(figure)


def torch_step(layout: Any, net: Network, dtype: str, task: str) -> Callable[[], Any]:
    """The network in PyTorch, on the GPU where there is one, as a call without arguments that does not wait.

    Args:
        layout: memory format of images and kernels.
        net: the network.
        dtype: of kernels and image.
        task: "training step" or "inference".

    Returns:
        The call; it returns the loss and new parameters, or the output.
    """
    import torch
    import torch.nn.functional as F

    device, r = "cuda" if torch.cuda.is_available() else "cpu", net.rank
    convolve, transpose = getattr(F, f"conv{r}d"), getattr(F, f"conv_transpose{r}d")

    training = task == "training step"

    class Torch:
        relu = staticmethod(F.relu)
        halve = staticmethod(lambda x: getattr(F, f"max_pool{r}d")(x, 2))
        join = staticmethod(lambda a, b: torch.cat([a, b], 1))
        pool = staticmethod(lambda x: F.max_pool2d(x, 3, stride=2, padding=1, return_indices=True))
        more_channels = staticmethod(lambda x, count: F.pad(x, (0, 0, 0, 0, 0, count)))
        prelu = staticmethod(F.prelu)

        def conv(self, x, w, *, rate=1, causal=False, stride=1, pad=None):
            if causal:
                return convolve(F.pad(x, (rate * (w.shape[-1] - 1), 0)), w, dilation=rate)
            pads = [rate * (k // 2) for k in w.shape[2:]] if pad is None else pad
            return convolve(x, w, padding=pads, dilation=rate, stride=stride)

        def up(self, x, w, stride, pad, extra=0):
            return transpose(x, w, stride=stride, padding=pad, output_padding=extra)

        def norm(self, x, scale, shift, mean, variance):
            if training:
                mean, variance = None, None
            return F.batch_norm(x, mean, variance, scale, shift, training, 0.0, EPSILON)

        def unpool(self, x, indices):
            return F.max_unpool2d(x, indices, [3, 3], [2, 2], [1, 1], output_size=[2 * n for n in x.shape[2:]])

    def tensor(a: Any, order: Any) -> Any:
        if a.ndim == 1:
            return torch.tensor(np.asarray(a), device=device, dtype=getattr(torch, dtype))
        moved = torch.tensor(np.transpose(np.asarray(a), order), device=device, dtype=getattr(torch, dtype))
        return moved.contiguous(memory_format=layout)

    found, x = inputs(net, "float32", flipped=False)
    ws = [tensor(w, (r + 1, r, *range(r))).requires_grad_() for w in found]
    data = tensor(x, (0, r + 1, *range(1, r + 1)))

    def step():
        if not training:
            with torch.no_grad():
                out = forward(net, ws, data, Torch())
        else:
            loss = forward(net, ws, data, Torch()).float().square().mean()
            gradient = torch.autograd.grad(loss, ws, allow_unused=True)  # statistics that training does not use
            with torch.no_grad():
                out = loss, [w if g is None else w - RATE * g for w, g in zip(ws, gradient, strict=True)]
        return out

    return step
