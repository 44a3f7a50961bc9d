"""Losses, optimisers, augmentation and the other parts of a recipe, each against its definition."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")
pytest.importorskip("optax")
pytest.importorskip("orbax.checkpoint")
pytest.importorskip("skimage")
pytest.importorskip("matplotlib")
pytest.importorskip("rich")
from flax import nnx
from rich.console import Console
from safetensors.numpy import load_file

import jaxconv.models
from jaxconv.train import Preprocessing, TrainConfig, losses, train
from jaxconv.train.augment import Augment
from jaxconv.train.crops import readers
from jaxconv.train.data import source_data
from jaxconv.train.devices import Devices
from jaxconv.train.metrics import Boundaries
from jaxconv.train.mosaic import Mosaics
from jaxconv.train.recipe import make_optimizer, make_schedule
from jaxconv.train.segmentation import Segmentation
from jaxconv.train.weights import start_from

VOID = 77


@pytest.fixture(scope="module")
def scored():
    """Logits of 30 pixels and 4 classes, labels with unlabelled ones and without class 3, labels of several classes."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 15, 4)) * 2, rng.integers(0, 3, (2, 15))
    several = rng.integers(0, 2, (2, 15, 4))
    labels[0, :4], several[1, 3], several[0, 2, 1], several[..., 3] = VOID, VOID, VOID, 0
    return logits, labels, several, np.array([0.5, 1.0, 2.0, 4.0])


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def jaccard_loss(truth, wrong):
    """One minus the intersection over union of a class if the pixels ``wrong`` are predicted wrong."""
    union = (truth | wrong).sum()
    return 1 - (truth & ~wrong).sum() / union if union else 0.0


def lovasz_of_class(truth, errors):
    """The Lovasz extension by its definition: a sum over the order of the errors."""
    order, total, wrong, before = np.argsort(-errors, kind="stable"), 0.0, np.zeros(truth.shape, bool), 0.0
    for i in order:
        wrong[i] = True
        now = jaccard_loss(truth, wrong)
        total, before = total + errors[i] * (now - before), now
    return total


def defined(name, logits, labels, weights):
    """The losses as loops in double precision."""
    classes = logits.shape[-1]
    z, multi = logits.reshape(-1, classes), labels.ndim == logits.ndim
    y = labels.reshape(-1, classes) if multi else labels.ravel()
    q = 1 / (1 + np.exp(-z)) if multi or name == "sigmoid" else softmax(z)
    truth = y if multi else np.where(y[:, None] == VOID, VOID, y[:, None] == np.arange(classes))
    v = np.ones(classes) if weights is None else weights
    if name in ("cross_entropy", "focal"):
        terms = [(v[c], -np.log(p[c]) * (1 - p[c]) ** (2 if name == "focal" else 0)) for p, c in zip(q, y) if c != VOID]
    elif name == "sigmoid":
        terms = [
            (v[c], -np.log(q[i, c] if truth[i, c] else 1 - q[i, c]))
            for i, c in itertools.product(range(len(z)), range(classes))
            if truth[i, c] != VOID
        ]
    else:
        terms = []
        for c in range(classes):
            kept = truth[:, c] != VOID
            t, p = truth[kept, c].astype(bool), q[kept, c]
            if t.any():
                loss = 1 - 2 * p[t].sum() / (p.sum() + t.sum()) if name == "dice" else lovasz_of_class(t, np.abs(t - p))
                terms.append((v[c], loss))
    return sum(w * loss for w, loss in terms) / sum(w for w, _ in terms)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_losses_are_their_definitions(scored, name):
    logits, labels, several, weights = scored
    for truth in (labels, several) if name in ("dice", "lovasz", "sigmoid") else (labels,):
        for given in (None, weights):
            loss = jax.jit(functools.partial(losses.LOSSES[name], ignore_index=VOID, class_weights=given))
            found = loss(jnp.asarray(logits), jnp.asarray(truth))
            assert float(found) == pytest.approx(defined(name, logits, truth, given), rel=2e-5), (truth.ndim, given)
    loss = jax.jit(jax.value_and_grad(functools.partial(losses.LOSSES[name], ignore_index=VOID)))
    _, gradient = loss(jnp.asarray(logits), jnp.asarray(labels))
    assert jnp.isfinite(gradient).all() and not gradient[0, :4].any(), "unlabelled pixels teach nothing"
    nothing, gradient = loss(jnp.asarray(logits), jnp.full_like(labels, VOID))
    assert float(nothing) == 0.0 and not gradient.any()


