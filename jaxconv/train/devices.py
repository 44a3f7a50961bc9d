"""The devices that a run computes on: examples are split among them, parameters lie on each or are split, too."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")
AXES = ("data", "height", "fsdp")
SMALL = 1024  # elements: smaller arrays lie whole on each device


@dataclasses.dataclass(frozen=True)
class Devices:
    """A mesh of ``data`` times ``fsdp`` times ``height`` devices, and what lies where on it.

    Batches are split over ``data`` and ``fsdp`` by example and over ``height`` by rows of pixels; XLA exchanges the
    rows that convolutions see of their neighbours, and sums gradients and batch statistics over all. So a step computes
    what one device computes, but for the order of sums.

    Parameters, their means and the optimiser's numbers lie on each device, or split over ``fsdp`` (fully sharded data
    parallel): each array along its longest axis that can be, the output channels where two are equal. A step gathers
    the parameters that it computes with.

    With several processes (`jax.distributed`) each reads its own part of a batch and scores its own part of the images
    on its own devices; the first one alone reads and writes the run folder.

    Args:
        mesh: with the axes of `AXES`, over the devices of all processes.
    """

    mesh: Mesh

    @classmethod
    def of(cls, mesh: str | None, batch_size: int, rows: int) -> "Devices":
        """From "data=4,height=2,fsdp=1"; None takes as many devices, of all processes alike, as share the batch evenly.

        Raises:
            ValueError: no such mesh, more devices than there are, or they do not share examples and rows evenly.

        >>> Devices.of("data=1", batch_size=12, rows=96).count
        1
        """
        hosts = jax.process_count()
        devices = jax.devices() if hosts > 1 else jax.local_devices()
        if batch_size % hosts:
            raise ValueError(f"batch_size={batch_size} must be a multiple of the {hosts} processes")
        each = _largest_share(batch_size // hosts, len(devices) // hosts)
        sizes = _parsed(mesh) if mesh is not None else {"data": each * hosts}
        data, height, fsdp = (sizes.get(name, 1) for name in AXES)
        shares, count = data * fsdp, data * fsdp * height
        if shares % hosts:
            raise ValueError(f"--mesh {mesh}: data * fsdp = {shares} must be a multiple of the {hosts} processes")
        own = [[device for device in devices if device.process_index == host] for host in range(hosts)]
        devices = [device for mine in own for device in mine[: count // hosts]]
        if count > len(devices):
            raise ValueError(f"--mesh {mesh} needs {count} devices, and jax has {jax.device_count()}")
        if batch_size % shares or rows % height:
            raise ValueError(
                f"--mesh {mesh}: batch_size={batch_size} and crops of {rows} rows must be multiples of data={data} "
                f"(times fsdp={fsdp}) and height={height}"
            )
        # Examples outermost: each process has a run of neighbours of a batch.
        return cls(Mesh(np.array(devices).reshape(data, fsdp, height).swapaxes(1, 2), AXES))

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
        return NamedSharding(self.mesh, PartitionSpec(("data", "fsdp"), "height"))

    @property
    def by_example(self) -> NamedSharding:
        """Arrays (n, ...), by example alone."""
        return NamedSharding(self.mesh, PartitionSpec(("data", "fsdp")))

    def placement(self, state: Any) -> Any:
        """Where each array of a state lies.

        Raises:
            ValueError: ``fsdp`` splits none of them.
        """
        parts = self.mesh.shape["fsdp"]

        def place(leaf: Any) -> NamedSharding:
            axes = [(n, axis) for axis, n in enumerate(leaf.shape) if n % parts == 0]
            if parts == 1 or not axes or math.prod(leaf.shape) < SMALL:
                return self.everywhere
            return NamedSharding(self.mesh, PartitionSpec(*[None] * max(axes)[1], "fsdp"))

        placed = jax.tree.map(place, state)
        if parts > 1 and all(sharding.is_fully_replicated for sharding in jax.tree.leaves(placed)):
            raise ValueError(
                f"--mesh fsdp={parts}: no array of {SMALL} elements or more has an axis that is a multiple of {parts}"
            )
        return placed

    def moved(self, tree: Any, placement: Any) -> Any:
        """Inside of a step: arrays where ``placement`` says, `everywhere` to gather what ``fsdp`` splits."""
        return tree if self.mesh.shape["fsdp"] == 1 else jax.lax.with_sharding_constraint(tree, placement)

    def share(self, state: Any) -> float:
        """The share of a state's bytes that one device holds."""
        leaves = jax.tree.leaves(state)
        held = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
        return held / sum(leaf.nbytes for leaf in leaves)

    @property
    def first(self) -> bool:
        """Whether this process is the one that reads and writes files."""
        return jax.process_index() == 0

    def agreed(self, number: int) -> int:
        """The first process's number."""
        return int(multihost_utils.broadcast_one_to_all(np.int32(number)))

    def part(self, count: int) -> tuple[int, int]:
        """Where this process's part of ``count`` examples begins, and how many they are."""
        own = count // jax.process_count()
        return jax.process_index() * own, own

    def lay_state(self, state: Any) -> Any:
        """A state as `placement` says; the first process's where there are several."""
        if jax.process_count() == 1:
            return jax.device_put(state, self.placement(state))
        state = jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, state)))
        return jax.tree.map(
            lambda leaf, sharding: jax.make_array_from_callback(leaf.shape, sharding, lambda part: leaf[part]),
            state,
            self.placement(state),
        )

    def lay(self, arrays: Any, sharding: NamedSharding) -> Any:
        """This process's part of a batch, with those of the others."""
        return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), arrays)

    def local(self, tree: Any) -> Any:
        """This process's copy of a state, or of a part of it; all processes call it."""
        if self.mesh.shape["fsdp"] > 1:
            tree = jax.jit(lambda tree: tree, out_shardings=self.everywhere)(tree)
        return tree if jax.process_count() == 1 else jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)

    def on_host(self, tree: Any) -> Any:
        """What a process saves: NumPy's arrays where there are several processes, since jax's would be everybody's."""
        return tree if jax.process_count() == 1 else jax.tree.map(np.asarray, self.local(tree))

    def own_rows(self, array: jax.Array) -> np.ndarray:
        """This process's part of an array that lies as batches do."""
        return np.asarray(multihost_utils.global_array_to_host_local_array(array, self.mesh, self.split.spec))

    def total(self, counts: np.ndarray) -> np.ndarray:
        """The sum of whole numbers over all processes."""
        # In two parts: without x64 jax has 32 bits.
        parts = np.stack([counts >> 30, counts & (2**30 - 1)]).astype(np.int32)
        high, low = np.asarray(multihost_utils.process_allgather(parts)).astype(np.int64).sum(0)
        return (high << 30) + low

    def own_share(self, items: Iterable[T]) -> Iterator[T]:
        """Every n-th item of n processes."""
        return itertools.islice(items, jax.process_index(), None, jax.process_count())

    def examples(self, images: np.ndarray) -> jax.Array:
        """Whole images of any size, split by example alone over this process's devices."""
        if jax.process_count() == 1:
            return jax.device_put(images, self.by_example)
        return jax.device_put(images, jax.local_devices()[0])


