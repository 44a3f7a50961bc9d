"""U-Net on the micrographs of ISBI 2012: held-out slices whole, by exact tiles, and by tiles that know no others."""

import dataclasses
import pathlib
import sys
import tempfile

import jax
import numpy as np
from flax import nnx
from PIL import Image
from rich.console import Console

import jaxconv as jc
from benchmarks.experiments.common import example, rounded, shared
from jaxconv.train import load_config, load_run, train
from jaxconv.train.segment import network_function

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAME = "membranes"
SETTINGS = {
    "full": {"steps": 150, "tiles": [64, 128, 256], "tried": 4, "held_out": 6},
    "reduced": {"steps": 10, "tiles": [128], "tried": 1, "held_out": 1},
    "smallest": {"steps": 2, "tiles": [256], "tried": 1, "held_out": 1},
}
VARIANTS = ["U-Net"]
LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)


def apart(network, tile):
    """The network on each tile as if it were an image."""

    def call(image):
        rows = range(0, image.shape[1], tile)
        return np.block([[[np.asarray(network(image[:, r : r + tile, c : c + tile]))[0]] for c in rows] for r in rows])

    return call


def run(variant, seed, settings):
    """One training as configs/isbi2012_unet.py has it, then the slices that it has not seen, in every way."""
    isbi = example("isbi2012")
    config = load_config(ROOT / "configs" / "isbi2012_unet.py")
    with tempfile.TemporaryDirectory() as folder:
        isbi.folder(shared("isbi2012") / "train", f"{folder}/data")
        steps = settings["steps"]
        config = dataclasses.replace(
            config, data=f"{folder}/data", steps=steps, seed=seed, eval_every=steps, checkpoint_every=steps
        )
        train(config, f"{folder}/run", console=Console(file=sys.stderr, quiet=True))
        model, about = load_run(f"{folder}/run")

        def slices(split, numbers):
            parts = (split, f"{split}annot")
            return [[np.asarray(Image.open(f"{folder}/data/{part}/{n}.png")) for part in parts] for n in numbers]

        tried = slices("train", range(20, 20 + settings["tried"]))
        rest = slices("val", range(24, 24 + settings["held_out"]))
    graph, *states = nnx.split(model)
    function = network_function(graph, about.preprocessing, probabilities=True)
    whole = jax.jit(lambda image: function(image, *states)[..., 1:])
    ways = {"whole": lambda image: np.asarray(whole(image))[0]}
    for tile in settings["tiles"]:
        exact = jc.analysis.tiled(lambda image: whole(image), tile)
        ways[f"exact, {tile}"] = lambda image, exact=exact: np.asarray(exact(image))[0]
        ways[f"apart, {tile}"] = apart(whole, tile)

    def cells(maps, truths, level):
        return np.mean([isbi.cell_scores(m > level, t > 127) for m, t in zip(maps, truths)], axis=0)

    maps = [ways["whole"](image[None, ..., None])[..., 0] for image, _ in tried]
    level = max(LEVELS, key=lambda level: cells(maps, [label for _, label in tried], level)[1])
    found, first = {}, None
    for name, way in ways.items():
        maps = np.stack([way(image[None, ..., None])[..., 0] for image, _ in rest])
        first = maps if first is None else first
        truths = [label for _, label in rest]
        scores = dict(zip(("pixel", "rand", "information"), cells(maps, truths, level)))
        scores["pixel_half"] = cells(maps, truths, 0.5)[0]
        scores["differing"] = 100 * np.mean((maps > level) != (first > level))
        scores["largest"] = np.abs(maps - first).max()
        found[name] = rounded(scores)
    return {"scores": found["whole"], "ways": found, "level": level}