@pytest.mark.parity
def test_losses_against_pytorch(scored):
    torch = pytest.importorskip("torch")
    logits, labels, several, weights = scored
    z, w = torch.tensor(logits).movedim(-1, 1), torch.tensor(weights)
    theirs = torch.nn.functional.cross_entropy(z, torch.tensor(labels), weight=w, ignore_index=VOID)
    ours = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels), ignore_index=VOID, class_weights=weights)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(z, torch.tensor(several % VOID).movedim(-1, 1) * 1.0)
    ours = losses.sigmoid(jnp.asarray(logits), jnp.asarray(several % VOID))
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_mixtures_and_auxiliary_heads_add_up(scored):
    logits, labels, _, _ = scored
    z = jnp.asarray(logits.reshape(2, 3, 5, 4), jnp.float32)
    y = jnp.asarray(labels.reshape(2, 3, 5))
    loss = losses.make_loss({"cross_entropy": 1.0, "dice": 0.5}, VOID, None, 0.25)
    one = losses.cross_entropy(z, y, ignore_index=VOID) + 0.5 * losses.dice(z, y, ignore_index=VOID)
    small = jaxconv.resize(z, (2, 2))
    other = losses.make_loss({"cross_entropy": 1.0, "dice": 0.5}, VOID, None, 1.0)(jaxconv.resize(small, (3, 5)), y)
    np.testing.assert_allclose(loss(z, y), one, rtol=1e-6)
    np.testing.assert_allclose(loss((z, small), y), one + 0.25 * other, rtol=1e-6)
    with pytest.raises(ValueError, match="labels .* are no classes; several at once are sigmoid's"):
        losses.cross_entropy(z, z.astype(int))


def test_boundaries_against_sets_of_pixels():
    rng = np.random.default_rng(1)
    boundaries, both, either = Boundaries(3, VOID, width=0.1), np.zeros(3), np.zeros(3)
    for _ in range(2):
        labels, found = (np.repeat(np.repeat(rng.integers(0, 3, (4, 5)), 5, 0), 4, 1) for _ in range(2))
        labels[:3, :6] = VOID
        boundaries.add(labels, found)
        for c in range(3):
            edges = []
            for values in (labels, found):
                mask = {(r, k) for r, k in np.argwhere((values == c) & (labels != VOID))}
                near = list(itertools.product(range(-3, 4), repeat=2))  # 0.1 * the diagonal of 20x20 is 2.8
                edges.append({p for p in mask if any((p[0] + a, p[1] + b) not in mask for a, b in near)})
            both[c], either[c] = both[c] + len(edges[0] & edges[1]), either[c] + len(edges[0] | edges[1])
    np.testing.assert_allclose(boundaries.per_class, both / either)
    assert boundaries.mean == pytest.approx((both / either).mean()) and np.isnan(Boundaries(2).mean)


@pytest.mark.parametrize("name", ["cosine", "poly", "onecycle", "constant"])
def test_schedules_rise_to_the_peak_and_fall_as_they_say(name):
    config = TrainConfig(schedule=name, steps=100, warmup_steps=20, learning_rate=0.5)
    rate = np.array([float(make_schedule(config)(i)) for i in range(101)])
    assert rate.argmax() == 20 and rate.max() == pytest.approx(0.5) and (np.diff(rate[:21]) > 0).all()
    t = np.arange(81) / 80
    start, end = {"onecycle": (0.5 / 25, 0.5 / 25e4)}.get(name, (0.0, 0.5 if name == "constant" else 0.0))
    falls = {
        "cosine": 0.25 * (1 + np.cos(np.pi * t)),
        "poly": 0.5 * (1 - t) ** 0.9,
        "onecycle": end + (0.5 - end) * (1 + np.cos(np.pi * t)) / 2,
        "constant": np.full(81, 0.5),
    }
    np.testing.assert_allclose(rate[20:], falls[name], atol=1e-6)
    assert rate[0] == pytest.approx(start) and rate[-1] == pytest.approx(end, abs=1e-6)
    for steps in (1, 2):
        assert np.isfinite(make_schedule(TrainConfig(schedule=name, steps=steps))(0))


