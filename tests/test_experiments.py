"""The experiments run, are not repeated, and their pages say what the records say."""

import importlib
import pathlib
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def experiments(monkeypatch):
    """Modules of benchmarks/experiments by name."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"benchmarks.experiments.{name}")


@pytest.mark.slow
def test_a_run_is_recorded_once(experiments, tmp_path):
    common, bilinear = experiments("common"), experiments("bilinear")
    for _ in range(2):
        common.record(bilinear, ["frozen"], [0], "smallest", tmp_path, say=lambda line: None)
    (run,) = common.read("bilinear", tmp_path)
    assert run["settings"] == bilinear.SETTINGS["smallest"] and 0 <= run["scores"]["miou"] <= 1
    assert run["kernel"]["distance"] == 0 and run["kernel"]["alike"] == 1  # frozen: as it began


def test_runs_without_their_data_are_left_out_and_those_without_a_seed_run_once(experiments, tmp_path):
    common, said = experiments("common"), []

    def run(variant, seed, settings):
        if variant == "absent":
            raise FileNotFoundError("its data are not here")
        return {"scores": {}}

    found = SimpleNamespace(NAME="fake", SETTINGS={"full": {}}, ONCE=("once",), run=run)
    common.record(found, ["absent", "once", "twice"], [0, 1], "full", tmp_path, say=said.append)
    assert [run["variant"] for run in common.read("fake", tmp_path)] == ["once", "twice", "twice"]
    assert said[0] == "fake, absent: left out, its data are not here"


def test_the_frechet_distance_of_moved_features_is_their_way(experiments):
    features = np.random.default_rng(0).standard_normal((500, 3))
    frechet = experiments("digits").frechet
    assert abs(frechet(features, features)) < 1e-6 and abs(frechet(features, features + [3, 0, 4]) - 25) < 1e-6
    assert abs(frechet(features, 2 * features) - (features.mean(0) ** 2).sum() - features.var(0, ddof=1).sum()) < 1e-6


def test_ncnn_files_are_read(experiments, tmp_path):
    """A convolution with float32 weights, leaky, and a transposed one with half weights, against plain loops."""
    rng = np.random.default_rng(0)
    w, b, v = rng.standard_normal((2, 1, 3, 3)).astype("f"), np.float32([0.5, -1]), rng.standard_normal((1, 2, 2, 2))
    lines = ["7767517", "3 3", "Input in 0 1 in 0=4", "Convolution c 1 1 in a 0=2 1=3 4=1 5=1 6=18 9=2 -23310=1,0.1",
             "Deconvolution d 1 1 a out 0=1 1=2 3=2 5=0 6=8"]  # fmt: skip
    (tmp_path / "net.param").write_text("\n".join(lines))
    half = b"\x47\x6b\x30\x01" + v.astype("f2").tobytes()
    (tmp_path / "net.bin").write_bytes(bytes(4) + w.tobytes() + b.tobytes() + half)
    x = rng.standard_normal((4, 4)).astype("f")
    padded, middle, wanted = np.pad(x, 1), np.zeros((4, 4, 2)), np.zeros((8, 8))
    for r, c, o in np.ndindex(4, 4, 2):
        middle[r, c, o] = (padded[r : r + 3, c : c + 3] * w[o, 0]).sum() + b[o]
    middle = np.where(middle > 0, middle, 0.1 * middle)
    for r, c, i in np.ndindex(4, 4, 2):
        wanted[2 * r : 2 * r + 2, 2 * c : 2 * c + 2] += middle[r, c, i] * v[0, i].astype("f2")
    found = experiments("published").ncnn(tmp_path / "net.param")(x[None, ..., None])
    np.testing.assert_allclose(found[0, ..., 0], wanted, rtol=1e-4, atol=1e-4)


def test_lines_of_an_upsampling_stand_out_of_noise(experiments):
    common, pages = experiments("common"), experiments("page_upsamplers")
    noise = np.random.default_rng(0).standard_normal((16, 64, 64, 1))
    board = 0.5 * (-1.0) ** np.indices((64, 64)).sum(0)[..., None]
    found = pages.excess(common.spectrum_lines(noise + board, 2))
    assert abs(found - np.sqrt(0.25 / 1.25)) < 0.03  # the board's share of the power
    assert pages.excess(common.spectrum_lines(noise, 2)) < 0.1


def test_speckles_are_single_pixels_away_from_borders(experiments):
    common = experiments("common")
    labels = np.zeros((1, 16, 16), int)
    labels[:, :, 8:] = 1
    logits = np.eye(common.CLASSES)[labels]
    logits[0, 4, 3], logits[0, 4, 8] = np.eye(common.CLASSES)[[2, 2]]  # one in the calm, one at the border
    scores = common.segmentation_scores(logits, labels)
    assert scores["speckles"] == round(100 / (16 * 12), 4) and scores["accuracy"] == round(1 - 2 / 256, 4)


def test_pages_agree_with_the_records(experiments):
    pages, mark = experiments("pages"), importlib.import_module("benchmarks.write_tables").MARK
    texts = [page.read_text("utf-8") for page in pages.PAGES]
    marks = {found[2] for text in texts for found in mark.finditer(text)}
    assert marks <= set(pages.TABLES)
    for text in texts:
        assert pages.filled(text, pages.TABLES) == text, "run python -m benchmarks.experiments --pages"
        assert "Not recorded" not in text
