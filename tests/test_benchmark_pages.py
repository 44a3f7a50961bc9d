"""Pages with figures say what the records say."""

import dataclasses
import importlib.util
import json
import pathlib

import pytest

from jaxconv.benchmark.runner import Row

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def tables(monkeypatch, tmp_path):
    """benchmarks/write_tables.py as a module."""
    spec = importlib.util.spec_from_file_location("write_tables", ROOT / "benchmarks" / "write_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_agree_with_the_records(tables):
    texts = [page.read_text("utf-8") for page in tables.PAGES]
    marks = [found[2] for text in texts for found in tables.MARK.finditer(text)]
    assert sorted(marks) == sorted(tables.TABLES)
    for text in texts:
        assert tables.filled(text) == text, "run python benchmarks/write_tables.py"


def test_tables_are_made_of_the_records(tables, monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(tables, "PICTURE", tmp_path / "scaling-cpu.png")
    page = "".join(f"<!-- table: {name} -->\nold\n<!-- end -->\n" for name in tables.TABLES)
    said = tables.filled(page)
    assert said.count("Not recorded yet.") == len(tables.TABLES) - 1 and "CPU: not measured" in said
    about = {
        "platform": "cpu", "device": "a processor", "cores": 2, "date": "2026-01-01", "dtype": "float32",
        "versions": {"jax": "0.10.2"},
    }  # fmt: skip
    rows = [
        Row("up", task, None, 8, 8, {"apply": "taps", "adjoint": "phases", "kernel": "taps"},
            {"jaxconv": 2e-3, "lax": 8e-3, "torch": 1e-3}, {"jaxconv": 1.0, "lax": 0.5})
        for task in ("forward", "gradients")
    ]  # fmt: skip
    timed = {"seconds": {"jaxconv": 0.01, "accelerate": 0.012, "lax": 0.05, "torch": 0.02}}
    records = {
        "layers-cpu": {"peaks": {"multiply_adds": 1.0, "bytes": 1.0}, "unseen": [],
                       "real": [dataclasses.asdict(row) for row in rows]},
        "networks-cpu": {"networks": {"net, inference": timed | {"first_call": {"jaxconv": 3.0, "lax": 2.0}}}},
        "scaling-cpu": {"scaling": [{}] * 7, "cliffs": ["depthwise, forward: one cliff"]},
        "resize-cpu": {"resize": [{"case": "image", "scale": 2.0, "method": "linear", "task": "forward",
                                   "seconds": {"jaxconv": 1e-3, "jax": 4e-3}}]},
        "accelerate-cpu": {"libraries": {"haiku": {"difference": 2e-6, "faces": {"apply": 5, "kernel": 4},
                                                   "left_alone": 0,
                                                   "seconds": {"plain": 0.03, "accelerated": 0.02}}}},
        "bfloat16-cpu": {"layers": {"up": {task: {"jaxconv": 1.6e-3, "lax": 1.7e-3} for task in
                                           ("forward", "data gradient", "kernel gradient")}}},
    }  # fmt: skip
    records["bfloat16-layers-avx512bf16"] = records["layers-cpu"]
    known = [dataclasses.replace(row, layer="ASPP, r12") for row in rows]
    records["layers-cpu-avx2"] = records["layers-cpu"] | {"real": [dataclasses.asdict(row) for row in known]}
    answer = {"seconds": {"all": 2.0}, "temporary_bytes": 2**20, "uncounted": {}, "uncounted_bytes": 2**21}
    contenders = {"jaxconv": answer | {"cycles": 2000}, "lax": answer | {"cycles": 1000}}
    records["compiled-v5e"] = {"target": "v5e:2x2", "kind": "tpu", "batch_factor": 8, "rows": [
        {"what": "net", "task": "inference", "kind": "network", "contenders": contenders}]}  # fmt: skip
    records["models-v5e"] = {
        "target": "v5e:2x2",
        "kind": "tpu",
        "rows": [
            {"what": "net", "task": "training step", "kind": "model", "shape": [8, 9, 3], "contenders": contenders},
            {
                "what": "deep",
                "task": "training step",
                "kind": "model",
                "shape": [1, 9, 3],
                "contenders": {"jaxconv": contenders["jaxconv"], "lax": {"failed": "not compiled within 400 s"}},
            },
        ],
    }
    records["accelerator-card"] = {"sections": {"networks": {"dtype": "bfloat16", "rows": [
        {"what": "net", "task": "inference", "seconds": {"jaxconv": 1e-3, "lax": 3e-3}}]}}}  # fmt: skip
    for name, record in records.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(about | record))
    said = tables.filled(page)
    assert "old" not in said and "Not recorded" not in said
    for expected in (
        "| forward, against lax | >= 3, >= 0.9 | >= 6, >= 1 | 1 real layers | 4.00 | 4.00 | up | first version |",
        "| forward, 1 layers of published networks | 4.00 (4.00) | 0.50 (0.50) |",
        "| inference, 1 networks | 5.00 (5.00) | 2.00 (2.00) |",
        "| layer | forward, ms | lax | torch | gradients, ms | lax | torch |",
        "| up | 2.00 | 4.00 | 0.50 | 2.00 | 4.00 | 0.50 |",
        "| net, inference | 10.0 | 1.20 | 5.00 | 2.00 | 1.50 |",
        "1 findings over 7 points:\n\n- depthwise, forward: one cliff",
        "| linear | forward | jax.image.resize | 1 | 4.00 | 4.00 | image, x2 |",
        "| haiku | 30.0 | 20.0 | 1.50 | 2e-06 | 5 apply, 4 kernel |",
        "| data gradient | 1 | 1.60e-03 | 1.70e-03 | 0.94 (up) |",
        "| forward | torch | 1 | 0.50 | 0.50 | up |",
        "| dilated, 2-D | 1 | 0.50 | 4.00 | 0.50 | 4.00 | - | - | - | - |",
        "| networks, inference | 1 | - | - | - | - | 2.00 | 5.00 | - | - |",
        "2-core a processor, float32, 2026-01-01; jax 0.10.2",
        "| networks | inference | lax / jaxconv | 0.50 | 0.50 | net | 1 | 1 |",
        "Worse than lax by more than 2%: net, inference (0.50).",
        "| net, inference | 1 / - / 2 | 1 / - / 1 | 2 / - / 2 | 2 / - / 2 |",
        "| networks, bfloat16 | inference | lax | 1 | 3.00 | 3.00 | net |",
        "| net, inference | 1.00 | - | 3.00 | - |",
        "| net | 8 x 9 x 3 | 1 / 2 | 0.50 | 1 / 1 | 2 / 2 |",
        "Not compiled: deep (lax: not compiled within 400 s).",
        "The ratio is 0.50 on the geometric mean, 0.50 at the least (net), over 1 models.",
    ):
        assert expected in said, said