@pytest.mark.parametrize("name", ["adamw", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sgd", "lion", "lamb"))])
def test_optimisers_decay_kernels_only(name):
    config = TrainConfig(
        optimiser=name, schedule="constant", warmup_steps=0, learning_rate=0.1, weight_decay=0.5, steps=9
    )
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    optimizer = make_optimizer(config)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert (updates["kernel"] < 0).all() and not updates["bias"].any()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("loss", "hinge", "'hinge' is not NAME or FACTOR\\*NAME"),
        ("loss", "dice+dice", "comes twice"),
        ("loss", "0*dice", "losses are cross_entropy, dice"),
        ("optimiser", "adagrad", "must be one of adamw, sgd, lion, lamb"),
        ("schedule", "step", "must be one of cosine, poly, onecycle, constant"),
        ("compute", "float16", "must be one of float32, bfloat16"),
        ("ema", 1.0, "must be 0 \\(none\\), or a decay below 1"),
        ("accumulate", 5, "must be a multiple of accumulate=5"),
        ("accumulate", 0, "must be at least 1"),
        ("freeze", ("",), "must name parts"),
        ("freeze", "encoder", "must be a list, each text"),
        ("early_stop", -1, "must not be negative"),
        ("aux_weight", -0.1, "must not be negative"),
        ("class_weighting", (1.0, -1.0), "a weight >= 0 for each class"),
        ("class_weighting", "many", '"none", "enet" or a weight'),
        ("augment", "blur", "is none of hflip"),
        ("augment", "rotate=200", "rotate=0..180"),
        ("augment", "rotate", "is none of"),
        ("augment", "hflip=1", "is none of"),
        ("augment", "scale=2:1", "must be LOW:HIGH"),
        ("augment", "rotate=x", "is none of"),
        ("augment", "hflip+hflip", "comes twice"),
    ],
)
def test_recipes_that_cannot_be_are_refused(key, value, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{key: value})


class Small(nnx.Module):
    """With dropout, batch statistics and an auxiliary head."""

    def __init__(self, in_channels, classes, normalised=True, *, rngs):
        self.stem = nnx.Conv(in_channels, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs) if normalised else None
        self.dropout = nnx.Dropout(0.2, rngs=rngs) if normalised else None
        self.head = nnx.Conv(4, classes, (1, 1), rngs=rngs)
        self.aux = nnx.Conv(4, classes, (1, 1), strides=(2, 2), rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        if self.norm is not None:
            x = self.dropout(self.norm(x))
        x = nnx.relu(x)
        return self.head(x), self.aux(x)


RECORD = Preprocessing(class_names=("a", "b"), channels=1, mean=(0.5,), std=(0.25,))
CONFIG = TrainConfig().override(model="small_aux", crop=(8, 8), batch_size=4, steps=8, warmup_steps=0)
PLAIN = CONFIG.override(model_kwargs={"normalised": False}, schedule="constant")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(jaxconv.models.REGISTRY, "small_aux", Small)


def data_of(config):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, (6, 12, 12)).astype(np.int32)
    pairs = [((90 * y + 60 + rng.normal(0, 9, y.shape))[..., None].astype(np.uint8), y) for y in labels]
    return source_data(pairs, pairs[:2], RECORD, config.crop, augment=config.augment or "hflip")


def stepped(config, steps=2):
    """The first state and the last one, and the losses."""
    task = Segmentation(config, data_of(config), Devices.of("data=1", config.batch_size, config.crop[0]))
    state, found = task.init(print), []
    first = jax.tree.map(np.asarray, state)
    for number in range(steps):
        state, numbers, finite = task.step(state, *task.batch(number))
        assert finite.all()
        found.append(float(numbers["loss"]))
    return first, jax.tree.map(np.asarray, state), found


