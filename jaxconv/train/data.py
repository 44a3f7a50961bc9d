"""What a run learns from: the embedded mosaics, or a folder. Both are functions of the example's number."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from jaxconv.train import folder, mosaic
from jaxconv.train.augment import Augment
from jaxconv.train.config import TrainConfig
from jaxconv.train.crops import Crops
from jaxconv.train.record import Preprocessing

Examples = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]


class Batches(Protocol):
    """Training examples by number."""

    def batch(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Examples ``start .. start + count - 1``: images (count, *spatial, channels), labels (count, *spatial), or
        with a mask of each class (count, *spatial, classes).

        Images are uint8, or float32 in the same units.
        """
        ...

    def names(self, start: int, count: int) -> list[str]:
        """What these examples are made of: files, or numbers of mosaics."""
        ...


@dataclasses.dataclass(frozen=True)
class Data:
    """Training batches and the images that score a network.

    Args:
        record: preprocessing and classes.
        train: see `Batches`.
        val: makes an iterator over (image, labels) pairs, scored during training.
        test: the same, scored at the end.
        train_labels: makes an iterator over label maps, for class weights.
        scored: name of the split that ``test`` is.
        sizes: some of the different spatial sizes of the images that score.
    """

    record: Preprocessing
    train: Batches
    val: Examples
    test: Examples
    train_labels: Callable[[], Iterator[np.ndarray]]
    scored: str
    sizes: tuple[tuple[int, ...], ...]


def load_data(config: TrainConfig, record: Preprocessing | None = None) -> Data:
    """The data of a config; ``record`` is that of an earlier start of the same run, if there is one."""
    return _mosaics(config) if config.data is None else _folder(config, config.data, record)


def source_data(
    train: Any,
    val: Any,
    record: Preprocessing,
    crop: tuple[int, ...],
    *,
    test: Any = None,
    seed: int = 0,
    augment: str = "hflip",
) -> Data:
    """The data of sources of one's own: a list, grain's and PyTorch's data sets, or whatever counts and indexes.

    Args:
        train: ``source[i]`` is (image, labels), i = 0 .. ``len(source)`` - 1: an image (h, w, channels) of uint8, or
            float32 in the same units, and its classes (h, w), whole numbers; of more axes as ``record`` says. It may be
            read by several threads.
        val: the same, scored during training.
        record: names of the classes, channels and normalisation.
        crop: (height, width) of training examples, or (depth, height, width).
        test: scored at the end; ``val`` without it.
        seed: of order, crops and augmentation.
        augment: as `TrainConfig`'s.

    Raises:
        ValueError: a source is empty, ``crop`` has another rank than ``record``, or (when it is read) an example is no
            such pair.

    Example:
        >>> pair = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.int32)
        >>> record = Preprocessing(class_names=("background", "cell"))
        >>> source_data([pair], [pair], record, (4, 4)).train.batch(0, 2)[0].shape
        (2, 4, 4, 3)
    """
    if len(crop) != record.rank:
        raise ValueError(f"crop={crop} is of examples with {record.rank} axes (the record's rank)")
    sources = {"train": train, "val": val} | ({} if test is None else {"test": test})
    for name, source in sources.items():
        if not len(source):
            raise ValueError(f"the source {name} is empty")

    def reader(name: str) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
        def read(index: int) -> tuple[np.ndarray, np.ndarray]:
            image, labels = sources[name][index]
            return folder.checked_pair(image, labels, record, f"{name}[{index}]")

        return read

    def examples(name: str) -> Examples:
        return lambda: map(reader(name), range(len(sources[name])))

    last = "val" if test is None else "test"
    sizes = sorted({reader(name)(0)[0].shape[:-1] for name in ("val", last)})
    names = [f"train[{index}]" for index in range(len(train))]
    return Data(
        record=record,
        train=Crops(names, reader("train"), record, crop, seed, augment=Augment.of(augment)),
        val=examples("val"),
        test=examples(last),
        train_labels=lambda: (labels for _, labels in examples("train")()),
        scored=last,
        sizes=tuple(sizes),
    )


def mosaic_examples(split: str, size: int, count: int, seed: int = 0) -> Examples:
    """The first ``count`` mosaics of a split, as (image, labels) pairs."""
    source = mosaic.Mosaics.of_photographs(split, seed=seed, size=size)
    return lambda: map(source.example, range(count))


def folder_examples(pairs: list, record: Preprocessing) -> Examples:
    """Whole images with their label maps."""
    return lambda: (folder.read_pair(image, label, record) for image, label in pairs)


def _mosaics(config: TrainConfig) -> Data:
    size = config.crop[0]
    if config.crop != (size, size):
        raise ValueError(f"crop={config.crop}: mosaics are square (give --data FOLDER to train on images of your own)")
    augment = None if config.augment is None else Augment.of(config.augment)
    train = mosaic.Mosaics.of_photographs("train", seed=config.seed, size=size, augment=augment)
    # The images that score are the same for every seed of training.
    return Data(
        record=mosaic.mosaic_preprocessing(),
        train=train,
        val=mosaic_examples("val", size, config.eval_images),
        test=mosaic_examples("test", size, config.test_images),
        train_labels=lambda: (train.mosaic(index)[1] for index in range(100)),
        scored="test",
        sizes=((size, size),),
    )


def _folder(config: TrainConfig, root: str, record: Preprocessing | None) -> Data:
    pairs = folder.find_pairs(root, config.split)
    scored = folder.find_pairs(root, config.val_split)
    last = config.test_split or config.val_split
    tested = folder.find_pairs(root, last)
    if record is None:
        record = folder.describe_folder(config)
        for split in (scored, tested):
            if not any([folder.check_labels(label, record) for _, label in split]):
                raise ValueError(f"{split[0][1].parent}: every pixel has the ignored label; nothing can be scored")
    # Label maps have the sizes of their images.
    shapes = [folder.label_counts(label, record.colours, record.rank)[1] for _, label in scored + tested]
    sizes = sorted({shape[: record.rank] for shape in shapes})
    # Spread over the split: neighbours are often frames of one film.
    some = scored[:: max(1, len(scored) // config.eval_images)][: config.eval_images]
    return Data(
        record=record,
        train=folder.folder_crops(pairs, record, config.crop, config.seed, config.augment or "hflip"),
        val=folder_examples(some, record),
        test=folder_examples(tested, record),
        train_labels=lambda: (
            record.classes_of(folder.read_labels(label, record.colours, record.rank), str(label)) for _, label in pairs
        ),
        scored=last,
        sizes=tuple(sizes[:2] + sizes[-2:]),
    )
