"""Conversion: every tensor placed in its layer's layout, or an error that lists what did not match."""

import json
import pickle
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from jaxconv import nn
from jaxconv.convert import convert_checkpoint, load_tensors, read_checkpoint, walk
from jaxconv.train import Preprocessing, load_run


class Small(nnx.Module):
    """One layer of each kind that has a rule; the order of definition is not alphabetical."""

    def __init__(self, rngs):
        self.stem = nn.Conv(2, 4, (3, 2), groups=2, rngs=rngs)
        self.norm = nn.batch_norm(4, rngs=rngs)
        self.body = nnx.Sequential(
            nn.Conv(4, 4, (1, 1), use_bias=False, rngs=rngs), nn.Conv(4, 4, (1, 1), use_bias=False, rngs=rngs)
        )
        self.act = nn.PReLU(4)
        self.again = nn.ConvTranspose(4, 6, (3, 2), stride=2, groups=2, rngs=rngs)
        self.dense = nnx.Linear(6, 5, rngs=rngs)


SHAPES = {
    "stem.weight": (4, 1, 3, 2), "stem.bias": (4,),
    "norm.weight": (4,), "norm.bias": (4,), "norm.running_mean": (4,), "norm.running_var": (4,),
    "norm.num_batches_tracked": (),
    "body.0.weight": (4, 4, 1, 1), "body.1.weight": (4, 4, 1, 1),
    "act.weight": (4,),
    "again.weight": (4, 3, 3, 2), "again.bias": (6,),
    "dense.weight": (5, 6), "dense.bias": (5,),
}  # fmt: skip


def small():
    return nnx.eval_shape(lambda: Small(nnx.Rngs(0)))


def checkpoint(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def value(model, path):
    node = model
    for part in path.split("."):
        node = node.layers[int(part)] if part.isdigit() else getattr(node, part)
    return np.asarray(node[...])


def check_values(model, tensors):
    """Each kernel element by its own index, which no transposition written twice the same wrong way would pass."""
    for o, i, a, b in np.ndindex(SHAPES["stem.weight"]):
        assert value(model, "stem.kernel")[a, b, i, o] == tensors["stem.weight"][o, i, a, b]
    for i, o, a, b in np.ndindex(SHAPES["again.weight"]):
        assert value(model, "again.kernel")[a, b, o, i] == tensors["again.weight"][i, o, a, b]
    np.testing.assert_array_equal(value(model, "dense.kernel"), tensors["dense.weight"].T)
    for mine, theirs in {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}.items():
        np.testing.assert_array_equal(value(model, f"norm.{mine}"), tensors[f"norm.{theirs}"])
    for i in (0, 1):
        np.testing.assert_array_equal(value(model, f"body.{i}.kernel")[0, 0], tensors[f"body.{i}.weight"][:, :, 0, 0].T)
    np.testing.assert_array_equal(value(model, "act.slope"), tensors["act.weight"])


def test_every_tensor_is_placed_by_name():
    model, tensors = small(), checkpoint()
    report = load_tensors(model, dict(reversed(tensors.items())))  # order plays no part where names agree
    assert report.ok and len(report.placed) == 13 and report.ignored == ("norm.num_batches_tracked",)
    assert {placement.by for placement in report.placed} == {"name"}
    check_values(model, tensors)


def test_other_names_are_matched_by_structure_and_order():
    model, tensors = small(), checkpoint()
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in tensors))
    strange = {f"m{layers.index(n.rpartition('.')[0])}.{n.rpartition('.')[2]}": tensors[n] for n in tensors}
    report = load_tensors(model, strange)
    assert report.ok and {placement.by for placement in report.placed} == {"structure"}
    assert "by structure" in str(report)
    check_values(model, tensors)
    # Without an order the two equal 1x1 convolutions stay open, and the message says why.
    with pytest.raises(ValueError, match="missing body.layers.0.kernel[^$]*does not keep the order"):
        load_tensors(small(), strange, ordered=False)


class Backwards(nnx.Module):
    """Two layers that only the order of definition tells apart, and it is not the alphabet's."""

    def __init__(self, rngs):
        self.second_by_name = nn.Conv(2, 2, (1,), rngs=rngs)
        self.first_by_name = nn.Conv(2, 2, (1,), rngs=rngs)


