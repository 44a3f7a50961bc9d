"""What other libraries call it: the words of Flax, lax, PyTorch and TensorFlow, and jaxconv's own for the same thing.

A name that jaxconv does not know is refused as ever; where it is a peer's name the refusal says ours.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

# Argument names of the peers; in pooling and resizing some of them mean something else than in a convolution.
ARGUMENTS = {
    "strides": "stride",
    "window_strides": "stride",
    "kernel_dilation": "dilation",
    "rhs_dilation": "dilation",
    "dilation_rate": "dilation",
    "dilations": "dilation",
    "rate": "dilation",
    "window_dilation": "dilation",
    "feature_group_count": "groups",
    "group": "groups",
    "pad": "padding",
    "pads": "padding",
    "padding_type": "padding_mode",
    "output_shape": "output_size",
    "kernel_size": "window",
    "kernel_shape": "window",
    "window_shape": "window",
    "window_dimensions": "window",
    "pool_size": "window",
    "ksize": "window",
    "scale_factor": "scale",
    "mode": "method",
    "shape": "size",
    "upscale_factor": "factor",
    "downscale_factor": "factor",
    "block_size": "factor",
}
# Arguments that have no counterpart, and what to do instead.
INSTEAD = {
    "lhs_dilation": "a dilated input is a transposed convolution: jc.conv_transpose(..., stride=)",
    "input_dilation": "a dilated input is a transposed convolution: jc.conv_transpose(..., stride=)",
    "dimension_numbers": "data is (*batch, *spatial, channels) and kernels (*kernel_size, in // groups, out); "
    "transpose them first, or use jaxconv.dialects.lax",
    "data_format": "data is (*batch, *spatial, channels); transpose it first, or use jaxconv.dialects.tensorflow",
    "transpose_kernel": "conv_transpose takes the forward convolution's kernel, so there is nothing to transpose",
    "ceil_mode": "jaxconv.dialects.torch has the pooling functions with ceil_mode",
    "count_include_pad": "jaxconv.dialects.torch has avg_pool with count_include_pad",
    "bias": "add it: jc.conv(...) + bias; the layers of jaxconv.nn have one",
    "use_bias": "add it: jc.conv(...) + bias; the layers of jaxconv.nn have one",
    "weight": "the kernel is the second argument, w",
    "kernel": "the kernel is the second argument, w",
    "input": "the array is the first argument, x",
    "inputs": "the array is the first argument, x",
}
_BY_RANK = "takes its rank from the kernel"
# Function names of the peers that `jaxconv.NAME` does not have.
FUNCTIONS = {
    **{f"conv{rank}d": f"jaxconv.conv {_BY_RANK}; PyTorch's own: jaxconv.dialects.torch.conv{rank}d" for rank in "123"},
    **{
        f"conv_transpose{rank}d": f"jaxconv.conv_transpose {_BY_RANK}; PyTorch's own: "
        f"jaxconv.dialects.torch.conv_transpose{rank}d"
        for rank in "123"
    },
    **{
        f"{kind}_pool{rank}d": f"jaxconv.{kind}_pool takes its rank from the window; PyTorch's own: "
        f"jaxconv.dialects.torch.{kind}_pool{rank}d"
        for kind in ("max", "avg")
        for rank in "123"
    },
    **{
        name: f"jaxconv has {ours}"
        for name, ours in {
            "conv_general_dilated": "conv",
            "convolution": "conv",
            "convolve": "conv",
            "atrous_conv2d": "conv with dilation=",
            "depthwise_conv2d": "conv with groups= the number of channels",
            "deconv": "conv_transpose",
            "deconvolution": "conv_transpose",
            "deconv2d": "conv_transpose",
            "interpolate": "resize",
            "upsample": "resize",
            "depth_to_space": "pixel_shuffle",
            "space_to_depth": "pixel_unshuffle",
            "im2col": "unfold",
            "col2im": "fold",
            "Conv": "nn.Conv, a Flax NNX layer (import jaxconv.nn)",
            "Conv2d": "nn.Conv, a Flax NNX layer (import jaxconv.nn)",
            "ConvTranspose": "nn.ConvTranspose, a Flax NNX layer (import jaxconv.nn)",
            "ConvTranspose2d": "nn.ConvTranspose, a Flax NNX layer (import jaxconv.nn)",
            "receptive_field": "analysis.receptive_field",
            "checkerboard": "analysis.checkerboard",
            "tiled": "analysis.tiled",
        }.items()
    },
}


def refuse_sparse(value: Any, name: str) -> None:
    """Say what to do with an array of jax.experimental.sparse or SciPy, which NumPy would read number by number."""
    if hasattr(type(value), "todense"):  # of the type: `nnx.Rngs` has a stream of any name
        raise TypeError(f"{name}: a {type(value).__name__} is sparse; make it dense before the call (x.todense())")


def hint_for(name: str, known: Iterable[str]) -> str:
    """`": jaxconv's word is stride="` for a peer's argument name, "" where there is nothing to say.

    Example:
        >>> hint_for("strides", ["x", "stride"])
        ": jaxconv's word for it is stride="
    """
    ours = ARGUMENTS.get(name)
    if ours in set(known):
        return f": jaxconv's word for it is {ours}="
    return f": {INSTEAD[name]}" if name in INSTEAD else ""


def hinting(function: F) -> F:
    """The function, with refusals that name jaxconv's word for a peer's argument, settings by place, sparse arrays."""
    parameters = inspect.signature(function).parameters
    known = frozenset(parameters)
    positional = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters.values())

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if not kwargs.keys() <= known:
            name = next(name for name in kwargs if name not in known)
            raise TypeError(
                f"{function.__qualname__}() got an unexpected keyword argument {name!r}{hint_for(name, known)}"
            )
        if len(args) > positional:
            raise TypeError(
                f"{function.__qualname__}() takes {positional} positional arguments, got {len(args)}: settings such as "
                "stride and padding are given by name"
            )
        for value in (*args, *kwargs.values()):
            refuse_sparse(value, function.__qualname__)
        return function(*args, **kwargs)

    return called  # type: ignore[return-value]


def channels_first(shape: tuple[int, ...], rank: int, channels: int) -> str:
    """A sentence for data of `shape` that would fit with its channels first; "" where it would not.

    Example:
        >>> channels_first((1, 3, 32, 48), 2, 3)
        '; axis 1 has 3: data is channels-last here, jnp.moveaxis(x, 1, -1) makes it so'
    """
    axis = len(shape) - rank - 1
    if axis >= 0 and shape[axis] == channels != shape[-1]:
        return f"; axis {axis} has {channels}: data is channels-last here, jnp.moveaxis(x, {axis}, -1) makes it so"
    return ""
