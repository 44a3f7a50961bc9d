"""Prediction on images of any size: tiles, memmaps, folders, probabilities, flips, scales; exported programs."""

import re
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("flax")
pytest.importorskip("safetensors")
pytest.importorskip("PIL")
import jax
import jax.numpy as jnp
from flax import nnx
from PIL import Image

from jaxconv.models import UNet
from jaxconv.train import Preprocessing, export, predict, save_run
from jaxconv.train.inference import Inference

RECORD = Preprocessing(class_names=("a", "b", "c"), size_multiple=2, mean=(0.4,) * 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (61, 90, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    """A U-Net whose weights are drawn by NumPy: no initialiser is compiled."""
    graph, state = nnx.split(nnx.eval_shape(lambda: UNet(3, 3, widths=[4, 6], rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(1)
    model = nnx.merge(graph, jax.tree.map(lambda x: jnp.asarray(rng.uniform(-0.3, 0.5, x.shape), x.dtype) ** 2, state))
    model.eval()
    return model


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    kwargs = {"in_channels": 3, "classes": 3, "widths": [4, 6]}
    folder = tmp_path_factory.mktemp("run") / "run"
    return save_run(folder, model, model_name="unet", model_kwargs=kwargs, preprocessing=RECORD)


def _softmax(model, pixels):
    """The definition: pad, compute whole, crop."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, [(0, height % 2), (0, width % 2), (0, 0)], "edge")
    return np.asarray(jax.nn.softmax(model(jnp.asarray(RECORD.normalise(padded[None])))))[0, :height, :width]


def test_tiles_have_the_labels_and_probabilities_of_the_whole(model):
    expected = _softmax(model, PIXELS)
    tiled, whole = (Inference(model, RECORD, tile=tile) for tile in (24, 0))
    for inference in (tiled, whole):
        np.testing.assert_allclose(inference.probabilities(PIXELS), expected, atol=2e-6)
        np.testing.assert_array_equal(inference.labels(PIXELS), expected.argmax(-1))


def test_flips_and_scales_are_means_over_transformed_images(model):
    expected = sum(
        _softmax(model, PIXELS[::down, ::right])[::down, ::right] for down in (1, -1) for right in (1, -1)
    )  # fmt: skip
    both = Inference(model, RECORD, flips="both", tile=24)
    np.testing.assert_allclose(both.probabilities(PIXELS), expected / 4, atol=2e-6)
    np.testing.assert_array_equal(both.labels(PIXELS), expected.argmax(-1))
    from jaxconv.train.reading import resize_image

    small = resize_image(_softmax(model, resize_image(PIXELS, (30, 45))), (61, 90))
    scaled = Inference(model, RECORD, scales=(1.0, 0.5))
    np.testing.assert_allclose(scaled.probabilities(PIXELS), (_softmax(model, PIXELS) + small) / 2, atol=2e-6)


def test_a_network_that_cannot_be_cut_is_computed_whole_and_says_so():
    class Coordinates(nnx.Module):
        """Adds the row's number: no tile knows it."""

        def __call__(self, x):
            rows = jnp.arange(x.shape[1], dtype=x.dtype)[None, :, None, None]
            return jnp.concatenate([x[..., :1] * 9, rows + 0 * x[..., :1], 20 - rows + 0 * x[..., :1]], -1)

    said = []
    large = np.broadcast_to(PIXELS[:1, :1], (1030, 1030, 3))
    labels = Inference(Coordinates(), RECORD, say=said.append).labels(large)
    assert labels[0, 0] == 2 and labels[100, 0] == 1
    assert "computed whole" in said[0]
    with pytest.raises(ValueError, match="tile=64: .*give 0"):
        Inference(Coordinates(), RECORD, tile=64).labels(large)


def test_arrays_and_folders_are_read_as_files_are(run, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(PIXELS).save(tmp_path / "in" / "picture.png")
    np.save(tmp_path / "in" / "bytes.npy", PIXELS)
    np.save(tmp_path / "in" / "deep.npy", PIXELS.astype(np.uint16) * 257)
    np.save(tmp_path / "in" / "unit.npy", PIXELS / 255)
    out = tmp_path / "out"
    written = predict(run, [tmp_path / "in"], out, labels=True, probabilities=True, say=lambda line: None)
    assert [path.name for path in written] == [f"{n}_overlay.png" for n in ("bytes", "deep", "picture", "unit")]
    picture = np.asarray(Image.open(out / "picture_labels.png"))
    found = np.load(out / "picture_probabilities.npy")
    assert found.shape == (61, 90, 3) and (found.argmax(-1) == picture).all()
    for name in ("bytes", "deep", "unit"):
        np.testing.assert_array_equal(np.asarray(Image.open(out / f"{name}_labels.png")), picture)
    assert not list(out.glob(".tmp*"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5, 6), np.uint8), r"is uint8 of shape \(4, 5, 6\); needed are \(height, width, 3\)"),
        (np.full((4, 5), 7.0), "holds values 7..7; floats are 0..1"),
        (np.full((4, 5), np.nan), "holds values nan"),
        (np.zeros((4, 5), np.int64), r"holds values 0..0.*--set value_range"),
        (np.zeros((4, 5), np.complex64), "is complex64"),
        (np.array([{}]), "cannot be read"),
    ],
)
def test_arrays_that_are_no_images_are_refused_by_name(run, tmp_path, array, message):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=f"x.npy {message}"):
        predict(run, [tmp_path / "x.npy"], tmp_path / "out")


def test_options_out_of_range_and_folders_of_results_are_refused(run, model, tmp_path):
    for options, message in (
        ({"tile": -1}, "tile=-1"),
        ({"scales": (0.0,)}, "scales"),
        ({"flips": "up"}, "flips='up'"),
    ):
        with pytest.raises(ValueError, match=message):
            Inference(model, RECORD, **options)
    with pytest.raises(ValueError, match="is the folder of the images"):
        predict(run, [tmp_path], tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no image"):
        predict(run, [tmp_path], tmp_path / "out")


LOADED = """
import sys
import numpy as np
from load import load

segment, about = load()
images = np.load(sys.argv[1])
np.save(sys.argv[2], np.stack([*segment(images), *segment(images[:1])]))
print(about["class_names"], *sorted({name.partition(".")[0] for name in sys.modules} & {"jaxconv", "flax", "PIL"}))
"""


def test_an_exported_program_runs_in_a_process_that_has_jax_alone(run, model, tmp_path):
    pytest.importorskip("flatbuffers")
    images = np.stack([PIXELS[i : i + 31, i : i + 40] for i in (0, 9, 20)])
    written = export(run, tmp_path, size=(31, 40))
    exported = jax.export.deserialize(bytearray(written.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    called = set(re.findall(r"custom_call @(\w+)", exported.mlir_module()))
    assert called <= {"shape_assertion"}  # jax's own, of the open batch
    np.save(tmp_path / "images.npy", images)
    arguments = [sys.executable, "-c", LOADED, "images.npy", "labels.npy"]
    done = subprocess.run(arguments, cwd=tmp_path, env={"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['a', 'b', 'c']\n"
    expected = [_softmax(model, image).argmax(-1) for image in images]
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), [*expected, expected[0]])


def test_export_refuses_what_it_cannot_know(run, tmp_path):
    with pytest.raises(ValueError, match="give --size"):
        export(run, tmp_path)
    with pytest.raises(ValueError, match="platforms"):
        export(run, tmp_path, size=(8, 8), platforms=("gpu",))
    with pytest.raises(ValueError, match="size="):
        export(run, tmp_path, size=(0, 8))
    assert not list(tmp_path.iterdir())
