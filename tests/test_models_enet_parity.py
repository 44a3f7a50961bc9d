"""ENet against the same network in PyTorch; with the published weights also on CamVid, against its published score."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the peer of these tests; pip install 'jaxconv[parity]'")

import enet_torch  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402

from jaxconv.convert import convert_checkpoint, load_tensors  # noqa: E402
from jaxconv.models import ENet  # noqa: E402
from jaxconv.train.evaluation import evaluate  # noqa: E402
from jaxconv.train.runfolder import load_run  # noqa: E402

pytestmark = pytest.mark.parity


@pytest.fixture
def one_thread():
    """PyTorch's max-unpooling shares its work among threads, and which duplicate wins then changes from run to run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def forward(model):
    """A compiled call of the model."""
    graph, state = nnx.split(model)
    function = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    return lambda x: np.asarray(function(state, jnp.asarray(x)))


def torch_forward(peer, x):
    with torch.inference_mode():
        return peer(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).movedim(1, -1).numpy()


def test_enet_is_pytorchs(one_thread, x64):
    """In double precision, where rounding decides no maximum: a random network with random statistics."""
    torch.manual_seed(7)
    peer = enet_torch.ENet(5).double().eval()
    for name, tensor in peer.state_dict().items():
        if tensor.ndim == 1:
            # Rounded to float32, the type in which flax keeps running statistics.
            tensor.copy_((torch.rand_like(tensor) * (0.3 if name.endswith("2.weight") else 1) + 0.2).float())
    model = nnx.eval_shape(lambda: ENet(5, param_dtype=jnp.float64, rngs=nnx.Rngs(0)))
    report = load_tensors(model, peer.state_dict())
    assert len(report.placed) == 554 and len(report.ignored) == 88
    model.eval()
    x = np.random.default_rng(0).uniform(size=(2, 31, 40, 3))
    mine, theirs = forward(model)(x), torch_forward(peer, x)
    assert mine.dtype == np.float64 and np.ptp(theirs) > 0.01
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-9 * np.abs(theirs).max())


# ---------------------------------------------------------------------- the published weights


@pytest.fixture(scope="module")
def run_folder(shared_data, tmp_path_factory):
    checkpoint = shared_data / "enet" / "enet_camvid.pth"
    if not checkpoint.is_file():
        pytest.skip("shared/data/enet/enet_camvid.pth (published ENet weights) is missing")
    return convert_checkpoint(checkpoint, "enet", tmp_path_factory.mktemp("enet") / "run")


@pytest.fixture
def camvid(shared_data):
    if not (shared_data / "camvid" / "val").is_dir():
        pytest.skip("shared/data/camvid/val (CamVid images and labels) is missing")
    return shared_data / "camvid"


@pytest.mark.slow
@pytest.mark.shared_data
def test_published_weights_reach_their_score(run_folder, camvid, capsys):
    """0.6567 +- 0.0005 on the 101 images of val, void ignored: measured with PyTorch for the same weights."""
    evaluate(run_folder, data_folder=camvid, split="val", batch_size=4)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mIoU ")]
    assert len(lines) == 1 and abs(float(lines[0].split()[1]) - 0.6567) <= 0.0005, lines


@pytest.mark.slow
@pytest.mark.shared_data
def test_published_weights_give_pytorchs_logits(run_folder, camvid, shared_data, one_thread):
    """Five images: within 1e-3 wherever both chose the same maxima, and given the same choice everywhere.

    Where two values of a pooling window differ by less than the rounding of float32, the two may choose different ones,
    and then max-unpooling puts a value one pixel further. How many there are depends on the processor: a handful in
    half a million. Each is shown to be such a tie, in the values before the pooling.
    """
    from PIL import Image

    model, run = load_run(run_folder)
    peer = enet_torch.ENet(12).eval()
    checkpoint = shared_data / "enet" / "enet_camvid.pth"
    peer.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True), strict=False)
    graph, state = nnx.split(model)

    @jax.jit
    def encode(state, x):
        m = nnx.merge(graph, state)
        before_first = m.initial_block(x)
        x, first = m.downsample1_0(before_first)
        before_second = m._run(m.first, x)
        return (before_first, first), (before_second, m.downsample2_0(before_second)[1])

    @jax.jit
    def with_indices(state, x, first, second):
        m = nnx.merge(graph, state)
        x, _ = m.downsample1_0(m.initial_block(x))
        x, _ = m.downsample2_0(m._run(m.first, x))
        x = m._run(m.fourth, m.upsample4_0(m._run(m.third, m._run(m.second, x)), second))
        return m.transposed_conv(m._run(m.fifth, m.upsample5_0(x, first)), output_size=(360, 480))

    whole = forward(model)
    for path in sorted((camvid / "val").glob("*.png"))[::20][:5]:
        x = run.preprocessing.normalise(np.asarray(Image.open(path)))[None]
        theirs, indices = torch_forward(peer, x), torch_indices(peer, x)
        given = np.asarray(with_indices(state, x, *indices))
        assert np.abs(given - theirs).max() < 1e-3, path.name
        flips = 0
        for (before, mine), chosen in zip(encode(state, x), indices, strict=True):
            at = np.argwhere(np.asarray(mine) != chosen)
            flips += len(at)
            values = np.asarray(before).reshape(1, -1, before.shape[-1])
            best = values[0, np.asarray(mine)[tuple(at.T)], at[:, -1]]
            other = values[0, chosen[tuple(at.T)], at[:, -1]]
            assert np.all(np.abs(best - other) <= 1e-5 * np.abs(values).max()), (path.name, best, other)
        assert flips <= 24, (path.name, flips)
        logits = whole(x)
        assert (logits.argmax(-1) != theirs.argmax(-1)).mean() < 1e-4, path.name
        if flips == 0:
            assert np.abs(logits - theirs).max() < 1e-3, path.name


def torch_indices(peer, x):
    """The indices of both poolings, as int32, channels last."""
    with torch.inference_mode():
        t = peer.initial_block(torch.from_numpy(np.moveaxis(x, -1, 1).copy()))
        t, first = peer.downsample1_0(t)
        second = peer.downsample2_0(peer.run("1", t))[1]
    return [i.movedim(1, -1).numpy().astype(np.int32) for i in (first, second)]
