"""``jaxconv train``: from words of the command line to a config and a run folder."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxconv._memory import keep_memory as keep_memory
from jaxconv.train.config import TrainConfig, load_config, parse_labels, parse_settings, parse_weights


def train_command(
    config: str | None,
    out: Path | None,
    given: dict[str, Any],
    settings: Iterable[str],
    restart: bool,
    extend: bool = False,
    mesh: str | None = None,
    hosts: str | None = None,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Trains with the config called ``config``, changed by ``given`` (None: not given) and KEY=VALUE ``settings``.

    ``extend`` starts from the config of the run in ``out`` instead, if no other is named.
    """
    from jaxconv.train.devices import join_hosts
    from jaxconv.train.loop import train
    from jaxconv.train.runfolder import read_description

    keep_memory()
    if hosts is not None:
        join_hosts(hosts)
    base = None
    if extend and config is None and out is not None:
        base = TrainConfig().override(**(read_description(out).train or {}))
    final = config_of(config, given, settings, base)
    options: dict[str, Any] = {"restart": restart, "extend": extend, "mesh": mesh, "tensorboard": tensorboard}
    return train(final, out or default_out(config, final), **options)


def config_of(
    config: str | None, given: dict[str, Any], settings: Iterable[str], base: TrainConfig | None = None
) -> TrainConfig:
    """The config called ``config``, or ``base``, with what was given on the command line."""
    changes = {key: value for key, value in given.items() if value is not None} | parse_settings(settings)
    if isinstance(changes.get("labels"), str):
        changes["labels"] = parse_labels(changes["labels"])
    if isinstance(changes.get("class_weighting"), str):
        changes["class_weighting"] = parse_weights(changes["class_weighting"])
    return (base or load_config(config)).override(**changes)


def default_out(config: str | None, final: TrainConfig) -> Path:
    """Where a run goes that was not told where.

    >>> default_out(None, TrainConfig()).as_posix(), default_out("small.py", TrainConfig()).as_posix()
    ('runs/mosaics', 'runs/small')
    >>> default_out(None, TrainConfig(data="pictures/camvid", model="enet")).as_posix()
    'runs/camvid-enet'
    >>> default_out(None, TrainConfig(model="nets.py:Small")).as_posix()
    'runs/mosaics-nets-py-Small'
    """
    if config is not None:
        return Path("runs") / Path(config).stem
    own = "" if ":" not in final.model else re.sub(r"[^\w-]+", "-", final.model)
    if final.data is None:
        return Path("runs") / (f"mosaics-{own}" if own else "mosaics")
    return Path("runs") / f"{Path(final.data).name}-{own or final.model}"
