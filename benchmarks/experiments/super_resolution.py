"""FSRCNN x2 from scratch on scikit-image's photographs, against bicubic; Set5 where it is on the machine."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image
from scipy import ndimage

import jaxconv as jc
from benchmarks.experiments.common import BATCH, example, packed, rounded, shared, spectrum_lines, train
from jaxconv.models import FSRCNN

NAME = "super_resolution"
SETTINGS = {
    "full": {"steps": 6000, "rate": 2e-3, "looks": 4},
    "reduced": {"steps": 100, "rate": 2e-3, "looks": 2},
    "smallest": {"steps": 2, "rate": 2e-3, "looks": 1},
}
PUBLISHED = "published weights"
VARIANTS, ONCE = ["FSRCNN x2", PUBLISHED], (PUBLISHED,)
EXAMPLE = example("super_resolution")


def luma_chroma(image):
    """Full-range YCbCr of RGB bytes (h, w, 3), as bytes clipped to the ranges of studio swing, over 255."""
    r, g, b = np.moveaxis(image.astype(np.float64), -1, 0)
    planes = [
        0.299 * r + 0.587 * g + 0.114 * b,
        128 - 0.168736 * r - 0.331264 * g + 0.5 * b,
        128 + 0.5 * r - 0.418688 * g - 0.081312 * b,
    ]
    planes = [np.trunc(p.clip(0, 255)).clip(16, top) for p, top in zip(planes, (235, 240, 240))]
    return np.stack(planes, -1) / 255


def blurred(image):
    """A 3-tap Gaussian of deviation 0.3 along both axes, rounded: what the published pairs were made with."""
    image = image.astype(np.float64)
    for axis in (0, 1):
        image = ndimage.gaussian_filter1d(image, 0.3, axis=axis, radius=1, mode="mirror")
    return np.rint(image)


def set5(larger):
    """Mean PSNR over the images' three planes, and over luma alone, of ``larger`` of each image (h, w, 3)."""
    found = []
    folder = shared("fsrcnn") / "set5_x2"
    for low in sorted((folder / "data").glob("*.png")):
        high = folder / "labels" / low.name.replace("LR", "HR")
        small = luma_chroma(blurred(np.asarray(Image.open(low).convert("RGB"))))
        truth = luma_chroma(np.asarray(Image.open(high).convert("RGB")))
        output = larger(small).clip(0, 1)
        error = (output - truth) ** 2
        found.append([-10 * np.log10(error.mean()), -10 * np.log10(error[..., 0].mean())])
    return dict(zip(("three planes", "luma"), np.round(np.mean(found, 0), 3).tolist()))


def bicubic(image):
    """An image (h, w) at twice its size."""
    return EXAMPLE.resized(image, tuple(2 * n for n in image.shape))


def planes(way):
    """``way`` of images (h, w), for images (h, w, 3): plane by plane."""
    return lambda image: np.stack([way(plane) for plane in np.moveaxis(image, -1, 0)], -1)


def boards(model, images, larger):
    """The predicted checkerboard, and the lines in the spectra of images (h, w, channels) made larger."""
    images = [image.astype(np.float32) for image in images]
    found = jc.analysis.checkerboard(
        model, jax.ShapeDtypeStruct((1, 32, 32, images[0].shape[-1]), jnp.float32), fixes=False, draws=4,
        images=[image[None] for image in images],
    )  # fmt: skip
    lines = spectrum_lines(np.stack([larger(image[:32, :32]) for image in images]), 2)
    found = {"score": found.score, "pattern": found.pattern, "spread": found.spread, **lines}
    return rounded(found)


def compiled(model):
    """The model as a function of images (h, w, channels)."""

    @nnx.jit
    def run(model, image):
        return model(image[None])[0]

    return lambda image: np.asarray(run(model, jnp.asarray(image, jnp.float32)))


def published():
    """The weights of Set5's folder, on Set5."""
    from jaxconv.convert import load_tensors, read_checkpoint

    model = nnx.eval_shape(lambda: FSRCNN(2, rngs=nnx.Rngs(0)))
    load_tensors(model, read_checkpoint(shared("fsrcnn") / "FSRCNN-x2.pt").tensors)
    larger = compiled(model)
    scores = {f"Set5, {name}": value for name, value in set5(larger).items()}
    lows = sorted((shared("fsrcnn") / "set5_x2" / "data").glob("*.png"))
    images = [luma_chroma(np.asarray(Image.open(low).convert("RGB"))) for low in lows]
    return {"scores": scores, "checkerboard": boards(model, images, larger)}


def run(variant, seed, settings):
    """One training, scored on the photographs' test strips along the way; or the published weights."""
    if variant == PUBLISHED:
        return published()
    task = EXAMPLE.SuperResolution()
    model = FSRCNN(2, channels=1, rngs=nnx.Rngs(seed))
    first = 10**6 * seed
    parts = [task.batch(first + BATCH * n, BATCH) for n in range(min(settings["steps"], 1000))]
    pairs = tuple(np.concatenate(part) for part in zip(*parts))
    of_images = compiled(model)

    def larger(image):
        return of_images(image[..., None])[..., 0]

    def score(way):
        return float(np.mean([EXAMPLE.psnr(way(EXAMPLE.halved(part)), part) for part in task.parts["test"]]))

    curve, steps, looks = [], settings["steps"], settings["looks"]
    at = {steps * n // looks: lambda n=n: curve.append([steps * n // looks, round(score(larger), 3)])
          for n in range(1, looks)}  # fmt: skip
    logged = train(
        model, steps, pairs, lambda output, target: ((output - target) ** 2).mean(), rate=settings["rate"], at=at
    )
    scores = {"psnr": round(score(larger), 3), "bicubic": round(score(bicubic), 3)}
    with contextlib.suppress(FileNotFoundError):  # the training needs no Set5
        scores |= {f"Set5, {name}": value for name, value in set5(planes(larger)).items()}
        scores |= {f"Set5 bicubic, {name}": value for name, value in set5(planes(bicubic)).items()}
    found = {"scores": scores, **logged, "curve": [*curve, [steps, scores["psnr"]]]}
    found["checkerboard"] = boards(model, [EXAMPLE.halved(part)[..., None] for part in task.parts["test"]], of_images)
    if seed == 0:
        truth = task.parts["test"][0][:96, :96]
        low = EXAMPLE.halved(truth)
        row = [bicubic(low), larger(low), truth]
        found["picture"] = packed(np.clip(np.rint(255 * np.concatenate(row, 1)), 0, 255))
    return found
