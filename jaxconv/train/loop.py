"""Training: the file to read from top to bottom.

A run is decided by its config alone. Example i of the data, and every random number of step k, are functions of the
seed and of i or k; so a run that was interrupted and started again continues as if nothing had happened.
"""

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxconv._memory import trim_memory
from jaxconv._text import printable
from jaxconv.train import runfolder
from jaxconv.train.checkpoint import Checkpoints
from jaxconv.train.config import TrainConfig
from jaxconv.train.crops import prefetch
from jaxconv.train.data import Data, load_data
from jaxconv.train.devices import Devices
from jaxconv.train.files import locked, remove_temporaries, write_json
from jaxconv.train.log import MetricsLog
from jaxconv.train.own import Own, OwnStep, own_step
from jaxconv.train.picture import drawn, save_curves, save_image
from jaxconv.train.progress import bar, interrupts
from jaxconv.train.record import told_list
from jaxconv.train.segmentation import Segmentation
from jaxconv.train.start import open_run
from jaxconv.train.survey import look
from jaxconv.train.weights import Best, check_sizes, source_tensors

Say = Callable[[str], None]
Task = Segmentation | Own


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    data: Data | None = None,
    step: OwnStep | None = None,
    restart: bool = False,
    extend: bool = False,
    mesh: str | None = None,
    tensorboard: bool = False,
    console: Console | None = None,
) -> dict:
    """Trains a network, or continues the run in ``out`` from its newest good checkpoint.

    Args:
        config: what to do.
        out: the run folder (see `jaxconv.train.runfolder`).
        data: what to learn from in place of the folder or the mosaics (see `jaxconv.train.data.source_data`).
        step: a training of one's own in place of a segmentation (see `jaxconv.train.own.OwnStep`); of the config it
            heeds steps, batch_size, seed, log_every, eval_every, checkpoint_every and early_stop.
        restart: start anew although ``out`` holds a run; that run is kept beside, as ``OUT.1`` or the next free number.
        extend: go on with the run in ``out``, finished or not, to more ``steps``: the learning rate follows the
            schedule of the longer run from here on.
        mesh: how many devices share the examples of a batch and the rows of its images, as "data=4,height=2"; fsdp=4
            shares the examples, too, and each keeps only its part of the parameters and of the optimiser's numbers. By
            default all that share the examples evenly, those of all processes where `jax.distributed` has several: each
            then calls this with the same arguments, and the first one writes. A run may go on with another mesh.
        tensorboard: write the numbers of metrics.csv for TensorBoard too, into ``out/tensorboard``.
        console: where sentences and the progress bar go.

    Returns:
        The scores, as written to results.json: ``miou`` of the split that ``split`` names.

    Raises:
        FileExistsError: ``out`` holds a finished run, or something that is no run.
        BlockingIOError: another process trains in ``out``.
        ValueError: ``out`` holds a run of another config (the message names the keys that differ), devices
            and processes cannot share a batch, or data and network do not fit together.
        FloatingPointError: the loss, the gradient or the new state is not finite; the message names the step and the
            data.
        KeyboardInterrupt: after SIGINT, when a checkpoint has been written.

    >>> train(TrainConfig(steps=100), "runs/short")["test_miou"]  # doctest: +SKIP
    """
    console = console or Console()
    if step is not None:
        config = config.override(model=f"{type(step).__module__}:{type(step).__qualname__}")
    else:
        step = own_step(config)
    devices = Devices.of(mesh, config.batch_size, config.crop[0])
    with contextlib.ExitStack() as stack:
        if jax.process_index():  # the first process alone has the run's folder
            out = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxconv-")), "run")
            restart, extend, tensorboard, console = False, False, False, Console(quiet=True)
        folder = Path(out)

        def say(text: str) -> None:
            console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

        stack.enter_context(locked(folder))
        remove_temporaries(folder)
        earlier = open_run(folder, config, restart, say, extend)
        task = _task(config, data, step, devices, earlier, say)
        if earlier is None:
            if config.init is not None:
                source_tensors(config.init)  # a wrong name is said before anything is written
            run = runfolder.Run(folder, config.model, task.kwargs, task.record, config.to_dict())
            runfolder.write_description(run)
        return _trained(task, folder, tensorboard, console, say)


