"""Files of strangers: weights in parts are joined, what cannot be read is one sentence that names it."""

import zipfile

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file
from test_convert import checkpoint, small

from jaxconv import nn
from jaxconv.convert import arrange, load_tensors, read_checkpoint
from jaxconv.convert.norms import join_normalised


class One(nnx.Module):
    def __init__(self, transposed=False):
        rngs = nnx.Rngs(jax.random.key(0, impl="rbg"))
        self.up = (nn.ConvTranspose if transposed else nn.Conv)(4, 4, (3, 3), rngs=rngs)


@pytest.mark.parity
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kind", ["weight_norm", "parametrised weight_norm", "spectral_norm", "parametrised spectral"])
def test_normalised_weights_are_those_that_pytorch_computes_with(kind, transposed):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = (torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d)(4, 4, 3)
    with torch.no_grad():
        layer.weight *= 3
    if kind == "weight_norm":
        with pytest.warns(FutureWarning, match="deprecated"):
            layer = torch.nn.utils.weight_norm(layer, dim=1 if transposed else 0)
        torch.nn.init.normal_(layer.weight_g)
    elif kind == "spectral_norm":
        layer = torch.nn.utils.spectral_norm(layer)
    else:
        wrap = torch.nn.utils.parametrizations
        layer = wrap.weight_norm(layer) if "weight" in kind else wrap.spectral_norm(layer)
    if "spectral" in kind:
        layer(torch.zeros(1, 4, 5, 5))  # one power iteration, as in training
    layer.eval()
    layer(torch.zeros(1, 4, 5, 5))
    state = {f"up.{name}": value for name, value in layer.state_dict().items()}
    model = One(transposed)
    assert load_tensors(model, state).ok
    if "weight" in kind:  # by the other way in, too
        arranged = arrange(model, {name: value.detach().numpy() for name, value in state.items()})
        np.testing.assert_allclose(arranged["up.weight"], layer.weight.detach().numpy(), rtol=2e-6, atol=1e-7)
    want = layer.weight.detach().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(model.up.kernel[...], want, rtol=2e-6, atol=1e-7)


def test_parts_that_do_not_fit_are_named_and_others_stay():
    with pytest.raises(ValueError, match=r"a.weight: a weight norm of shape \(3, 1\) does not fit .* \(2, 4\)"):
        join_normalised({"a.weight_g": np.ones((3, 1)), "a.weight_v": np.ones((2, 4))})
    with pytest.raises(ValueError, match=r"a.weight: spectral vectors of shapes \(7,\), \(4,\) do not fit"):
        join_normalised({"a.weight_orig": np.ones((2, 4)), "a.weight_u": np.ones(7), "a.weight_v": np.ones(4)})
    plain = {"a.weight_g": np.ones(1), "b.weight_v": np.ones(1), "weight": np.ones(2), "c.g": np.ones(1)}
    assert join_normalised(plain) == plain
    whole = join_normalised({"w_g": np.float32(10), "w_v": np.float32([[3, 4]])})
    np.testing.assert_allclose(whole["w"], [[6, 8]])


def test_no_hint_drops_half_of_a_weight():
    """A tensor of the right shape whose layer holds more without a place: a scale, a low-rank addition."""
    tensors = checkpoint()
    tensors["again.weight_int8"] = tensors.pop("again.weight")
    alone = load_tensors(small(), tensors, dry_run=True)
    assert any("say so with rename" in hint for hint in alone.hints)
    tensors["again.weight_scale"] = np.ones(3, np.float32)
    report = load_tensors(small(), tensors, dry_run=True)
    assert not any("say so with rename" in hint for hint in report.hints)
    assert any("but again.weight_scale of the same layer would be dropped" in hint for hint in report.hints)
    tensors = checkpoint()
    tensors["again.weight_v"] = tensors.pop("again.weight")  # its scale is not in the file
    report = load_tensors(small(), tensors, dry_run=True)
    assert any("again.weight_v is one part of a normalised weight" in hint for hint in report.hints)
    assert not any("say so with rename" in hint for hint in report.hints)


