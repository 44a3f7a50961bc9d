"""What a training run is made of. A config file is a Python function; unknown keys are refused."""

import ast
import dataclasses
import re
import runpy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxconv.train.augment import Augment
from jaxconv.train.files import refuse_unknown
from jaxconv.train.record import COLOUR, LONGEST, MOST_BANDS
from jaxconv.train.typed import check_fields

LOSSES = ("cross_entropy", "dice", "focal", "lovasz", "sigmoid")
OPTIMISERS = ("adamw", "sgd", "lion", "lamb")
SCHEDULES = ("cosine", "poly", "onecycle", "constant")
CHOICES = {"optimiser": OPTIMISERS, "schedule": SCHEDULES, "compute": ("float32", "bfloat16")}


def mixture(text: str, legal: tuple[str, ...] = LOSSES) -> dict[str, float]:
    """Name -> factor, from ``[FACTOR*]NAME`` with ``+`` between them.

    Raises:
        ValueError: no such name, a factor that is not positive, or a name that comes twice.

    >>> mixture("cross_entropy+0.5*dice")
    {'cross_entropy': 1.0, 'dice': 0.5}
    """
    parts: dict[str, float] = {}
    for part in text.split("+"):
        match = re.fullmatch(r"\s*(?:(\d+\.?\d*|\.\d+)\s*\*)?\s*(\w+)\s*", part)
        name, factor = (match[2], float(match[1] or 1)) if match else ("", 0.0)
        if name not in legal or name in parts or not factor > 0:
            raise ValueError(
                f"loss={text!r}: {part!r} is not NAME or FACTOR*NAME, or comes twice; losses are {', '.join(legal)}"
            )
        parts[name] = factor
    return parts


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run; the defaults are the main job, the mosaics of scikit-image's photographs.

    Args:
        model: key of ``jaxconv.models.REGISTRY``, or MODULE:NAME or FILE.py:NAME of a function or class of your own,
            which is called with ``in_channels``, ``classes``, ``model_kwargs`` and ``rngs`` and gives a flax.nnx.Module
            from (n, height, width, in_channels) to (n, height, width, classes).
        model_kwargs: the model's arguments beside ``in_channels``, ``classes`` and ``rngs``.
        data: folder of images and label maps, or None for the embedded mosaics.
        split: training images, ``data/split`` and ``data/splitannot``.
        val_split: images that are scored during training, and after it unless there is a ``test_split``.
        test_split: images that score the finished network (folders only), or None for ``val_split``.
        labels: value in the label maps -> name of the class, such as {0: "background", 255: "cell"} (folders only);
            None where the value is the class's number.
        value_range: (black, white) in the values of the image files, where 0 and all bits are not (folders only).
        init: run folder or weights file whose tensors the network starts from, where they fit, or None.
        ignore_index: label value of unlabelled pixels (folders only).
        channels: 3 reads RGB, 1 gray, others as many bands as the files have (folders only; mosaics are gray).
        size_multiple: whole images are padded to a multiple of this to be scored (folders only; 8 for enet).
        crop: (height, width) of training examples, or (depth, height, width): then files are volumes, and networks are
            called with ``rank=3`` too; mosaics are square.
        steps: gradient steps.
        batch_size: examples a step.
        loss: names with factors, as "cross_entropy+0.5*dice": cross_entropy, dice, focal, lovasz, sigmoid.
        class_weighting: "none", "enet" for the weights of `enet_class_weights`, or a weight for each class.
        aux_weight: factor of the losses of auxiliary heads, where a network gives them after its first output.
        optimiser: adamw, sgd (with Nesterov's momentum 0.9), lion or lamb.
        schedule: what the learning rate does after the warm-up: cosine, poly (power 0.9), onecycle (from a 25th of the
            peak, and down to a 250,000th) or constant.
        learning_rate: the peak, reached after ``warmup_steps``.
        warmup_steps: linear warm-up.
        weight_decay: the optimiser's, on kernels only.
        clip_norm: largest global norm of the gradient.
        freeze: parts of the network, as their names in weights.safetensors begin, that stay as they are: parameters,
            batch statistics, and no dropout.
        accumulate: parts of a batch that are computed one after another, their gradients added: less memory. Batch
            statistics are those of each part, losses means over the parts.
        ema: the network that is scored and saved has exponential means of the parameters with this decay (at the start
            min(ema, (1 + step) / (10 + step))); 0 for the parameters themselves.
        compute: "float32", or "bfloat16" for networks that compute in half precision from float32 parameters.
        remat: keep convolutions' outputs only for the gradient and compute the rest again: less memory on accelerators.
        early_stop: scores without a better one after which training stops; 0 for never.
        augment: what is done to training examples at random, with + between: hflip, vflip, rot90, rotate=15 (degrees),
            scale=0.5:2, colour=0.2, elastic=3 (pixels), or none; without it hflip for images and none for mosaics.
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
    test_split: str | None = None
    labels: dict[int, str] | None = None
    value_range: tuple[float, float] | None = None
    init: str | None = None
    ignore_index: int | None = None
    channels: int = 3
    size_multiple: int = 1
    crop: tuple[int, ...] = (96, 96)
    steps: int = 360
    batch_size: int = 12
    loss: str = "cross_entropy"
    class_weighting: str | tuple[float, ...] = "none"
    aux_weight: float = 0.4
    optimiser: str = "adamw"
    schedule: str = "cosine"
    learning_rate: float = 4e-3
    warmup_steps: int = 20
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    freeze: tuple[str, ...] = ()
    accumulate: int = 1
    ema: float = 0.0
    compute: str = "float32"
    remat: bool = False
    early_stop: int = 0
    augment: str | None = None
    seed: int = 0
    log_every: int = 10
    eval_every: int = 60
    eval_images: int = 16
    test_images: int = 64
    checkpoint_every: int = 60

    def __post_init__(self):
        if isinstance(self.labels, dict):  # JSON has text for keys
            whole = {int(k) if isinstance(k, str) and k.lstrip("-").isdigit() else k: v for k, v in self.labels.items()}
            object.__setattr__(self, "labels", whole)
        check_fields(self)
        counts = (
            "steps batch_size log_every eval_every eval_images test_images checkpoint_every size_multiple accumulate"
        )
        for name in counts.split():
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        for name in ("warmup_steps", "weight_decay", "seed", "early_stop", "aux_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if self.seed >= 2**63:
            raise ValueError(f"seed={self.seed} must be less than 2**63")
        if not 1 <= self.channels <= MOST_BANDS:
            raise ValueError(f"channels={self.channels} must be 1 (gray), 3 (RGB) or the images' bands, at most 4096")
        if len(self.crop) not in (2, 3) or min(self.crop) < 1:
            raise ValueError(f"crop={self.crop} must be (height, width), or (depth, height, width), each at least 1")
        if max(self.crop) > LONGEST or self.size_multiple > LONGEST:
            raise ValueError(f"crop={self.crop} and size_multiple={self.size_multiple} must be at most {LONGEST}")
        for name, legal in CHOICES.items():
            if getattr(self, name) not in legal:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(legal)}")
        weights = self.class_weighting
        if weights not in ("none", "enet") and (isinstance(weights, str) or not weights or min(weights) < 0):
            raise ValueError(f'class_weighting={weights!r} must be "none", "enet" or a weight >= 0 for each class')
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema={self.ema} must be 0 (none), or a decay below 1 such as 0.999")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size={self.batch_size} must be a multiple of accumulate={self.accumulate}")
        if not all(self.freeze):
            raise ValueError(f"freeze={self.freeze} must name parts of the network, as encoder or encoder.0")
        mixture(self.loss)
        if self.augment is not None and "rot90" in Augment.of(self.augment).flips and self.crop[-1] != self.crop[-2]:
            raise ValueError(f"augment={self.augment!r}: rot90 needs square crops, not {self.crop}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values (tuples become lists)."""
        value = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
        if self.labels is not None:
            value["labels"] = {str(label): name for label, name in self.labels.items()}
        return value

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
        name: a path, or NAME for ``configs/NAME.py`` below the working directory, or of those that come with jaxconv;
            None for the main job.

    Raises:
        FileNotFoundError: no such config; the message lists those there are.
        ValueError: the file has no ``config`` function, or it uses an unknown key.
    """
    if name is None:
        return TrainConfig()
    own = str(name).endswith(".py")
    # In a wheel they lie in the package, in a checkout beside it.
    places = [Path(name).parent] if own else [Path("configs"), *(p / "configs" for p in Path(__file__).parents[1:3])]
    paths = [place / f"{Path(name).stem if own else name}.py" for place in places]
    path = next((p for p in paths if p.is_file()), paths[0])
    if not path.is_file():
        there = ", ".join(sorted({p.stem for place in places for p in place.glob("*.py")})) or "none"
        raise FileNotFoundError(
            f"config {path} does not exist; configs in {places[0]}{'' if own else ' and jaxconv'}: {there}"
        )
    try:
        names = runpy.run_path(str(path))
    except Exception as error:
        raise ValueError(f"config {path} fails: {type(error).__name__}: {error}") from error
    if not callable(names.get("config")):
        raise ValueError(f"config {path} defines no function config()")
    value = names["config"]()
    if not isinstance(value, (TrainConfig, dict)):
        raise ValueError(
            f"config {path}: config() returns {type(value).__name__}, not a TrainConfig or a dict of its keys"
        )
    return value if isinstance(value, TrainConfig) else TrainConfig().override(**value)


def parse_labels(text: str) -> dict[int, str]:
    """From VALUE:NAME words with commas between them; VALUE is a number or a colour, the NAME - means ignored.

    >>> parse_labels("0:background,255:cell")
    {0: 'background', 255: 'cell'}
    >>> parse_labels("255/0/0:cell") == {COLOUR + 255 * 65536: "cell"}
    True
    """
    labels: dict[int, str] = {}
    for part in text.split(","):
        value, colon, name = part.partition(":")
        words = value.strip().split("/")
        numbers = [int(word) if word.isascii() and word.isdigit() else -1 for word in words]
        legal = len(words) in (1, 3) and min(numbers) >= 0 and (len(words) == 1 or max(numbers) < 256)
        key = COLOUR + numbers[0] * 65536 + numbers[1] * 256 + numbers[2] if len(words) == 3 else numbers[0]
        if not colon or not name.strip() or not legal or key in labels or (len(words) == 1 and key >= COLOUR):
            raise ValueError(f"--labels {text}: {part!r} is not VALUE:NAME or R/G/B:NAME, or its value comes twice")
        labels[key] = name.strip()
    if len({value >= COLOUR for value in labels}) > 1:
        raise ValueError(f"--labels {text}: numbers or colours, not both")
    if list(labels.values()).count("-") > 1:
        raise ValueError(f"--labels {text}: one value can be ignored (-), not more")
    return labels


def parse_weights(text: str) -> str | tuple[float, ...]:
    """Class weights from the command line: "auto" is "enet", numbers have commas between them.

    >>> parse_weights("auto"), parse_weights("1,2.5")
    ('enet', (1.0, 2.5))
    """
    if text in ("auto", "enet", "none"):
        return "enet" if text == "auto" else text
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise ValueError(f"--class-weights {text} must be auto, or a number for each class, as 1,2.5,1") from None


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
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            parsed[key] = text
    return parsed
