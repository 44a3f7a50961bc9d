"""What must travel with the weights: the preprocessing, class names, palette and ignored index."""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxconv.train.files import refuse_unknown
from jaxconv.train.typed import check_fields

LONGEST = 65536  # pixels of an image's side that anything is resized or padded to
MOST_BANDS = 4096
COLOUR = 1 << 24  # label values from here on are colours: COLOUR + red * 65536 + green * 256 + blue

# Okabe and Ito, "Color Universal Design" (2008): colours for colour-blind readers too (gray for black).
_OKABE_ITO = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66),
    (0, 114, 178), (213, 94, 0), (204, 121, 167), (90, 90, 90),
)  # fmt: skip


Colour = tuple[int, int, int]


def told_label(value: int) -> str:
    """A label map's value as --labels takes it: a number, or RED/GREEN/BLUE.

    >>> told_label(255), told_label(COLOUR + 255 * 65536)
    ('255', '255/0/0')
    """
    return str(value) if value < COLOUR else f"{(value >> 16) & 255}/{(value >> 8) & 255}/{value & 255}"


def told_size(size: Iterable[int]) -> str:
    """A size as people write it.

    >>> told_size((480, 640))
    '480x640'
    """
    return "x".join(map(str, size))


def told_list(items: Iterable[Any]) -> str:
    """The first eight, with commas between them."""
    first = list(map(str, itertools.islice(items, 9)))
    return ", ".join(first[:8] + ["..."] * (len(first) > 8))


def default_palette(classes: int) -> tuple[Colour, ...]:
    """One colour a class: Okabe and Ito's eight, then hues a golden angle apart.

    >>> default_palette(2)
    ((230, 159, 0), (86, 180, 233))
    >>> len(set(default_palette(40)))
    40
    """
    import colorsys

    colours: list[Colour] = list(_OKABE_ITO[:classes])
    for i in range(classes - len(colours)):
        # The golden angle spreads hues for any number of classes; alternating the value separates neighbours further.
        red, green, blue = colorsys.hsv_to_rgb((i * 0.381966) % 1.0, 0.65, (0.95, 0.65)[i % 2])
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return tuple(colours)


