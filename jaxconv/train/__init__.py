"""Training, evaluation and prediction: everything behind ``jaxconv train | evaluate | predict | export``.

A run is one folder (`jaxconv.train.runfolder`): ``config.json``, ``preprocessing.json``, ``metrics.csv``,
``checkpoints/``, ``weights.safetensors``, ``results.json`` and pictures. The training file itself, readable from
top to bottom, is `jaxconv.train.loop`.

Extras needed here (``pip install "jaxconv[train]"``): flax, optax, orbax-checkpoint, safetensors, rich, tyro, pillow,
scikit-image, matplotlib.
"""

from typing import Any

from jaxconv._extras import lazily

_HOME = {
    "Preprocessing": "record",
    "Run": "runfolder",
    "TrainConfig": "config",
    "confusion_matrix": "metrics",
    "cross_entropy": "losses",
    "evaluate": "evaluation",
    "export": "exporting",
    "load_config": "config",
    "load_run": "runfolder",
    "mean_iou": "metrics",
    "per_class_iou": "metrics",
    "predict": "prediction",
    "save_run": "runfolder",
    "train": "loop",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    return lazily("jaxconv.train", _HOME, name)