def test_structure_follows_the_order_of_definition():
    make = lambda: Backwards(nnx.Rngs(0))  # noqa: E731
    tensors = {f"{layer}.{n}": np.full((2, 2, 1) if n == "weight" else 2, i, np.float32)
               for i, layer in enumerate("xy") for n in ("weight", "bias")}  # fmt: skip
    for model in (nnx.eval_shape(make), make()):
        assert [layer.path for layer in walk(model)] == ["second_by_name", "first_by_name"]
        load_tensors(model, tensors)
        assert not value(model, "second_by_name.kernel").any() and value(model, "first_by_name.kernel").all()


def test_renaming_and_wrappers():
    model, tensors = small(), checkpoint()
    renamed = {
        f"module.{name.replace('again.', 'up.').replace('stem.', 'net.first.')}": a for name, a in tensors.items()
    }
    load_tensors(model, renamed, rename={"module.up": "again", "module.net.first": "stem"})
    check_values(model, tensors)
    load_tensors(small(), renamed, rename=lambda n: n.replace("up.", "again.").replace("net.first.", "stem."))


def test_the_error_lists_everything():
    tensors = checkpoint()
    tensors["stem.weight"] = np.zeros((4, 2, 3, 2), np.float32)
    tensors["extra.weight"] = np.zeros((4, 3, 3, 2), np.float32)
    del tensors["again.weight"], tensors["norm.running_var"]
    model = small()
    with pytest.raises(ValueError) as caught:
        load_tensors(model, tensors, source="weights.pth")
    message = str(caught.value)
    for line in (
        "weights.pth does not fit the model",
        "missing again.kernel (4, 3, 3, 2)",
        "missing norm.var (4,)",
        "unexpected extra.weight (4, 3, 3, 2)",
        "mis-shaped stem.weight (4, 2, 3, 2): stem.kernel needs (4, 1, 3, 2)",
        "extra.weight has the shape that again.kernel needs",
    ):
        assert line in message, message
    assert "placed 10" in message and "missing 2" in message

    report = load_tensors(model, tensors, dry_run=True)
    assert not report.ok and str(report).count("\n") == 10 + 4 + 1
    report = load_tensors(nnx_filled := Small(_fast_rngs()), tensors, strict=False)
    np.testing.assert_array_equal(value(nnx_filled, "act.slope"), tensors["act.weight"])
    assert len(report.placed) == 10


def _fast_rngs():
    import jax

    return nnx.Rngs(jax.random.key(0, impl="rbg"))


def test_a_dry_run_changes_nothing():
    model = Small(_fast_rngs())
    before = {name: np.asarray(v[...]) for name, v in vars(model.dense).items() if isinstance(v, nnx.Variable)}
    assert load_tensors(model, checkpoint(), dry_run=True).ok
    for name, array in before.items():
        np.testing.assert_array_equal(value(model, f"dense.{name}"), array)


def test_keras_names_and_layouts():
    model = small()
    shapes = {
        "stem/kernel": (3, 2, 1, 4), "stem/bias": (4,), "norm/gamma": (4,), "norm/beta": (4,), "norm/moving_mean": (4,),
        "norm/moving_variance": (4,), "body/0/kernel": (1, 1, 4, 4), "body/1/kernel": (1, 1, 4, 4), "act/alpha": (4,),
        "again/kernel": (3, 2, 3, 4), "again/bias": (6,), "dense/kernel": (6, 5), "dense/bias": (5,),
    }  # fmt: skip
    tensors = {name: np.random.default_rng(i).normal(size=shape) for i, (name, shape) in enumerate(shapes.items())}
    assert load_tensors(model, tensors, convention="keras").ok
    for mine, theirs in {
        "stem.kernel": "stem/kernel",
        "again.kernel": "again/kernel",
        "norm.var": "norm/moving_variance",
    }.items():
        np.testing.assert_array_equal(value(model, mine), tensors[theirs].astype(np.float32))
    with pytest.raises(ValueError, match="'caffe'"):
        walk(model, "caffe")


