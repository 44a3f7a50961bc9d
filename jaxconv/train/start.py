"""Opening a run folder for training: a new one, one to continue, or a refusal."""

from collections.abc import Callable
from pathlib import Path

from jaxconv.train.config import TrainConfig
from jaxconv.train.files import read_json
from jaxconv.train.runfolder import Run, is_finished, read_description


def open_run(folder: Path, config: TrainConfig, restart: bool, say: Callable[[str], None]) -> Run | None:
    """Decides what a start in ``folder`` means.

    Args:
        folder: the run folder.
        config: of this start.
        restart: put an earlier run aside, as ``FOLDER.1`` or the next free number.
        say: receives a sentence if that happens.

    Returns:
        The description of the run to continue, or None for a new one.

    Raises:
        FileExistsError: the folder holds a finished run, or something that is no run.
        ValueError: it holds a run of another config; the message names the keys that differ.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose another --out")
    # preprocessing.json alone: killed before config.json, which is written after it.
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if all(name.startswith(".tmp.") or name == "preprocessing.json" for name in names):
        return None
    if not (folder / "config.json").is_file():
        raise FileExistsError(f"{folder} is not empty and not a run folder; choose another --out")
    if restart:
        say(f"the earlier run is kept as {_put_aside(folder)}")
        return None
    run = read_description(folder)
    if is_finished(folder):
        raise FileExistsError(
            f"{folder} is a finished run{_score(folder)}; choose another --out, or --restart to keep it beside and "
            "start anew"
        )
    _same_config(run, config)
    return run


def _score(folder: Path) -> str:
    path = folder / "results.json"
    return f" (test mIoU {read_json(path)['test_miou']:.4f})" if path.is_file() else ""


def _put_aside(folder: Path) -> Path:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(aside)
    return aside


def _same_config(run: Run, config: TrainConfig) -> None:
    before, now = run.train or {}, config.to_dict()
    different = [key for key in now if before.get(key) != now[key]]
    if different:
        changes = ", ".join(f"{key} {before.get(key)!r} -> {now[key]!r}" for key in different)
        raise ValueError(
            f"{run.folder} was started with another config ({changes}); start it with its own config to continue, "
            "choose another --out, or --restart to keep it beside and start anew"
        )
