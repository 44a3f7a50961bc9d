"""Draw the picture of docs/explain.md: the page of a dilated stack on a photograph, as a browser shows it.

Run from the top of the checkout: ``python docs/pictures/make_explain.py``. It needs chromium; the photograph is
scikit-image's `astronaut`.
"""

import pathlib
import shutil
import subprocess
import tempfile

import jax
import jax.numpy as jnp
import skimage.data
from PIL import Image

import jaxconv as jc
from jaxconv.explain.collect import explain
from jaxconv.explain.page import write_page
from jaxconv.explain.target import Target

HERE = pathlib.Path(__file__).parent
SIZE = 96


def stack(x):
    """Three 3x3 convolutions of dilation 2."""
    for layer in range(3):
        w = jax.random.normal(jax.random.key(layer), (3, 3, x.shape[-1], 8)) / 5
        x = jax.nn.relu(jc.conv(x, w, padding="SAME", dilation=2))
    return x


def browse(page, picture, width=1120, height=1555):
    """What a browser shows of the top of a page."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no chromium is installed")
    with tempfile.TemporaryDirectory() as profile:
        options = (
            "--headless --no-sandbox --disable-gpu --hide-scrollbars --disable-background-networking --no-first-run"
        )
        look = [f"--window-size={width},{height}", f"--user-data-dir={profile}", f"--screenshot={picture}"]
        subprocess.run([browser, *options.split(), *look, f"file://{page}"], check=True, capture_output=True)


if __name__ == "__main__":
    photograph = Image.fromarray(skimage.data.astronaut()).resize((SIZE, SIZE))
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    found = explain(Target("nets.py:stack", stack, (image,), jnp.asarray(photograph)))
    with tempfile.TemporaryDirectory() as folder:
        page = write_page(found, pathlib.Path(folder) / "page.html")
        raw = pathlib.Path(folder) / "page.png"
        browse(page, raw)
        shown = Image.open(raw).convert("RGB")
        shown = shown.resize((shown.width * 3 // 4, shown.height * 3 // 4), Image.Resampling.LANCZOS)
        shown.quantize(256, method=Image.Quantize.FASTOCTREE).save(HERE / "explain.png", optimize=True)
