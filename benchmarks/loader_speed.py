"""Images a second of a folder's loader, beside what decoding alone allows.

Run from the top of the checkout: ``python benchmarks/loader_speed.py FOLDER CROP_HEIGHT CROP_WIDTH``. Batches of 12
crops with flips; the first pass decodes each image once, later ones cut from memory. The limit is Pillow reading the
same files with the same threads. Each row is the best of five.
"""

import sys
import time

import numpy as np
from PIL import Image

from jaxconv.train.config import TrainConfig
from jaxconv.train.crops import readers
from jaxconv.train.folder import describe_folder, find_pairs, folder_crops


def decode(pair):
    image, label = (Image.open(path) for path in pair)
    return np.asarray(image.convert("RGB")), np.asarray(label)


def rates(runs, images, repeats=5):
    """The best rates of each run; all take their turns, so that what disturbs one disturbs all."""
    found = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            found[name].append((images / (time.process_time() - cpu), images / (time.perf_counter() - wall)))
    return {name: map(max, zip(*pairs, strict=True)) for name, pairs in found.items()}


def main():
    folder, *crop = sys.argv[1:]
    crop = tuple(map(int, crop))
    pairs = find_pairs(folder, "train")
    record = describe_folder(TrainConfig(data=folder))
    count = len(pairs) // 12 * 12

    def passes(crops):
        for start in range(0, count, 12):
            crops.batch(start, 12)

    print("| what | images per second of processor time | images per second |\n|---|---|---|")
    rows = {
        "decoding alone (Pillow)": lambda: list(readers().map(decode, pairs[:count])),
        "loader, first pass": lambda: passes(folder_crops(pairs, record, crop)),
    }
    kept = folder_crops(pairs, record, crop)
    for number in range(len(pairs)):
        kept.example(number)
    rows["loader, later passes"] = lambda: passes(kept)
    for name, found in rates(rows, count).items():
        print("| {} | {:.0f} | {:.0f} |".format(name, *found))


if __name__ == "__main__":
    main()
