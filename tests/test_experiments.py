"""The experiments run, are not repeated, and their pages say what the records say."""

import importlib
import pathlib

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


def test_lines_of_an_upsampling_stand_out_of_noise(experiments):
    common, pages = experiments("common"), experiments("pages")
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
