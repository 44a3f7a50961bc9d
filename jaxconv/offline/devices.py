"""Accelerators by name: which compiler they need, and how jax is asked for one of their devices."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import re
from typing import Any

GPUS = pathlib.Path(__file__).parent / "gpus"
# libtpu asks a cloud machine what it is on, unless it is told; a lock file keeps a second process out otherwise.
TPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# Without a card nothing can be tried out: cuDNN's and the fusions' defaults are taken. Without a driver the plugin of
# jax 0.10 would not be registered, since it asks that for its version.
GPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "XLA_FLAGS": "--xla_gpu_autotune_level=0",
}
PIP = {"tpu": 'pip install "jaxconv[tpu-compile]"', "gpu": 'pip install "jaxconv[gpu-compile]"'}


@dataclasses.dataclass(frozen=True)
class Target:
    """An accelerator to compile for.

    Attributes:
        name: as it was given.
        kind: "tpu" or "gpu".
        description: the TPU topology's name, or the file that describes the GPU.
    """

    name: str
    kind: str
    description: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables that have to be set before jax is imported; what the user has set stays, XLA's flags are joined."""
        wanted = TPU_ENVIRONMENT if self.kind == "tpu" else GPU_ENVIRONMENT
        flags = " ".join(filter(None, (os.environ.get("XLA_FLAGS"), wanted.get("XLA_FLAGS"))))
        return {**wanted, "XLA_FLAGS": flags}

    def missing(self) -> str | None:
        """What to install where the compiler is not here."""
        names = ("libtpu",) if self.kind == "tpu" else ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")
        for name in names:
            try:
                if importlib.util.find_spec(name) is not None:
                    return None
            except ModuleNotFoundError:
                continue
        return f"the compiler for {self.name} is not installed: {PIP[self.kind]}"

    def devices(self) -> list[Any]:
        """The devices of the slice, or the GPU, that programs can be compiled for.

        Raises:
            ModuleNotFoundError: its compiler is not installed; the message has the line that installs it.
            ValueError: the installed compiler does not know the topology.
        """
        from jax.experimental import topologies

        if (absent := self.missing()) is not None:
            raise ModuleNotFoundError(absent)
        try:
            if self.kind == "tpu":
                return list(topologies.get_topology_desc(platform="tpu", topology_name=self.description).devices)
            text = pathlib.Path(self.description).read_text("utf-8")
            options: dict[str, Any] = {"topology": "1x1x1", "target_config": text}
            return list(topologies.get_topology_desc(platform="cuda", topology_name="1x1x1", **options).devices)
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            raise ValueError(f"the installed compiler does not take the target {self.name!r}: {first}") from error

    def sharding(self) -> Any:
        """Everything on the first device."""
        import jax

        return jax.sharding.SingleDeviceSharding(self.devices()[0])


def read_target(name: str) -> Target:
    """An accelerator by name.

    Args:
        name: a TPU slice such as v5e:2x2, v5p:2x2x1 or v6e:2x2; h100 or a100; or a file FILE.txtpb with a text
            GpuTargetConfigProto.

    Returns:
        The target; whether its compiler is installed is another question (`Target.missing`).

    Raises:
        ValueError: nothing of that name.
        FileNotFoundError: the file does not exist.

    Example:
        >>> read_target("v5e:2x2").kind, read_target("h100").kind
        ('tpu', 'gpu')
    """
    if re.fullmatch(r"v\d+[a-z]*:\d+x\d+(x\d+)?", name):
        return Target(name, "tpu", name)
    if name.endswith(".txtpb"):
        if not pathlib.Path(name).is_file():
            raise FileNotFoundError(f"{name} does not exist")
        return Target(name, "gpu", name)
    known = {path.stem: path for path in sorted(GPUS.glob("*.txtpb"))}
    if name not in known:
        raise ValueError(
            f"{name!r} is no accelerator: there are {', '.join(known)}, TPU slices such as v5e:2x2, v5p:2x2x1 and "
            "v6e:2x2, and FILE.txtpb with the description of a GPU"
        )
    return Target(name, "gpu", str(known[name]))
