"""Which extra of the installation a missing package belongs to: said wherever jaxconv misses one."""

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

EXTRA_OF = {
    "flax": "nn", "optax": "train", "orbax": "train", "safetensors": "train", "skimage": "train", "rich": "train",
    "matplotlib": "figures", "PIL": "figures", "jinja2": "cli", "tyro": "cli", "lineax": "operator",
    "scipy": "operator", "tensorboardX": "tensorboard", "nibabel": "volumes",
}  # fmt: skip


def need(who: str, *modules: str) -> None:
    """Nothing, where the modules are installed.

    Args:
        who: what needs them, as the reader calls it.
        modules: names of modules in `EXTRA_OF`.

    Raises:
        ModuleNotFoundError: one is missing; the message names the extra that brings it.

    Example:
        >>> need("jaxconv.linear", "scipy")
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(_sentence(who, module), name=module)


def lazily(room: str, home: Mapping[str, str], name: str) -> Any:
    """A name of a room that loads when it is first named, for the room's `__getattr__`.

    Args:
        room: the package, such as "jaxconv.train".
        home: public name -> module below the room.
        name: what is asked for.

    Raises:
        AttributeError: the room has no such name.
        ModuleNotFoundError: its module needs a package that is missing; the message names the extra.
    """
    if name not in home:
        raise AttributeError(f"module {room!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{room}.{home[name]}"), name)
    except ModuleNotFoundError as error:
        raise named(error, f"{room}.{name}") from None


def named(error: ModuleNotFoundError, who: str = "this") -> ModuleNotFoundError:
    """The error, with the extra in its message where it is Python's own about a package of one."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRA_OF or "extra" in str(error):
        return error
    return ModuleNotFoundError(_sentence(who, module), name=module)


def _sentence(who: str, module: str) -> str:
    extra = EXTRA_OF[module]
    return f'{who} needs {module}, which comes with the extra "{extra}": pip install "jaxconv[{extra}]"'
