"""Checkpoints with orbax, each with digests of its files, so that a damaged one is noticed before it is used."""

import glob
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxconv.train.files import read_json, write_json

_DIGESTS = "digests.json"


class Checkpoints:
    """The newest two checkpoints of a run, in ``folder/STEP``.

    Orbax writes a checkpoint beside and renames it. It does not notice every damaged byte when it reads, so a file of
    SHA-256 digests is added last, when the checkpoint has been read back and found equal. One with another digest is
    put aside as ``STEP.unreadable`` until the next one is saved; one without, which was being written, is removed.

    Args:
        folder: made if missing.
        say: receives a sentence when a checkpoint is put aside.
    """

    def __init__(self, folder: str | Path, say: Callable[[str], None] = print):
        self.folder = Path(folder).resolve()  # orbax needs absolute paths
        self._say = say
        self.folder.mkdir(parents=True, exist_ok=True)
        self._put_damaged_aside()
        # Orbax takes [, * and ? in a path for patterns: it is given another name of such a folder.
        self._alias = None
        place = self.folder
        if glob.escape(str(place)) != str(place):
            self._alias = tempfile.TemporaryDirectory(prefix="jaxconv-")
            place = Path(self._alias.name).resolve() / "checkpoints"
            place.symlink_to(self.folder, target_is_directory=True)
            if glob.escape(str(place)) != str(place):
                raise ValueError(
                    f"{self.folder} has one of [ * ? in its path, and so has the folder of temporary files"
                )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True, **_alone()
        )
        self._manager = ocp.CheckpointManager(place, options=options)

    @property
    def latest(self) -> int | None:
        """The newest step that can be read, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Saves a pytree of arrays and reads it back; does nothing if the step is saved already.

        Raises:
            OSError: what is read back is not what was saved.
        """
        if step in self._manager.all_steps():
            return
        self._manager.save(step, args=ocp.args.StandardSave(by_name(state)))
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
        again = zip(jax.tree.leaves(state), jax.tree.leaves(self.restore(step, abstract)), strict=True)
        if not all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in again):
            raise OSError(f"checkpoint {self.folder / str(step)} does not read back as it was written")
        write_json(self.folder / str(step) / _DIGESTS, _digests(self.folder / str(step)))
        for path in self.folder.glob("*.unreadable*"):
            shutil.rmtree(path, ignore_errors=True)

    def restore(self, step: int, abstract: Any) -> Any:
        """Reads a pytree like ``abstract`` (of ShapeDtypeStruct).

        Raises:
            ValueError: the checkpoint holds other arrays (another model or optimizer); the message names the folder.
        """
        names = by_name(abstract)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        wanted = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=device) for k, v in names.items()}
        try:
            found = self._manager.restore(step, args=ocp.args.StandardRestore(wanted))
        except (ValueError, KeyError) as error:
            raise ValueError(f"checkpoint {self.folder / str(step)} does not fit this run: {error}") from error
        return jax.tree.unflatten(jax.tree.structure(abstract), [found[name] for name in names])

    def close(self) -> None:
        """Releases orbax's threads."""
        self._manager.close()
        if self._alias is not None:
            self._alias.cleanup()

    def _put_damaged_aside(self) -> None:
        for path in sorted((p for p in self.folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name)):
            if not (path / _DIGESTS).is_file():
                shutil.rmtree(path)
                self._say(f"checkpoint {path} was being written when its run was stopped; it is removed")
            elif (reason := _damage(path)) is not None:
                asides = (path.with_name(f"{path.name}.unreadable{number}") for number in ("", *range(1, 1000)))
                aside = next(aside for aside in asides if not aside.exists())
                path.rename(aside)
                self._say(
                    f"checkpoint {path} is damaged ({reason}); put aside as {aside.name}, using the one before it"
                )


def _alone() -> dict[str, Any]:
    """Orbax's options for a process that saves without the others."""
    if jax.process_count() == 1:
        return {}
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own}, barrier_sync_key_prefix="one")
    return {"multiprocessing_options": alone, "create": False}


def by_name(tree: Any) -> dict[str, Any]:
    """Leaves under their paths: plain names survive a change of container classes between versions."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != _DIGESTS)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _damage(folder: Path) -> str | None:
    """Why a checkpoint is not as it was written, or None."""
    try:
        wanted = read_json(folder / _DIGESTS)
    except ValueError as error:
        return str(error)
    found = _digests(folder)
    bad = [name for name in wanted if found.get(name) != wanted[name]]
    return f"{', '.join(bad)} truncated, changed or missing" if bad else None