def jit_once(fn: Callable[..., T]) -> Callable[..., T]:
    """``fn`` compiled to be run once: on CPUs without the passes that take long, as of dozens of random kernels."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(fn, compiler_options=options if jax.default_backend() == "cpu" else None)


def join_hosts(text: str) -> None:
    """Makes this process one of several: "ADDRESS:PORT,PROCESSES,NUMBER", or "auto" where a cluster tells.

    Raises:
        ValueError: it is neither.
    """
    if text == "auto":
        return jax.distributed.initialize()
    address, *numbers = text.split(",")
    if ":" not in address or len(numbers) != 2 or not all(word.isdecimal() for word in numbers):
        raise ValueError(f"--hosts {text} must be auto, or ADDRESS:PORT of the first process,PROCESSES,NUMBER of this")
    count, number = map(int, numbers)
    if number >= count:
        raise ValueError(f"--hosts {text}: the {count} processes have the numbers 0..{count - 1}")
    jax.distributed.initialize(address, count, number)


def _parsed(text: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        if name not in AXES or name in sizes or not number.isdecimal() or int(number) < 1:
            told = " or ".join(f"{axis}=NUMBER" for axis in AXES)
            raise ValueError(f"--mesh {text}: {part!r} is not {told}, or it comes twice")
        sizes[name] = int(number)
    return sizes


def _largest_share(batch_size: int, devices: int) -> int:
    """The most devices that get equally many examples."""
    return max(n for n in range(1, devices + 1) if batch_size % n == 0)
