"""What networks are measured in: as `jaxconv.models` has them, with lax's convolutions in place of our faces, that lax
version through `jaxconv.accelerate`, and PyTorch; one training step (forward, backward, SGD) or one inference.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, jaxpr_as_fun

from jaxconv import lowering, trilinear
from jaxconv._accelerate import accelerate
from jaxconv.benchmark.contenders import Absent, Prepared, fresh_caches, torch_formats
from jaxconv.benchmark.networks import Network
from jaxconv.benchmark.runner import time_in_turn
from jaxconv.jaxprs.surgery import map_jaxprs, spliced, trace, with_eqns
from jaxconv.jaxprs.walk import AnyJaxpr
from jaxconv.lowering import lax

TASKS = ("training step", "inference")
NETWORK_CONTENDERS = ("jaxconv", "accelerate", "lax", "torch")
RATE = 1e-3


def with_lax(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` with each of jaxconv's faces as the lax convolution that a user of lax writes, before differentiation."""

    def rewrite(jaxpr: AnyJaxpr) -> Any:
        eqns: list[JaxprEqn] = []
        for eqn in jaxpr.eqns:
            if (face := trilinear.FACES.get(eqn.primitive)) is not None:
                written = functools.partial(_as_lax, face, eqn.params)
                eqns += spliced(trace(written, *(v.aval for v in eqn.invars)), eqn)
            else:
                eqns.append(eqn.replace(params=map_jaxprs(rewrite, dict(eqn.params))))
        return with_eqns(jaxpr, eqns)

    def with_lax_convolutions(*args: Any) -> Any:
        jaxpr, shape = jax.make_jaxpr(f, return_shape=True)(*args)
        out = jaxpr_as_fun(rewrite(jaxpr))(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), out)

    return with_lax_convolutions


def _as_lax(face: str, params: dict[str, Any], a: Any, b: Any) -> Any:
    # As on an accelerator: the convolution is asked for in its operands' own type.
    call = lowering.Call.of(face, params["geometry"], a, b, out_dtype=params["out_dtype"], platform="tpu")
    return getattr(lax, face)(a, b, call)


@functools.cache
def made(net: Network, task: str, dtype: str) -> tuple[Any, Any, Any]:
    """The network's static part, and its parameters and the rest without values."""
    from flax import nnx

    from jaxconv.models import REGISTRY

    settings = dict(net.settings)
    # Running statistics are float32 whatever the parameters are: without a dtype to compute in, all layers behind the
    # first normalisation would be float32 too.
    types: dict[str, Any] = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(dtype)}
    model = nnx.eval_shape(lambda: REGISTRY[net.model](**settings, **types, rngs=nnx.Rngs(0)))
    model.train() if task == "training step" else model.eval()
    parts: Any = nnx.split(model, nnx.Param, ...)
    return parts


def operands(net: Network, task: str, dtype: str) -> tuple[Any, Any, Any]:
    """Parameters, statistics and input of a step, as shapes."""
    _, params, rest = made(net, task, dtype)
    return params, rest, jax.ShapeDtypeStruct(net.shape, jnp.dtype(dtype))


def inputs(net: Network, task: str, dtype: str) -> tuple[Any, Any, Any]:
    """`operands` with values: random kernels that keep the size of what goes through, and a random input."""
    rng = np.random.default_rng(0)

    def value(path: Any, a: Any) -> Any:
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if len(a.shape) > 1:
            return jnp.asarray(rng.standard_normal(a.shape) / np.sqrt(math.prod(a.shape[:-1])), a.dtype)
        name = jax.tree_util.keystr(path)
        start = 1 if "scale" in name or "var" in name else 0.25 if "slope" in name else 0
        return jnp.full(a.shape, start, a.dtype)

    params, rest, _ = operands(net, task, dtype)
    params, rest = jax.tree_util.tree_map_with_path(value, (params, rest))
    return params, rest, jnp.asarray(image(net), dtype)


def image(net: Network) -> np.ndarray:
    """A random input."""
    return np.random.default_rng(1).standard_normal(net.shape)


