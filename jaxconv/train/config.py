"""What a training run is made of. A config file is a Python function; unknown keys are refused."""

import ast
import dataclasses
import runpy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxconv.train.files import refuse_unknown


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run; the defaults are the main job, the mosaics of scikit-image's photographs.

    Args:
        model: key of ``jaxconv.models.REGISTRY``.
        model_kwargs: the model's arguments beside ``in_channels``, ``classes`` and ``rngs``.
        data: folder of images and label maps, or None for the embedded mosaics.
        split: training images, ``data/split`` and ``data/splitannot``.
        val_split: images that are scored during and after training.
        ignore_index: label value of unlabelled pixels (folders only).
        channels: 3 reads RGB, 1 gray (folders only; mosaics are gray).
        size_multiple: whole images are padded to a multiple of this to be scored (folders only; 8 for enet).
        crop: (height, width) of training examples; mosaics are square.
        steps: gradient steps.
        batch_size: examples a step.
        learning_rate: the peak, reached after ``warmup_steps``, then a cosine to zero.
        warmup_steps: linear warm-up.
        weight_decay: AdamW's, on kernels only.
        clip_norm: largest global norm of the gradient.
        class_weighting: "none", or "enet" for the weights of `enet_class_weights`.
        seed: of the weights, the data order and all randomness.
        log_every: steps between rows of metrics.csv.
        eval_every: steps between scores on the validation images.
        eval_images: at most so many of them each time (all at the end).
        test_images: mosaics in the final score (mosaics only).
        checkpoint_every: steps between checkpoints.

    Raises:
        ValueError: a number that makes no sense.

    >>> TrainConfig(steps=0)
    Traceback (most recent call last):
    ...
    ValueError: steps=0 must be at least 1
    """

    model: str = "unet"
    model_kwargs: dict[str, Any] = dataclasses.field(default_factory=lambda: {"widths": [16, 32, 64]})
    data: str | None = None
    split: str = "train"
    val_split: str = "val"
    ignore_index: int | None = None
    channels: int = 3
    size_multiple: int = 1
    crop: tuple[int, int] = (96, 96)
    steps: int = 360
    batch_size: int = 12
    learning_rate: float = 4e-3
    warmup_steps: int = 20
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    class_weighting: str = "none"
    seed: int = 0
    log_every: int = 10
    eval_every: int = 60
    eval_images: int = 16
    test_images: int = 64
    checkpoint_every: int = 60

    def __post_init__(self):
        object.__setattr__(self, "crop", tuple(self.crop))
        at_least_1 = (
            "steps",
            "batch_size",
            "log_every",
            "eval_every",
            "eval_images",
            "test_images",
            "checkpoint_every",
            "size_multiple",
        )
        for name in at_least_1:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if len(self.crop) != 2 or min(self.crop) < 1:
            raise ValueError(f"crop={self.crop} must be (height, width), both at least 1")
        if self.class_weighting not in ("none", "enet"):
            raise ValueError(f'class_weighting={self.class_weighting!r} must be "none" or "enet"')

    def to_dict(self) -> dict[str, Any]:
        """As JSON values (tuples become lists)."""
        return dataclasses.asdict(self) | {"crop": list(self.crop)}

    def override(self, **changes: Any) -> "TrainConfig":
        """A copy with some keys changed; unknown keys are refused, another ``model`` drops ``model_kwargs``.

        >>> TrainConfig().override(step=3)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: unknown key 'step' in the training config; known keys: model, model_kwargs, data, split, ...
        """
        refuse_unknown(changes, [field.name for field in dataclasses.fields(self)], "the training config")
        if changes.get("model", self.model) != self.model:
            changes = {"model_kwargs": {}} | changes
        return dataclasses.replace(self, **changes)


def load_config(name: str | Path | None = None) -> TrainConfig:
    """Reads a config: a Python file with a function ``config()`` that returns a TrainConfig or a dict of its keys.

    Args:
        name: a path, or NAME for ``configs/NAME.py`` below the working directory; None for the main job.

    Raises:
        FileNotFoundError: no such config; the message lists those there are.
        ValueError: the file has no ``config`` function, or it uses an unknown key.
    """
    if name is None:
        return TrainConfig()
    path = Path(name) if str(name).endswith(".py") else Path("configs") / f"{name}.py"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.py"))) or "none"
        raise FileNotFoundError(f"config {path} does not exist; configs in {path.parent}: {there}")
    names = runpy.run_path(str(path))
    if not callable(names.get("config")):
        raise ValueError(f"config {path} defines no function config()")
    value = names["config"]()
    return value if isinstance(value, TrainConfig) else TrainConfig().override(**value)


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """From KEY=VALUE words; values are Python literals, anything else is a string.

    >>> parse_settings(["steps=20", "crop=(64, 64)", "val_split=val"])
    {'steps': 20, 'crop': (64, 64), 'val_split': 'val'}
    """
    parsed = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise ValueError(f"setting {setting!r} is not KEY=VALUE")
        try:
            parsed[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            parsed[key] = text
    return parsed
