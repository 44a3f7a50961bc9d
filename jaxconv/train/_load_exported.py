"""Runs the network that ``jaxconv export`` wrote beside this file; needs jax, numpy and flatbuffers, nothing else.

from load import load
segment, about = load()
labels = segment(images)  # (n, height, width, channels) of 0..255, any n -> (n, height, width)
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp


def load(folder: str | pathlib.Path = pathlib.Path(__file__).parent) -> tuple[Callable[[Any], jax.Array], dict]:
    """The network as a jitted function of images, and what export.json says: sizes, class names, palette."""
    folder = pathlib.Path(folder)
    exported = jax.export.deserialize(bytearray((folder / "network.stablehlo").read_bytes()))
    call = jax.jit(exported.call)
    about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    return lambda images: call(jnp.asarray(images, jnp.float32)), about