def _task(
    config: TrainConfig, data: Data | None, step: Any, devices: Devices, earlier: runfolder.Run | None, say: Say
) -> Task:
    """What is trained: a step of one's own, or a network that gives each pixel a class."""
    if hasattr(step, "batch"):
        return Own(config, step, None, devices)
    if data is None:
        data = load_data(config, earlier.preprocessing if earlier else None)
        if earlier is None and config.data is not None:
            look(config, say)
    if step is not None:
        return Own(config, step, data.train, devices)
    task = Segmentation(config, data, devices)
    check_sizes(task.shape_of, config, data)
    return task


def _trained(task: Task, folder: Path, tensorboard: bool, console: Console, say: Say) -> dict:
    """The scores of a task that is trained and scored."""
    checkpoints = Checkpoints(folder / "checkpoints", say)
    done, columns = task.devices.agreed(checkpoints.latest or 0), (*task.numbers, *task.scores)
    log = MetricsLog(folder / "metrics.csv", done, columns, folder / "tensorboard" if tensorboard else None)
    try:
        state = _run_steps(task, folder, checkpoints, done, log, console, say)
    finally:
        checkpoints.close()
        log.close()
    results = {"steps": log.steps} | task.finish(state, folder, say) | {"train_seconds": round(log.seconds, 1)}
    drawn(lambda: save_curves(folder / "curves.png", log.rows), say)
    write_json(folder / "results.json", results)
    runfolder.save_tensors(folder / "weights.safetensors", task.variables(state))
    say(f"run folder {folder}")
    return results


def _run_steps(
    task: Task, folder: Path, checkpoints: Checkpoints, done: int, log: MetricsLog, console: Console, say: Say
) -> dict[str, Any]:
    """All steps after ``done``; returns the state."""
    config, devices = task.config, task.devices
    state = devices.lay_state(checkpoints.restore(done, task.abstract) if done and devices.first else task.init(say))
    if devices.count > 1:
        sizes = ", ".join(f"{name}={size}" for name, size in devices.mesh.shape.items())
        say(f"{devices.count} devices, {sizes}; each holds {devices.share(state):.0%} of the state")
    best = Best(folder / "best.safetensors", done, task.scores)
    began = time.perf_counter() - log.seconds
    if done:
        say(f"resuming {folder} after step {done} of {config.steps}")
    patience = config.early_stop * config.eval_every
    end = devices.agreed(done if patience and best.age(done) >= patience else config.steps)
    with interrupts() as interrupted, bar(console, done, config.steps, config.batch_size) as show:
        for number, batch in enumerate(prefetch(task.batch, done, end), done + 1):
            state, found, finite = task.step(state, *task.lay(batch))
            if not (sound := np.asarray(finite)).all():
                raise FloatingPointError(_not_finite(sound, task, number, folder))
            if number == done + 1:
                trim_memory()  # what compiling has left
            logs, scored = (number % every == 0 for every in (config.log_every, config.eval_every))
            scores: dict[str, float] = {}
            if scored:
                scores = task.score(state)
                best.offer(number, scores, task.variables(state))
                if (image := task.picture(state)) is not None:
                    drawn(functools.partial(save_image, folder / "samples" / f"{number:06d}.png", image), say)
            if logs or scored or number == config.steps:
                numbers = task.logged(found, batch)
                log.add(number, numbers | scores, time.perf_counter() - began)
                show(number, numbers, scores)
            over = patience > 0 and devices.agreed(scored and patience <= best.age(number))
            stop = (devices.agreed(interrupted()) or over) and number < config.steps
            if number % config.checkpoint_every == 0 or number == config.steps or stop:
                saved = devices.on_host(state)  # gathered by all processes
                if devices.first:
                    checkpoints.save(number, saved)
            if over and stop:
                say(f"stopped after step {number}: no better score since step {best.step}")
                break
            if stop:
                raise KeyboardInterrupt(f"stopped after step {number}; the same command continues from there")
    return state


def _not_finite(finite: np.ndarray, task: Task, step: int, folder: Path) -> str:
    first = ("loss", *["gradient"] * (len(finite) - 2), "new state")[int(np.argmin(finite))]
    kept = f"{folder} keeps the checkpoints before it (a lower learning_rate may help)"
    return f"{first} is not finite at step {step} ({told_list(task.names(step - 1))}); {kept}"