def test_parameter_dtype_is_kept():
    model = nnx.eval_shape(lambda: nn.Conv(2, 3, (1,), param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    load_tensors(model, {"weight": np.ones((3, 2, 1)), "bias": np.zeros(3)})
    assert model.kernel[...].dtype == jnp.bfloat16


# ---------------------------------------------------------------------- files


def unet_tensors():
    """A checkpoint with the names of a tiny U-Net, in PyTorch's layout."""
    from jaxconv.models import UNet

    kwargs = {"in_channels": 1, "classes": 2, "widths": [2]}
    model = nnx.eval_shape(lambda: UNet(**kwargs, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    needs = [(layer.path, need) for layer in walk(model) for need in layer.needs]
    return {f"{path}.{need.name}": rng.normal(size=need.shape).astype(np.float32) for path, need in needs}, kwargs


def test_a_safetensors_file_becomes_a_run_folder(tmp_path):
    tensors, kwargs = unet_tensors()
    save_file(tensors, tmp_path / "w.safetensors")
    record = Preprocessing(class_names=("ground", "sky"), channels=1, ignore_index=255)
    out = convert_checkpoint(
        tmp_path / "w.safetensors", "unet", tmp_path / "run", model_kwargs=kwargs, preprocessing=record
    )
    model, run = load_run(out)
    assert run.preprocessing == record and run.model_kwargs["widths"] == [2]
    assert json.loads((out / "config.json").read_text())["extra"]["converted_from"] == "w.safetensors"
    expected = tensors["encoder.0.layers.0.conv.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(model.encoder[0].layers[0].conv.kernel[...], expected)
    with pytest.raises(FileExistsError):
        convert_checkpoint(tmp_path / "w.safetensors", "unet", out, model_kwargs=kwargs)


def test_a_dry_run_of_a_file_writes_nothing(tmp_path):
    tensors, kwargs = unet_tensors()
    np.savez(tmp_path / "w.npz", **tensors)
    report = convert_checkpoint(tmp_path / "w.npz", "unet", tmp_path / "run", model_kwargs=kwargs, dry_run=True)
    assert report.ok and len(report.placed) == len(tensors)
    assert not (tmp_path / "run").exists()


def test_bad_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        read_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="no model is called 'vgg'.*enet.*unet"):
        convert_checkpoint(tmp_path / "nowhere.pth", "vgg", tmp_path / "run")
    for name in ("cut.safetensors", "cut.npz"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 not all there")
        with pytest.raises(ValueError, match=name):
            read_checkpoint(tmp_path / name)
    save_file({"stem.weight": np.zeros((1, 1), np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors does not fit the model[^$]*unexpected stem.weight"):
        convert_checkpoint(
            tmp_path / "other.safetensors",
            "unet",
            tmp_path / "run",
            model_kwargs={"in_channels": 1, "classes": 2, "widths": [2]},
        )
    # A model without classes is converted like any other.
    with pytest.raises(ValueError, match=r"other.safetensors does not fit the model[^$]*missing feature_extract"):
        convert_checkpoint(tmp_path / "other.safetensors", "fsrcnn", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pytorch_files_say_when_pytorch_is_missing(tmp_path, monkeypatch):
    (tmp_path / "w.pth").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModuleNotFoundError, match="w.pth.*needs PyTorch"):
        read_checkpoint(tmp_path / "w.pth")


class Runs:
    """Unpickling this would run code."""

    def __reduce__(self):
        return (print, ("code from the file has run",))


@pytest.mark.parity
def test_no_code_of_a_pytorch_file_is_run(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    torch.save({"w": Runs()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="evil.pth cannot be read as a PyTorch file of plain tensors"):
        read_checkpoint(tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(ValueError, match="plain.pth"):
        read_checkpoint(tmp_path / "plain.pth")
    assert "code from the file" not in capsys.readouterr().out
    torch.save({"epoch": 3, "state_dict": {"w": torch.ones(2, dtype=torch.bfloat16)}}, tmp_path / "nested.pth")
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "nested.pth").tensors["w"], np.ones(2, np.float32))
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="empty.pth holds no state_dict"):
        read_checkpoint(tmp_path / "empty.pth")