def function(net: Network, contender: str, task: str, dtype: str) -> Callable[..., Any]:
    """What is compiled: (parameters, statistics, input) to (loss, new parameters, new statistics), or to the output.

    jaxconv's inference is accelerated, as `jaxconv predict` is: what follows a convolution becomes part of its call.

    Args:
        net: the network.
        contender: "jaxconv", "accelerate" or "lax".
        task: "training step" or "inference".
        dtype: of parameters and input.

    Returns:
        The function.
    """
    from flax import nnx

    graph = made(net, task, dtype)[0]

    def run(params: Any, rest: Any, x: Any) -> Any:
        model = nnx.merge(graph, params, rest, copy=True)
        out = model(x)
        parts: Any = nnx.split(model, nnx.Param, ...)
        return out, parts[2]

    forward = run if contender == "jaxconv" else with_lax(run)

    def loss(params: Any, rest: Any, x: Any) -> Any:
        out, rest = forward(params, rest, x)
        return jnp.mean(jnp.square(out.astype(jnp.float32))), rest

    def step(params: Any, rest: Any, x: Any) -> Any:
        (value, rest), gradient = jax.value_and_grad(loss, has_aux=True)(params, rest, x)
        return value, jax.tree.map(lambda w, g: w - (RATE * g).astype(w.dtype), params, gradient), rest

    f = step if task == "training step" else lambda params, rest, x: forward(params, rest, x)[0]
    accelerated = contender == "accelerate" or (contender == "jaxconv" and task == "inference")
    return accelerate(f) if accelerated else f


def prepare(net: Network, contender: str, dtype: str, task: str = "training step") -> Prepared:
    """A ready call.

    Args:
        net: the network.
        contender: "jaxconv", "accelerate", "lax" or "torch".
        dtype: of parameters and input.
        task: "training step" or "inference".

    Returns:
        The call.

    Raises:
        Absent: PyTorch is not installed, or has no statement of the network.
    """
    if contender == "torch":
        return _torch(net, dtype, task)
    args = inputs(net, task, dtype)
    f = function(net, contender, task, dtype)
    fresh_caches()
    start = time.perf_counter()
    program = jax.jit(f).lower(*args).compile()
    compiling = time.perf_counter() - start
    jax.block_until_ready(program(*args))
    first = time.perf_counter() - start
    memory = program.memory_analysis()
    temporary = None if memory is None else int(memory.temp_size_in_bytes)
    held = sum(a.nbytes for a in jax.tree.leaves(args))
    return Prepared(lambda: jax.block_until_ready(program(*args)), compiling, first, temporary, held)


def _torch(net: Network, dtype: str, task: str) -> Prepared:
    """PyTorch in the better of contiguous and channels-last."""
    module = statement(net)
    found = [_torch_in(layout, module, net, dtype, task) for layout in torch_formats(net.rank)]
    seconds = [time_in_turn({"torch": ready.call}, 3, 2.0)["torch"] for ready in found]
    return found[seconds.index(min(seconds))]


def _torch_in(layout: Any, module: Any, net: Network, dtype: str, task: str) -> Prepared:
    import torch

    step = torch_step(layout, net, dtype, task, copy.deepcopy(module))

    def call():
        out = step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return out

    call()
    return Prepared(call)


def statement(net: Network) -> Any:
    """PyTorch's module of a network, with random weights; `Absent` says why there is none."""
    if importlib.util.find_spec("torch") is None:
        raise Absent("torch is not installed")
    if importlib.util.find_spec("torch_models") is None:
        raise Absent("PyTorch's networks are those of a checkout's tests: PYTHONPATH=tests jaxconv bench networks")
    module = importlib.import_module("torch_models").statement(net.model, dict(net.settings))
    if module is None:
        raise Absent(f"there is no PyTorch statement of {net.name}")
    return module


def torch_step(layout: Any, net: Network, dtype: str, task: str, module: Any = None) -> Callable[[], Any]:
    """The network in PyTorch, on the GPU where there is one, as a call without arguments that does not wait.

    The statements are `tests/torch_models.py` of a checkout, which hold them against ours; that folder has to be on
    Python's path.

    Args:
        layout: memory format of images and kernels.
        net: the network.
        dtype: of parameters and input.
        task: "training step" or "inference".
        module: the network with weights of one's own, which is changed; random ones by default.

    Returns:
        The call; it returns the loss and new parameters, or the output.

    Raises:
        Absent: PyTorch is not installed, or has no statement of the network.
    """
    module = statement(net) if module is None else module
    import torch

    device, training = "cuda" if torch.cuda.is_available() else "cpu", task == "training step"
    module = module.to(device, getattr(torch, dtype)).to(memory_format=layout).train(training)
    for layer in module.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0  # ours has none
    x = np.moveaxis(image(net), -1, 1)
    # A generator's input has two spatial axes of size 1.
    x = x[..., None, None] if net.model == "dcgan_generator" else x
    data = torch.tensor(x, device=device, dtype=getattr(torch, dtype)).contiguous(memory_format=layout)
    ws = list(module.parameters())

    def step():
        if not training:
            with torch.no_grad():
                return module(data)
        loss = module(data).float().square().mean()
        gradient = torch.autograd.grad(loss, ws, allow_unused=True)
        with torch.no_grad():
            return loss, [w if g is None else w - RATE * g for w, g in zip(ws, gradient, strict=True)]

    return step
