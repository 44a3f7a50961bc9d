"""Draw the pictures of docs/matrix-and-operator.md and print the numbers beside them.

Run from the top of the checkout: ``python docs/pictures/make_matrix_figures.py``. The photograph is scikit-image's
`camera`.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import skimage.data
import skimage.transform

import jaxconv as jc
from jaxconv import figures
from jaxconv.linear.spectrum import reshaped_kernel_norm

HERE = pathlib.Path(__file__).parent


def save(figure, name):
    """Write a figure beside this script."""
    figure.savefig(HERE / f"{name}.png", dpi=80)


def draw_arithmetic():
    """The matrix, the connections, the recipe and two animations of small cases."""
    counted = jnp.arange(1.0, 10.0).reshape(3, 3, 1, 1)
    save(figures.matrix_pair(jc.ConvOperator(counted, (4, 4))), "matrix_pair")
    save(figures.fan(jc.ConvOperator(jnp.ones((3, 1, 1)), 9, stride=2, padding=1)), "fan")
    small = np.arange(1.0, 5.0).reshape(2, 2)
    recipe = figures.transpose_recipe(small, counted[..., 0, 0], stride=2, padding=1, output_padding=1)
    save(recipe, "transpose_recipe")
    strided = jc.ConvOperator(
        counted, (5, 6), stride=(2, 1), dilation=(1, 2), padding=((1, 2), (2, -1)), padding_mode="reflect"
    )
    figures.animate(strided, HERE / "convolution.gif", fps=2)
    figures.animate(jc.ConvOperator(counted, (6, 6), stride=2, padding=1).T, HERE / "transpose.gif", fps=3)


def draw_spectrum():
    """Power iteration on the operator and on the reshaped kernel; singular values with and without stride."""
    w = jax.random.normal(jax.random.key(0), (3, 3, 8, 8)) / 8
    layer = jc.ConvOperator(w, (16, 16), padding=1)
    save(figures.norm_convergence(layer), "norm_convergence")
    print(f"norm {float(layer.norm()):.4f}, reshaped kernel {float(reshaped_kernel_norm(w)):.4f}")
    circular = {"padding": 1, "padding_mode": "circular"}
    pair = {f"stride {s}": jc.ConvOperator(w, (16, 16), stride=s, **circular) for s in (1, 2)}
    save(figures.spectrum_plot(pair), "spectrum")


def draw_deconvolution():
    """A blurred photograph, its transposed convolution, the pseudo-inverse and the damped inverse."""
    photograph = skimage.transform.resize(skimage.data.camera(), (128, 128), anti_aliasing=True)
    image = photograph.astype(np.float32)[..., None]
    profile = np.exp(-0.5 * np.arange(-4, 5) ** 2)
    kernel = (profile[:, None] * profile / profile.sum() ** 2).astype(np.float32)[..., None, None]
    blur = jc.ConvOperator(kernel, (128, 128), padding="SAME", padding_mode="reflect")
    noise = np.random.default_rng(0).normal(0, 1e-3, image.shape).astype(np.float32)
    observed = blur @ image + noise
    inverse, damped = (blur.lstsq(observed, damp=damp, max_steps=200) for damp in (0.0, 0.02))
    restored = {"pseudo-inverse (200 steps)": inverse.x, "Tikhonov, damp 0.02": damped.x}
    figure = figures.deconvolution(blur, image, observed, restored)
    save(figure, "deconvolution")
    print([ax.get_title() for ax in figure.axes], "steps:", int(inverse.steps), int(damped.steps))


if __name__ == "__main__":
    draw_arithmetic()
    draw_spectrum()
    draw_deconvolution()
