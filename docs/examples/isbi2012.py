"""Scores of a run on the electron micrographs of ISBI 2012, as the challenge means them: pixels, and cells.

python docs/examples/isbi2012.py folder SOURCE isbi2012     # SOURCE/image/N.png, SOURCE/label/N.png, N = 0..29
jaxconv train --config isbi2012_unet --data isbi2012 --out runs/isbi
python docs/examples/isbi2012.py scores runs/isbi isbi2012
"""

import pathlib
import shutil
import sys

import numpy as np


def folder(source, out):
    """24 slices to train on, the last 6 to score, in the layout of `jaxconv train`."""
    for number in range(30):
        split = "train" if number < 24 else "val"
        for part, kind in ((split, "image"), (f"{split}annot", "label")):
            path = pathlib.Path(out, part, f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(pathlib.Path(source, kind, path.name), path)


def cell_scores(inside, truth):
    """Pixel error, and of the connected cells inside: Rand F score and information F score, where truth has cells.

    Source: Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for connectomics"
    (2015), section 2.4, without the thinning of borders.
    """
    from scipy.stats import entropy
    from skimage.measure import label
    from skimage.metrics import adapted_rand_error, variation_of_information

    found, cells = label(inside, connectivity=1), label(truth, connectivity=1)
    rand = 1 - adapted_rand_error(cells, found)[0]  # ignores what truth has as border
    inner = cells > 0
    _, lost = variation_of_information(cells[inner], found[inner])  # H(found | cells), H(cells | found)
    bits = [entropy(np.unique(part[inner], return_counts=True)[1], base=2) for part in (cells, found)]
    shared = bits[0] - lost
    return np.array([np.mean(inside != truth), rand, 2 * shared / max(bits[0] + bits[1], 1e-9)])


def scores(run, root):
    """The threshold that is best on training slices, and the scores of the others with it."""
    from jaxconv.train import predict

    def of(split, numbers):
        images = [pathlib.Path(root, split, f"{number}.png") for number in numbers]
        out = pathlib.Path(run, "predicted")
        predict(run, images, out, probabilities=True, flips="both", say=lambda line: None)
        arrays = [np.load(out / f"{number}_probabilities.npy")[..., 1] for number in numbers]
        from PIL import Image

        truths = [np.asarray(Image.open(pathlib.Path(root, f"{split}annot", f"{n}.png"))) > 127 for n in numbers]
        return lambda level: np.mean([cell_scores(p > level, t) for p, t in zip(arrays, truths, strict=True)], axis=0)

    levels = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
    tried, rest = of("train", range(20, 24)), of("val", range(24, 30))
    best = max(levels, key=lambda level: tried(level)[1])
    for level in dict.fromkeys((0.5, best)):
        told = ", ".join(
            f"{name} {value:.4f}" for name, value in zip(("pixel error", "Rand F", "information F"), rest(level))
        )
        print(f"cells where the probability is above {level}: {told}")


if __name__ == "__main__":
    {"folder": folder, "scores": scores}[sys.argv[1]](*sys.argv[2:])
