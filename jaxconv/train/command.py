"""``jaxconv train``: from words of the command line to a config and a run folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxconv.train.config import TrainConfig, load_config, parse_settings


def train_command(
    config: str | None, out: Path | None, given: dict[str, Any], settings: Iterable[str], restart: bool
) -> dict[str, Any]:
    """Trains with the config called ``config``, changed by ``given`` (None: not given) and KEY=VALUE ``settings``."""
    from jaxconv.train.loop import train

    changes = {key: value for key, value in given.items() if value is not None} | parse_settings(settings)
    final = load_config(config).override(**changes)
    return train(final, out or default_out(config, final), restart=restart)


def default_out(config: str | None, final: TrainConfig) -> Path:
    """Where a run goes that was not told where.

    >>> default_out(None, TrainConfig()).as_posix(), default_out("small.py", TrainConfig()).as_posix()
    ('runs/mosaics', 'runs/small')
    >>> default_out(None, TrainConfig(data="pictures/camvid", model="enet")).as_posix()
    'runs/camvid-enet'
    """
    if config is not None:
        return Path("runs") / Path(config).stem
    return Path("runs") / ("mosaics" if final.data is None else f"{Path(final.data).name}-{final.model}")
