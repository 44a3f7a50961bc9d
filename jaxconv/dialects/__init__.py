"""Other frameworks' convolutions, pooling and resampling under their own names, layouts, orders and size rules.

`torch` follows torch.nn.functional, `tensorflow` follows tf.nn and tf.image, `onnx` the operators of the ONNX standard,
`lax` jax.lax itself. Each function reads its peer's arguments, refuses what the peer refuses, and calls the library's
own operations: there is no second implementation here. Submodules load when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxconv.dialects import lax as lax, onnx as onnx, tensorflow as tensorflow, torch as torch

_DIALECTS = ("lax", "onnx", "tensorflow", "torch")


def __getattr__(name: str) -> Any:
    if name in _DIALECTS:
        return importlib.import_module(f"jaxconv.dialects.{name}")
    raise AttributeError(f"module 'jaxconv.dialects' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_DIALECTS])
