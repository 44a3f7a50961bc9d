"""``jaxconv data``: what a folder of images and label maps holds, before a network is trained on it."""

import dataclasses
import filecmp
import hashlib
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxconv.train import folder
from jaxconv.train.arrays import is_array, name_of, open_array, tiff_page
from jaxconv.train.config import TrainConfig
from jaxconv.train.reading import is_colour, label_counts, read_image
from jaxconv.train.record import Preprocessing, told_label, told_list, told_size

_ORIENTATION = 0x0112
_KINDS = {"1": "1-bit gray", "L": "8-bit gray", "P": "8-bit palette", "F": "float gray", "I": "32-bit gray"}


@dataclasses.dataclass
class Split:
    """One split: how many ``pairs`` and ``pixels``, how often each size and ``kind`` of image comes, how many are
    turned by EXIF, the pixels of each label (or mask), and the images by digest."""

    name: str
    pairs: int = 0
    pixels: int = 0
    sizes: Counter = dataclasses.field(default_factory=Counter)
    kinds: Counter = dataclasses.field(default_factory=Counter)
    turned: int = 0
    labels: Counter = dataclasses.field(default_factory=Counter)
    digests: dict[Any, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Survey:
    """What `survey` found: the ``splits``, what stops a training (``faults``), what a person should know (``notes``).

    ``record`` is the preprocessing that a run would have, or None where the labels allow none.
    """

    folder: str
    splits: list[Split]
    faults: list[str]
    notes: list[str]
    record: Preprocessing | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; sizes as "HEIGHTxWIDTH" or "DEPTHxHEIGHTxWIDTH"."""
        splits = {}
        for split in self.splits:
            sizes = {told_size(size): n for size, n in split.sizes.most_common()}
            labels = {told_label(value): n for value, n in sorted(split.labels.items())}
            about = {"pairs": split.pairs, "sizes": sizes, "kinds": dict(split.kinds.most_common())}
            splits[split.name] = about | {"turned": split.turned, "labels": labels}
        classes = None if self.record is None else list(self.record.class_names)
        return {"folder": self.folder, "splits": splits, "classes": classes, "faults": self.faults, "notes": self.notes}

    def lines(self) -> list[str]:
        """The short form: one line a split, and the notes."""
        told = []
        for split in self.splits:
            sizes = [told_size(size) for size, _ in split.sizes.most_common(2)]
            more = f" and {len(split.sizes) - 2} more sizes" if len(split.sizes) > 2 else ""
            told.append(f"{split.name}: {split.pairs} images, {', '.join(sizes)}{more}, {', '.join(split.kinds)}")
        return told + [f"note: {note}" for note in self.notes]


def survey(config: TrainConfig, *, thorough: bool = True) -> Survey:
    """Looks at the folder ``config.data`` as a training would read it, and goes on where that would stop.

    Args:
        config: says the folder, its splits, and how images and labels are read.
        thorough: decode every image, which finds damaged ones, and compare their pixels between splits; without it
            only headers are read and equal files found.

    Raises:
        FileNotFoundError, ValueError: there is no such folder, or ``config.data`` is None.
    """
    if config.data is None:
        raise ValueError("survey looks at a folder; the embedded mosaics need no look")
    if not Path(config.data).is_dir():
        raise FileNotFoundError(f"folder {config.data} does not exist")
    found = Survey(str(config.data), [], [], [], None)
    pairs: dict[str, list[tuple[Path, Path]]] = {}
    for name in dict.fromkeys(filter(None, (config.split, config.val_split, config.test_split))):
        try:
            pairs[name] = folder.find_pairs(config.data, name)
        except (OSError, ValueError) as error:
            found.faults.append(str(error))
    try:
        found.record = folder.describe_folder(config)
    except (OSError, ValueError) as error:
        found.faults += [] if str(error) in found.faults else [str(error)]
    for name, these in pairs.items():
        found.splits.append(split := Split(name, len(these)))
        for image, label in these:
            _look(image, label, split, config, found, thorough)
        _note(config, {name_of(image) for image, _ in these}, split, found)
    found.faults = list(dict.fromkeys(found.faults))
    _repeated(found)
    return found


def _look(image: Path, label: Path, split: Split, config: TrainConfig, found: Survey, thorough: bool) -> None:
    """One pair into the split's counts, and its faults."""
    record, rank = found.record, len(config.crop)
    try:
        kind, size, turned = header(image, rank)
        split.kinds[kind] += 1
        split.sizes[size] += 1
        split.turned += turned
        if thorough:
            pixels = read_image(image, config.channels, config.value_range, rank)
            split.digests.setdefault(hashlib.sha256(pixels.tobytes()).digest(), image.name)
        else:
            split.digests.setdefault(image.stat().st_size, str(image))
    except (OSError, ValueError) as error:
        found.faults.append(str(error))
        size = None
    try:
        colours = record.colours if record else is_colour(label)
        counts, shape, masks = label_counts(label, colours, rank)
        split.pixels += math.prod(shape[:rank])
        split.labels.update(dict(enumerate(masks)) if masks else counts)
        if size is not None and size != shape[:rank]:
            found.faults.append(f"label map {label} is {shape}, its image {image} {size}")
        if record is not None:
            folder.check_labels(label, record)
    except (OSError, ValueError) as error:
        found.faults.append(str(error))


def header(path: Path, rank: int = 2) -> tuple[str, tuple[int, ...], bool]:
    """What an image file says of itself: its kind ("16-bit gray"), its size as seen, whether EXIF turns it.

    Raises:
        ValueError: it cannot be read; the message names the file.
    """
    if is_array(path, rank):
        pixels = open_array(path, "image")
        return f"{pixels.dtype} array", (pixels.shape + (0,) * rank)[:rank], False
    if (found := tiff_page(path)) and (page := found[1]).samplesperpixel > 1 and page.dtype != np.uint8:
        return f"{page.dtype} with {page.samplesperpixel} bands", (page.imagelength, page.imagewidth), False
    from PIL import Image

    try:
        with Image.open(path) as image:
            turn = Image.Image.getexif(image).get(_ORIENTATION, 1)  # PngImageFile's own decodes the image
            size = (image.width, image.height) if turn in (5, 6, 7, 8) else (image.height, image.width)
            kind = _KINDS.get(image.mode, "16-bit gray" if image.mode.startswith("I;16") else f"8-bit {image.mode}")
            if image.format == "PNG":
                with path.open("rb") as file:
                    bits = file.read(25)[24]
                depth = f"{bits}-bit" if bits != 16 or image.mode.startswith("I") else "16-bit (read as 8)"
                kind = f"{depth} {kind.partition(' ')[2]}"
    except Exception as error:
        raise ValueError(f"image {path} cannot be read: {str(error).partition(chr(10))[0] or repr(error)}") from None
    return kind, size, turn in range(2, 9)


def _note(config: TrainConfig, images: set[str], split: Split, found: Survey) -> None:
    """What is legal in a split and still looks wrong; ``images`` are the names of its images."""
    record, told = found.record, []
    if split.name != config.split and len(split.sizes) > 4:
        shapes = {m: len({tuple(-(-n // m) for n in s) for s in split.sizes}) for m in (16, 32, 64, 128, 256)}
        few = next((m for m in shapes if shapes[m] <= 4), 256)
        if shapes[few] < len({tuple(-(-n // config.size_multiple) for n in size) for size in split.sizes}):
            told.append(
                f"{len(split.sizes)} sizes, each compiled; --set size_multiple={few} pads them to {shapes[few]}, here "
                "and in predict"
            )
    if split.turned:
        told.append(f"{split.turned} images are turned as their EXIF orientation says")
    if len(split.kinds) > 1:
        told.append(f"images of several kinds: {', '.join(split.kinds)}")
    for kind in split.kinds:
        if "read as 8" in kind:
            told.append("16-bit colour PNGs are read with 8 bits; TIFF keeps all of them")
        if kind.endswith(("RGBA", "LA", "PA")) and config.channels in (1, 3):
            told.append("images have transparency, which is left out")
    if record is not None and split.labels:
        values = record.label_values or tuple(range(record.classes))
        counted = [value for value in values if value != record.ignore_index]
        absent = [record.class_names[values.index(v)] for v in counted if not split.labels[v]]
        if absent:
            told.append(f"no pixel of {told_list(absent)}")
        ignored = split.labels[record.ignore_index] / split.pixels if record.ignore_index is not None else 0
        if ignored > 0.5:
            told.append(f"{ignored:.0%} of the pixels are not labelled")
        if set(split.labels) == {0, 255} and record.label_values is None:
            told.append("labels are 0 and 255; is 255 a class (--labels 0:NAME0,255:NAME1)?")
    annotations = Path(config.data or "") / f"{split.name}annot"
    files = [p for p in sorted(annotations.iterdir()) if p.name.lower().endswith(folder.LABEL_SUFFIXES)]
    spare = [p.name for p in files if name_of(p) not in images and not p.name.startswith(".")]
    if spare:
        told.append(f"{len(spare)} label maps have no image, {spare[0]} first")
    found.notes += [f"{split.name}: {text}" for text in told]


def _repeated(found: Survey) -> None:
    """The same image in two splits."""
    for place, one in enumerate(found.splits):
        for other in found.splits[place + 1 :]:
            both = [key for key in one.digests if key in other.digests]
            names = [
                (a, b)
                for key, a, b in ((key, one.digests[key], other.digests[key]) for key in both)
                if isinstance(key, bytes) or filecmp.cmp(a, b, shallow=False)
            ]
            if names:
                shown = f"{Path(names[0][0]).name} is {Path(names[0][1]).name}"
                found.notes.append(f"{len(names)} images of {one.name} are also in {other.name} ({shown})")


def look(config: TrainConfig, say: Callable[[str], None]) -> None:
    """The short form of `survey`, said before a training starts.

    Raises:
        ValueError: with the first fault, where there is one.
    """
    found = survey(config, thorough=False)
    for line in found.lines():
        say(line)
    if found.faults:
        more = f" ({len(found.faults) - 1} more: jaxconv data {found.folder})" if len(found.faults) > 1 else ""
        raise ValueError(found.faults[0] + more)


def data_command(config: TrainConfig, as_json: bool = False, picture: Path | None = None) -> None:
    """Prints the survey of a folder and draws eight samples.

    Raises:
        ValueError: a training would be refused, for what was printed.
    """
    import json

    from rich.console import Console

    from jaxconv._text import print_line, printable

    found = survey(config)
    if picture is not None and found.record is not None:
        draw_samples(picture, config, found)
    if as_json:
        print_line(json.dumps(found.to_dict(), indent=1))
    console = Console(quiet=as_json)
    for split in found.splits:
        console.print(_table(split, found.record))
    for line in found.lines() + [f"refused: {fault}" for fault in found.faults[:20]]:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    if len(found.faults) > 20:
        console.print(f"refused: {len(found.faults) - 20} more", highlight=False)
    if found.faults:
        raise ValueError(f"{found.folder}: a training would be refused, for {len(found.faults)} reasons")


def _table(split: Split, record: Preprocessing | None) -> Any:
    """The label histogram of a split."""
    from rich.table import Table
    from rich.text import Text

    from jaxconv._text import printable

    table = Table(title=Text(printable(f"{split.name}: {split.pairs} images, {split.pixels:,} pixels")))
    for head in ("label", "class", "pixels", "share", ""):
        table.add_column(head, justify="left" if head in ("class", "") else "right")
    values = () if record is None else record.label_values or tuple(range(record.classes))
    total = max(1, split.pixels)
    rows = sorted(set(values) | set(split.labels))
    for value in rows[:64]:
        known = record is not None and value in values
        name = record.class_names[values.index(value)] if record is not None and known else "?"
        if record is not None and value == record.ignore_index:
            name = "not labelled"
        share = split.labels[value] / total
        told = (told_label(value), Text(printable(name)), f"{split.labels[value]:,}", f"{share:.2%}")
        table.add_row(*told, "#" * round(30 * share))
    if len(rows) > 64:
        table.add_row("...", f"{len(rows) - 64} more")
    return table


def draw_samples(path: Path, config: TrainConfig, found: Survey, count: int = 8) -> None:
    """A picture of ``count`` training images, spread over the split, with their labels laid over."""
    from jaxconv.train.picture import save_samples

    assert found.record is not None and config.data is not None
    pairs, shown = folder.find_pairs(config.data, config.split), []
    for image, label in pairs[:: max(1, len(pairs) // count)]:
        try:
            shown.append((*folder.read_pair(image, label, found.record), image.name))
        except (OSError, ValueError):  # among the faults
            continue
    if shown:
        images, labels, names = map(list, zip(*shown[:count], strict=True))
        save_samples(path, images, labels, names, found.record)
