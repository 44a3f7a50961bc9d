"""Opening a run folder for training: a new one, one to continue, or a refusal."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from jaxconv.train.config import TrainConfig
from jaxconv.train.files import read_json
from jaxconv.train.runfolder import Run, is_finished, read_description, write_description


def open_run(
    folder: Path, config: TrainConfig, restart: bool, say: Callable[[str], None], extend: bool = False
) -> Run | None:
    """Decides what a start in ``folder`` means.

    Args:
        folder: the run folder.
        config: of this start.
        restart: put an earlier run aside, as ``FOLDER.1`` or the next free number.
        say: receives a sentence if that happens.
        extend: go on with a run whose config differs in nothing but more ``steps``; its final weights are kept as
            ``weights.STEPS.safetensors``.

    Returns:
        The description of the run to continue, or None for a new one.

    Raises:
        FileExistsError: the folder holds a finished run, or something that is no run.
        ValueError: it holds a run of another config; the message names the keys that differ.
    """
    # preprocessing.json alone: killed before config.json, which is written after it.
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if all(name.startswith(".tmp.") or name in ("preprocessing.json", ".lock") for name in names):
        if extend:
            raise FileNotFoundError(f"{folder} holds no run to extend")
        return None
    if not (folder / "config.json").is_file():
        raise FileExistsError(f"{folder} is not empty and not a run folder; choose another --out")
    if restart:
        say(f"the earlier run is kept as {_put_aside(folder)}")
        return None
    run = read_description(folder)
    if extend:
        return _extended(run, config)
    if is_finished(folder):
        raise FileExistsError(
            f"{folder} is a finished run{_score(folder)}; choose another --out, --extend to go on with more "
            "steps, or --restart to keep it beside and start anew"
        )
    _same_config(run, config)
    return run


def _score(folder: Path) -> str:
    path = folder / "results.json"
    found = read_json(path) if path.is_file() else {}
    score = found.get("miou", found.get("test_miou"))  # the latter alone: jaxconv 0.1
    return f" ({found.get('split', 'test')} mIoU {score:.4f})" if isinstance(score, float) else ""


def _extended(run: Run, config: TrainConfig) -> Run:
    before = TrainConfig().override(**(run.train or {}))
    if config.steps <= before.steps:
        raise ValueError(f"{run.folder} was started for {before.steps} steps; --extend needs more, not {config.steps}")
    _same_config(run, dataclasses.replace(config, steps=before.steps))
    if not any(path.name.isdigit() for path in (run.folder / "checkpoints").glob("*")):
        raise FileNotFoundError(f"{run.folder} has no checkpoint to go on from")
    extended = dataclasses.replace(run, train=config.to_dict())
    write_description(extended)
    if is_finished(run.folder):
        (run.folder / "weights.safetensors").rename(run.folder / f"weights.{before.steps}.safetensors")
    return extended


def _put_aside(folder: Path) -> Path:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(aside)
    return aside


def _same_config(run: Run, config: TrainConfig) -> None:
    # Keys that a run of an older version does not know have their defaults.
    before, now = TrainConfig().to_dict() | (run.train or {}), config.to_dict()
    different = [key for key in now if before.get(key) != now[key]]
    if different:
        changes = ", ".join(f"{key} {before.get(key)!r} -> {now[key]!r}" for key in different)
        raise ValueError(
            f"{run.folder} was started with another config ({changes}); start it with its own config to continue, "
            "choose another --out, or --restart to keep it beside and start anew"
        )
