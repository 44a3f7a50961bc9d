"""jaxconv: exact, fast and explainable transposed and atrous convolution for JAX.

The functions below need jax and numpy alone. The sub-packages `analysis`, `convert`, `dialects`, `figures`,
`initializers`, `models`, `nn` and `train`
load when they are first named; those that need more than jax say which extra to install.
"""

import importlib
import importlib.abc
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxconv import (
        analysis as analysis,
        benchmark as benchmark,
        convert as convert,
        dialects as dialects,
        figures as figures,
        initializers as initializers,
        models as models,
        nn as nn,
        train as train,
    )
    from jaxconv._accelerate import accelerate
    from jaxconv._sizes import sizes
    from jaxconv.geometry import ConvGeometry
    from jaxconv.linear import ConvOperator, conv_matrix
    from jaxconv.ops import conv, conv_kernel, conv_transpose
    from jaxconv.resampling import (
        avg_pool,
        fold,
        max_pool,
        max_unpool,
        pixel_shuffle,
        pixel_unshuffle,
        resize,
        unfold,
    )

__version__ = "0.1.0"

__all__ = [
    "ConvGeometry",
    "ConvOperator",
    "accelerate",
    "avg_pool",
    "conv",
    "conv_kernel",
    "conv_matrix",
    "conv_transpose",
    "fold",
    "max_pool",
    "max_unpool",
    "pixel_shuffle",
    "pixel_unshuffle",
    "resize",
    "sizes",
    "unfold",
]

_SUBPACKAGES = ("analysis", "benchmark", "convert", "dialects", "figures", "initializers", "models", "nn", "train")

_OF_FLAX = ("convert", "models", "nn")

# Where each function lives. They load when they are first named, so that `jaxconv --help` does not wait for jax.
_HOMES = {
    "_accelerate": ("accelerate",),
    "_sizes": ("sizes",),
    "geometry": ("ConvGeometry",),
    "linear": ("ConvOperator", "conv_matrix"),
    "ops": ("conv", "conv_kernel", "conv_transpose"),
    "resampling": (
        "avg_pool",
        "fold",
        "max_pool",
        "max_unpool",
        "pixel_shuffle",
        "pixel_unshuffle",
        "resize",
        "unfold",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(f"jaxconv.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value
    if name in _SUBPACKAGES or name in _HOMES:
        return importlib.import_module(f"jaxconv.{name}")
    from jaxconv._hints import FUNCTIONS

    hint = f": {FUNCTIONS[name]}" if name in FUNCTIONS else ""
    raise AttributeError(f"module 'jaxconv' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    # What cannot be loaded is not listed: `help(jaxconv)` asks for everything that is.
    flax = importlib.util.find_spec("flax") is not None
    return sorted([*__all__, *(s for s in _SUBPACKAGES if flax or s not in _OF_FLAX), "__version__"])


class _AfterJax(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads jax as it would be loaded, and then registers the compiled kernels: see `_register`."""

    _asking = False

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """The specification of jax with this loader in place of its own; None for every other module."""
        if name != "jax" or self._asking:
            return None
        self._asking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asking = False
        if spec is None or spec.loader is None:
            return spec
        self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: Any) -> Any:
        """As jax's own loader."""
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        """As jax's own loader."""
        sys.meta_path.remove(self)
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _register()


def _register() -> None:
    """Makes the compiled CPU kernels known to XLA.

    A program that was compiled and saved elsewhere (`jax.experimental.serialize_executable`) names them, and the
    process that loads it may call nothing else of jaxconv.
    """
    importlib.import_module("jaxconv.lowering.cpu").status()


# jax takes a second to import, which `jaxconv --help` does not wait for.
if "jax" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _AfterJax())