def leaves(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


@pytest.mark.slow
def test_parts_of_a_batch_give_the_gradient_of_the_whole():
    _, whole, losses_whole = stepped(PLAIN)
    _, parts, losses_parts = stepped(PLAIN.override(accumulate=2))
    np.testing.assert_allclose(losses_parts, losses_whole, rtol=1e-5)
    for name, leaf in leaves(whole["params"]).items():
        np.testing.assert_allclose(leaves(parts["params"])[name], leaf, atol=2e-4, err_msg=name)


@pytest.mark.slow
def test_means_frozen_parts_half_precision_and_remat():
    _, plain, losses_plain = stepped(CONFIG)
    _, again, losses_again = stepped(CONFIG.override(remat=True))
    np.testing.assert_allclose(losses_again, losses_plain, rtol=1e-5)
    first, state, found = stepped(CONFIG.override(compute="bfloat16", ema=0.5, freeze=("stem", "norm")))
    np.testing.assert_allclose(found, losses_plain, rtol=0.2)
    for tree in (first, state):
        assert all(leaf.dtype != jnp.bfloat16 for leaf in leaves(tree).values())
    assert set(leaves(state["params"])) == {k for k in leaves(plain["params"]) if "head" in k or "aux" in k}
    for part in ("frozen", "stats"):  # norm is frozen, and there are no other statistics
        for name, leaf in leaves(first[part]).items():
            np.testing.assert_array_equal(leaves(state[part])[name], leaf, err_msg=name)
    # Decays 1/10 and 2/11: 0.1 * first + 0.9 * second, and so on.
    _, middle, _ = stepped(CONFIG.override(compute="bfloat16", ema=0.5, freeze=("stem", "norm")), steps=1)
    for name, leaf in leaves(state["ema"]).items():
        one, two, three = (leaves(tree["params"])[name] for tree in (first, middle, state))
        np.testing.assert_allclose(leaf, 2 / 11 * (0.1 * one + 0.9 * two) + 9 / 11 * three, rtol=1e-4, atol=1e-6)


def test_recipes_that_do_not_fit_the_network_are_refused():
    for changes, message in (
        ({"freeze": ("encoder",)}, "frozen='encoder': nothing has that path; at the top there are .*stem"),
        ({"freeze": ("stem", "norm", "head", "aux")}, "leaves no parameter"),
        ({"class_weighting": (1.0, 2.0, 3.0)}, "one weight for each of 2 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            stepped(CONFIG.override(**changes))


@pytest.mark.slow
def test_means_start_from_the_weights_that_a_run_starts_from(tmp_path):
    from jaxconv.train.runfolder import save_weights

    config = CONFIG.override(ema=0.9)
    task = Segmentation(config, data_of(config), Devices.of("data=1", 4, 8))
    state = task.init(print)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, state["params"])
    path = save_weights(tmp_path / "w.safetensors", nnx.merge_state(doubled, state["stats"]))
    started = start_from(str(path), state, print)
    for part in ("params", "ema"):
        for name, leaf in leaves(doubled).items():
            np.testing.assert_array_equal(leaves(started[part])[name], leaf)


EVERYTHING = "hflip+vflip+rot90+rotate=30+scale=0.7:1.5+colour=0.3+elastic=2"


def test_augmentation_is_a_function_of_the_seed_alone():
    config = CONFIG.override(augment=EVERYTHING)
    train_data = data_of(config).train
    images, labels = train_data.batch(0, 12)
    assert images.dtype == np.uint8 and labels.dtype == np.int32 and images.shape == (12, 8, 8, 1)
    one = [train_data.example(i) for i in reversed(range(12))][::-1]  # by one thread, in another order
    np.testing.assert_array_equal(images, np.stack([image for image, _ in one]))
    np.testing.assert_array_equal(labels, np.stack([label for _, label in one]))
    again = [readers().submit(data_of(config).train.batch, i, 3).result() for i in (0, 3, 6, 9)]
    np.testing.assert_array_equal(images, np.concatenate([image for image, _ in again]))
    assert len({image.tobytes() for image in images}) == 12
    mosaics = Mosaics.of_photographs("train", size=32)
    changed = dataclasses.replace(mosaics, seed=5, augment=Augment.of(EVERYTHING))
    np.testing.assert_array_equal(changed.batch(2, 1)[1][0], changed.batch(0, 3)[1][2])
    assert changed.names(0, 1) == mosaics.names(0, 1)


@pytest.mark.parametrize("what", ["hflip", "vflip", "rot90", "rotate=180", "scale=0.5:2", "elastic=3", EVERYTHING])
def test_labels_follow_their_image(what):
    """Where an image is its labels, it still is afterwards, but for pixels at the borders of classes."""
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 2, (4, 4)), np.ones((16, 16), int)).astype(np.int32)
    image = (200 * labels[..., None]).astype(np.float32)
    augment = Augment.of(what.replace("+colour=0.3", ""))
    for index in range(4):
        seen, truth = augment.example(image, labels, (48, 48), np.random.default_rng(index), VOID)
        assert seen.shape == (48, 48, 1) and truth.shape == (48, 48)
        kept = truth != VOID
        assert kept.mean() > 0.3 and ((seen[..., 0] > 100) == (truth == 1))[kept].mean() > 0.97, index
    seen, truth = augment.example(image, labels, (48, 48), rng, None)
    assert set(np.unique(truth)) <= {0, 1}