def test_archives_that_unpack_to_more_than_weights_do(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", w=np.zeros(80_000_000, np.float32))
    assert (tmp_path / "bomb.npz").stat().st_size < 1_000_000
    with pytest.raises(ValueError, match=r"bomb.npz cannot be read as a NumPy archive: its 0 MiB unpack to 305 MiB"):
        read_checkpoint(tmp_path / "bomb.npz")
    np.savez_compressed(tmp_path / "zeros.npz", w=np.zeros(1_000_000, np.float32))
    assert read_checkpoint(tmp_path / "zeros.npz").tensors["w"].size == 1_000_000
    header = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (900000000000,), }".ljust(117)
        + b"\n"
    )
    with zipfile.ZipFile(tmp_path / "lies.npz", "w") as archive:
        archive.writestr("w.npy", header)
    for name, content in {"text": np.array(["a"]), "complex": np.ones(2, complex)}.items():
        np.savez(tmp_path / f"{name}.npz", w=content)
    for name in ("lies", "text", "complex"):
        with pytest.raises(ValueError, match=f"{name}.npz "):
            read_checkpoint(tmp_path / f"{name}.npz")


def test_damaged_archives_are_one_sentence(tmp_path):
    np.savez_compressed(tmp_path / "ok.npz", w=np.random.default_rng(0).normal(size=300))
    save_file({"w": np.ones(9, np.float32)}, tmp_path / "ok.safetensors")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("../notes.npy", b"no array")
    with pytest.raises(
        ValueError, match=r"other.npz cannot be read as a NumPy archive: it holds what is no array: \.\./notes"
    ):
        read_checkpoint(tmp_path / "other.npz")
    rng = np.random.default_rng(1)
    for kind in ("npz", "safetensors"):
        content = (tmp_path / f"ok.{kind}").read_bytes()
        for _ in range(60):
            broken = bytearray(content)
            for place in rng.integers(0, len(content), 4):
                broken[place] = rng.integers(256)
            (tmp_path / f"b.{kind}").write_bytes(broken)
            try:
                read_checkpoint(tmp_path / f"b.{kind}")
            except ValueError as error:
                assert f"b.{kind}" in str(error)


def test_numbers_of_eight_bits_and_fewer_are_named(tmp_path):
    import ml_dtypes

    head = '{"w":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}'.ljust(64).encode()
    (tmp_path / "f8.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + b"\x38" * 4)
    with pytest.raises(ValueError, match=r"f8.safetensors cannot be read .* 8 bits or fewer, .*: w \(F8_E4M3\)"):
        read_checkpoint(tmp_path / "f8.safetensors")
    save_file({"w": np.ones(3, ml_dtypes.bfloat16)}, tmp_path / "b16.safetensors")
    assert read_checkpoint(tmp_path / "b16.safetensors").tensors["w"].astype(np.float32).tolist() == [1, 1, 1]


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_tensors_without_plain_values_are_named(tmp_path):
    torch = pytest.importorskip("torch")
    dense = torch.ones(4, 4)
    loop = {"model": {}}
    loop["model"]["model"] = loop["model"]
    cases = {
        "a is sparse": {"a": dense.to_sparse()},
        "a is without values": {"a": torch.empty(3, device="meta")},
        "a is complex": {"a": dense.to(torch.complex64)},
        "0 is int": {0: dense},
        "holds no state_dict": loop,
    }
    for message, content in cases.items():
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=f"w.pth.*{message}"):
            read_checkpoint(tmp_path / "w.pth")
    torch.save({"a": torch.ones(3, dtype=torch.float8_e4m3fn)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="w.pth: a of type torch.float8_e4m3fn cannot be read"):
        read_checkpoint(tmp_path / "w.pth")
    torch.save({"a": torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="w.pth"):  # its own loader may refuse it first
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parity
def test_initialisers_of_unknown_types_are_named(tmp_path):
    onnx = pytest.importorskip("onnx")
    tensor = onnx.numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    tensor.data_type = 99
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [], [], [tensor])
    (tmp_path / "m.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(ValueError, match="m.onnx: initialiser w of data type 99 cannot be read"):
        read_checkpoint(tmp_path / "m.onnx")
