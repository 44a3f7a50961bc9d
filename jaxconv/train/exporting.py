"""``jaxconv export``: a run's network as one StableHLO program, with weights and preprocessing inside."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from flax import nnx

from jaxconv.train import _load_exported
from jaxconv.train.files import write_beside, write_json
from jaxconv.train.record import LONGEST, told_size
from jaxconv.train.runfolder import Run, load_run
from jaxconv.train.segment import network_function

PLATFORMS = ("cpu", "cuda", "tpu")


def export(
    run_folder: str | Path,
    out: str | Path | None = None,
    *,
    size: Sequence[int] | None = None,
    probabilities: bool = False,
    platforms: Sequence[str] = PLATFORMS,
) -> Path:
    """Writes ``OUT/network.stablehlo``, a program of any number of images, and ``OUT/load.py``, which runs it.

    The program takes (n, *spatial, channels) float32 of 0..255 and gives (n, *spatial) classes, or masks (n, *spatial,
    classes); weights, scaling and padding are in it, and no call of this library's kernels. ``load.py`` needs jax (and
    flatbuffers, with which jax.export reads), not jaxconv.

    Args:
        run_folder: written by train or convert.
        out: folder, made if missing; default ``RUN/exported``.
        size: (height, width) of the images, (depth, height, width) of volumes; default the run's fixed size, or its
            training crops'.
        probabilities: give the classes' probabilities (n, *spatial, classes) instead.
        platforms: of "cpu", "cuda" ("rocm") and "tpu", those that it shall run on.

    Returns:
        The program's path.

    Raises:
        FileNotFoundError, ValueError: no finished run, no size is known, or the network does not take it.

    >>> export("runs/mosaics", size=(96, 96))  # doctest: +SKIP
    PosixPath('runs/mosaics/exported/network.stablehlo')
    """
    wrong = [name for name in platforms if name not in (*PLATFORMS, "rocm")]
    if wrong or not platforms:
        raise ValueError(f"platforms={tuple(platforms)} must be some of {', '.join(PLATFORMS)}, rocm")
    model, run = load_run(run_folder)
    record, spatial = run.preprocessing, _size(run, size)
    graph, state = nnx.split(model)
    network = network_function(graph, record, probabilities)
    pads = [(0, 0), *((0, -n % record.size_multiple) for n in spatial), (0, 0)]

    @jax.jit
    def program(images: jax.Array) -> jax.Array:
        return network(jnp.pad(images, pads, "edge"), state)[(slice(None), *map(slice, spatial))]

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *spatial, record.channels), jnp.float32)
    try:
        exported = jax.export.export(program, platforms=tuple(platforms))(images)
        content = exported.serialize()
    except ModuleNotFoundError:
        raise ModuleNotFoundError('export needs flatbuffers: pip install "jaxconv[train]" flatbuffers') from None
    except Exception as error:  # what a network does with an open batch, jax raises errors of many kinds about
        reason = str(error).split("\n")[0]
        raise ValueError(f"{run.folder}, of {told_size(spatial)} images and an open batch: {reason}") from error
    folder = Path(out) if out is not None else run.folder / "exported"
    about: dict[str, Any] = {"model": run.model_name, "size": list(spatial), "channels": record.channels}
    about |= {"gives": "probabilities" if probabilities else "classes", "platforms": list(platforms)}
    write_json(folder / "export.json", about | {"class_names": record.class_names, "palette": record.palette})
    write_beside(folder / "load.py", lambda p: p.write_bytes(Path(_load_exported.__file__).read_bytes()))
    return write_beside(folder / "network.stablehlo", lambda p: p.write_bytes(content))


def _size(run: Run, size: Sequence[int] | None) -> tuple[int, ...]:
    found = size or run.preprocessing.size or (run.train or {}).get("crop")
    if found is None:
        raise ValueError(f"{run.folder} does not say how large its images are: give --size HEIGHT WIDTH")
    spatial = tuple(int(n) for n in found)
    if len(spatial) != run.preprocessing.rank or not all(1 <= n <= LONGEST for n in spatial):
        raise ValueError(f"size={spatial} must be {run.preprocessing.rank} numbers within 1..{LONGEST}")
    return spatial