def test_a_turn_and_a_scale_by_hand():
    """Twice as large about some place: every other sample of the crop lies a pixel further in the image."""
    ramp = np.arange(40, dtype=np.float32)
    image = np.stack(np.broadcast_arrays(3 * ramp[:, None], ramp[None]), -1)
    labels = np.broadcast_to(ramp[None].astype(np.int32), (40, 40))
    seen, truth = Augment.of("scale=2:2").example(image, labels, (16, 16), np.random.default_rng(1), None)
    np.testing.assert_allclose(np.diff(seen[..., 1], axis=1), 0.5, atol=1e-4)
    np.testing.assert_allclose(np.diff(seen[..., 0], axis=0), 1.5, atol=1e-4)
    assert (np.abs(truth - seen[..., 1]) <= 0.5001).all()
    seen, _ = Augment(rotate=40.0).example(image, labels, (9, 9), np.random.default_rng(1), None)
    down, right = np.diff(seen, axis=0)[0, 0], np.diff(seen, axis=1)[0, 0]
    sine, cosine = down[1], right[1]  # (3 row, column): a turn keeps lengths
    assert 0.1 < abs(sine) < 0.7 and cosine == pytest.approx(np.sqrt(1 - sine**2), abs=1e-4)
    assert down[0] == pytest.approx(3 * cosine, abs=1e-3) and right[0] == pytest.approx(-3 * sine, abs=1e-3)


def test_colours_change_and_labels_do_not():
    image, labels = np.full((8, 8, 3), 100, np.uint8), np.eye(8, dtype=np.int32)
    found = [Augment.of("colour=0.3").example(image, labels, (8, 8), np.random.default_rng(i), None) for i in range(9)]
    assert all((y == labels).all() and x.dtype == np.uint8 for x, y in found)
    assert np.std([x.mean() for x, _ in found]) > 5 and all(np.ptp(x[0, 0]) > 0 for x, _ in found)


class Stop(Console):
    """Sends SIGINT when a line starts with ``step 4/``."""

    def print(self, *objects, **_):
        import signal

        if objects and str(objects[0]).startswith("step 4/"):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_a_run_with_everything_resumes_bit_for_bit(tmp_path):
    config = CONFIG.override(
        loss="cross_entropy+0.5*dice+0.25*lovasz", class_weighting="enet", optimiser="lion", schedule="poly",
        learning_rate=1e-3, freeze=("stem",), accumulate=2, ema=0.9, compute="bfloat16", remat=True, early_stop=50,
        augment=EVERYTHING, crop=(16, 16), steps=6, eval_every=2, checkpoint_every=2, eval_images=2, test_images=2,
        log_every=1,
    )  # fmt: skip
    whole = train(config, tmp_path / "whole", console=Console(quiet=True))
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", console=Stop(quiet=True))
    parts = train(config, tmp_path / "parts", console=Console(quiet=True))
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "parts")]
    for name, tensor in weights[0].items():
        np.testing.assert_array_equal(weights[1][name], tensor, err_msg=name)
    rows = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("whole", "parts")]
    assert [row.rsplit(",", 1)[0] for row in rows[0]] == [row.rsplit(",", 1)[0] for row in rows[1]]
    assert whole | {"train_seconds": 0} == parts | {"train_seconds": 0}


@pytest.mark.slow
def test_a_run_that_gets_no_better_stops_and_stays_stopped(tmp_path):
    config = CONFIG.override(
        crop=(16, 16), learning_rate=1e-12, steps=40, eval_every=2, checkpoint_every=3, eval_images=2, test_images=2,
        early_stop=2, log_every=1,
    )  # fmt: skip
    results = train(config, tmp_path / "run", console=Console(quiet=True))
    assert results["steps"] < 40 and results["steps"] % 2 == 0
    last = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[-1]
    assert last.startswith(f"{results['steps']},")
    (tmp_path / "run" / "weights.safetensors").unlink()  # as if killed before the end
    assert train(config, tmp_path / "run", console=Console(quiet=True))["steps"] == results["steps"]