def _among(labels: np.ndarray, values: list[int]) -> Any:
    """`np.isin`, which takes a third of the time of decoding an image, by a table where that is short."""
    low, high = int(labels.min()), int(labels.max())
    if high - low >= 1 << 16:
        return np.isin(labels, values)
    table = np.isin(np.arange(low, high + 1), values)
    return table[labels - low] if not table.all() else np.True_


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From an image file to the network's input, and from its output to names and colours.

    The network's input is ``(pixel * scale - mean) / std`` of the image as 8-bit values, resized to ``size`` if given.

    Args:
        class_names: one name for each output channel of the network.
        palette: one (red, green, blue) of 0..255 for each class.
        ignore_index: label value that marks unlabelled pixels (it may be one of the classes), or None.
        channels: 3 for RGB input, 1 for gray, or as many bands as the images have.
        scale: multiplies the 8-bit values; 1/255 gives 0..1.
        mean: subtracted after scaling, one value for each channel.
        std: divided by after that, one value for each channel.
        size: (height, width) that images are resized to first (bilinear), or None: as they are.
        size_multiple: images are padded (edge values) to a multiple of this on both axes and the result is cropped;
            1 for networks that take any size.
        label_values: the value that each class has in label maps, where it is not the number of the class.
        value_range: (black, white) in the values of image files, where they are not 0 and all bits, or 0 and 1 of
            floats.
        rank: 2 for images, 3 for volumes (depth, height, width).
        multi_label: whether labels are a mask of 0 and 1 for each class, (*spatial, classes).

    Raises:
        ValueError: numbers of names, colours, means or standard deviations do not fit together.

    >>> record = Preprocessing(class_names=("sky", "road"), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    >>> record.normalise(np.full((1, 1, 3), 255, np.uint8)).tolist()
    [[[2.0, 2.0, 2.0]]]
    >>> Preprocessing.from_dict(record.to_dict()) == record
    True
    """

    class_names: tuple[str, ...]
    palette: tuple[Colour, ...] = ()
    ignore_index: int | None = None
    channels: int = 3
    scale: float = 1 / 255
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    size: tuple[int, int] | None = None
    size_multiple: int = 1
    label_values: tuple[int, ...] | None = None
    value_range: tuple[float, float] | None = None
    rank: int = 2
    multi_label: bool = False

    def __post_init__(self):
        check_fields(self)
        defaults = {
            "palette": default_palette(self.classes),
            "mean": (0.0,) * self.channels,
            "std": (1.0,) * self.channels,
        }
        for name, value in defaults.items():
            object.__setattr__(self, name, getattr(self, name) or value)
        if not 1 <= self.channels <= MOST_BANDS:
            raise ValueError(f"channels={self.channels} must be 1 (gray), 3 (RGB) or the images' bands, at most 4096")
        if len(self.palette) != len(self.class_names):
            raise ValueError(f"palette has {len(self.palette)} colours for {len(self.class_names)} class names")
        for colour in self.palette:
            if not all(0 <= v <= 255 for v in colour):
                raise ValueError(f"palette colour {colour} is not three values of 0..255")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.channels:
                raise ValueError(
                    f"{name}={getattr(self, name)} must have one value for each of {self.channels} channels"
                )
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std={self.std} must be positive")
        for name, sizes in (("size_multiple", (self.size_multiple,)), ("size", self.size or ())):
            if not all(1 <= n <= LONGEST for n in sizes):
                raise ValueError(f"{name}={getattr(self, name)} must be within 1..{LONGEST}")
        values, ignored = self.label_values, self.ignore_index
        if values is not None and len(set(values)) != self.classes:
            raise ValueError(f"label_values={values} must be {self.classes} different values, one for each class")
        if values is not None and ignored is not None and ignored not in values and 0 <= ignored < self.classes:
            raise ValueError(
                f"ignore_index={ignored} is the number of class {self.class_names[ignored]!r} where label values are "
                f"{values}; write another value into the label maps"
            )
        if self.rank not in (2, 3) or (self.rank == 3 and self.size is not None):
            raise ValueError(f"rank={self.rank} must be 2, or 3 without a size")
        if self.multi_label and (values is not None or ignored in (0, 1)):
            raise ValueError(f"label_values={values} and ignore_index={ignored}: masks have the values 0 and 1")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"value_range={self.value_range} must be (black, white), black below white")

    @property
    def classes(self) -> int:
        """How many classes the network tells apart."""
        return len(self.class_names)

    @property
    def colours(self) -> bool:
        """Whether label maps are read as colours."""
        return any(value >= COLOUR for value in self.label_values or ())

    def normalise(self, pixels: Any) -> Any:
        """``(pixels * scale - mean) / std`` in float32; pixels (..., channels), numpy or jax."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return (pixels.astype(np.float32) * np.float32(self.scale) - mean) / std

    def classes_of(self, labels: np.ndarray, source: str) -> np.ndarray:
        """Each pixel's class (or the ignored index) from a label map's values; masks of 0 and 255 become 0 and 1.

        Raises:
            ValueError: a value is no class and not ignored; the message names ``source``.

        >>> record = Preprocessing(class_names=("background", "cell"), label_values=(0, 255))
        >>> record.classes_of(np.array([0, 255]), "a test").tolist()
        [0, 1]
        """
        if self.multi_label and self.ignore_index != 255:
            labels = np.where(labels == 255, 1, labels)
        ignored = [] if self.ignore_index is None else [self.ignore_index]
        count = 2 if self.multi_label else self.classes
        values = [*(self.label_values or range(count)), *ignored]
        legal = _among(labels, values)
        bad = [] if legal.all() else np.unique(labels[~legal]).tolist()
        shown = told_list(map(told_label, bad))
        if self.label_values is None:
            if bad:
                place = np.argwhere(~legal)[0].tolist()
                first = f"row {place[0]}, column {place[1]}" if len(place) == 2 else str(tuple(place))
                raise ValueError(
                    f"{source}: label {shown} out of range at {(~legal).sum()} pixels, first at {first}; legal are "
                    f"0..{count - 1} ({f'ignored index {ignored[0]}' if ignored else 'no ignored index'})"
                )
            return labels
        if bad:
            raise ValueError(
                f"{source}: label {shown} is not among {', '.join(map(told_label, dict.fromkeys(values)))}"
            )
        classes = np.empty(labels.shape, np.int32)
        for number, value in reversed(list(enumerate(values))):  # an ignored value may be that of a class
            classes[labels == value] = number if number < self.classes else value
        return classes

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any], where: str = "the preprocessing record") -> "Preprocessing":
        """From `to_dict`'s values; unknown keys are refused with a message that names ``where``."""
        refuse_unknown(value, [field.name for field in dataclasses.fields(cls)], where)
        if "class_names" not in value:
            raise ValueError(f"{where} has no class_names")
        try:
            return cls(**value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{where}: {error}") from None
