"""The devices that a run computes on: examples are split among them, parameters lie on each."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "height")


@dataclasses.dataclass(frozen=True)
class Devices:
    """A mesh of ``data`` times ``height`` devices, and what lies where on it.

    Batches are split over ``data`` by example and over ``height`` by rows of pixels; XLA exchanges the rows that
    convolutions see of their neighbours, and sums gradients and batch statistics over all. So a step computes what one
    device computes, but for the order of sums.

    Args:
        mesh: with the axes of `AXES`.
    """

    mesh: Mesh

    @classmethod
    def of(cls, mesh: str | None, batch_size: int, rows: int) -> "Devices":
        """From "data=4,height=2"; None takes as many of this machine's devices as share the batch evenly.

        Raises:
            ValueError: no such mesh, more devices than there are, or they do not share examples and rows evenly.

        >>> Devices.of("data=1", batch_size=12, rows=96).count
        1
        """
        devices = jax.local_devices()
        sizes = _parsed(mesh) if mesh is not None else {"data": _largest_share(batch_size, len(devices)), "height": 1}
        data, height = (sizes[name] for name in AXES)
        if data * height > len(devices):
            raise ValueError(f"--mesh {mesh} needs {data * height} devices, and jax has {len(devices)}")
        if batch_size % data or rows % height:
            raise ValueError(
                f"--mesh {mesh}: batch_size={batch_size} and crops of {rows} rows must be multiples of data={data} and "
                f"height={height}"
            )
        return cls(Mesh(np.array(devices[: data * height]).reshape(data, height), AXES))

    @property
    def count(self) -> int:
        """How many there are."""
        return self.mesh.size

    @property
    def everywhere(self) -> NamedSharding:
        """All of an array on each device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def split(self) -> NamedSharding:
        """Images (n, h, w, channels) or labels (n, h, w), by example and by rows."""
        return NamedSharding(self.mesh, PartitionSpec(*AXES))

    def replicate(self, tree: Any) -> Any:
        """A pytree with all of it on each device."""
        return jax.device_put(tree, self.everywhere)

    def examples(self, images: np.ndarray) -> jax.Array:
        """Whole images of any size, split by example alone."""
        return jax.device_put(images, NamedSharding(self.mesh, PartitionSpec("data")))


def _parsed(text: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        if name not in AXES or name in sizes or not number.isdecimal() or int(number) < 1:
            raise ValueError(f"--mesh {text}: {part!r} is not data=NUMBER or height=NUMBER, or it comes twice")
        sizes[name] = int(number)
    return {name: sizes.get(name, 1) for name in AXES}


def _largest_share(batch_size: int, devices: int) -> int:
    """The most devices that get equally many examples."""
    return max(n for n in range(1, devices + 1) if batch_size % n == 0)
