"""Networks for dense prediction, one file each; `REGISTRY` finds them by name. Needs the extra "nn" (flax)."""

from collections.abc import Callable
from typing import Any

from jaxconv.models.enet import ENet
from jaxconv.models.fsrcnn import FSRCNN
from jaxconv.models.unet import UNet

REGISTRY: dict[str, Callable[..., Any]] = {"enet": ENet, "fsrcnn": FSRCNN, "unet": UNet}

__all__ = ["FSRCNN", "REGISTRY", "ENet", "UNet"]
