"""The command line: parse, then call. Every command is one function; what it does is elsewhere."""

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxconv._extras import named
from jaxconv._text import printable

Images = Annotated[tuple[Path, ...], tyro.conf.Positional]
Folder = Annotated[Path, tyro.conf.Positional]


def train(
    network: Annotated[str | None, tyro.conf.Positional] = None,
    config: str | None = None,
    out: Path | None = None,
    data: Path | None = None,
    split: str | None = None,
    val_split: str | None = None,
    model: str | None = None,
    steps: int | None = None,
    labels: str | None = None,
    init: str | None = None,
    loss: str | None = None,
    class_weights: str | None = None,
    optimiser: Literal["adamw", "sgd", "lion", "lamb"] | None = None,
    schedule: Literal["cosine", "poly", "onecycle", "constant"] | None = None,
    augment: str | None = None,
    freeze: tuple[str, ...] | None = None,
    set: tuple[str, ...] = (),
    restart: bool = False,
    extend: bool = False,
    mesh: str | None = None,
    hosts: str | None = None,
    tensorboard: bool = False,
) -> None:
    """Train a network, or continue an interrupted run. Without arguments: a small U-Net on mosaics of photographs.

    Args:
        network: MODULE:NAME or FILE.py:NAME of a model of your own, in place of --model: a function or class that takes
            in_channels, classes and rngs and gives a flax.nnx.Module.
        config: NAME for configs/NAME.py, or a path; without it the main job.
        out: run folder; default runs/CONFIG, or runs/FOLDER-MODEL with --data.
        data: folder with SPLIT/*.png beside SPLITannot/*.png, and classes.txt, lines of NAME or NAME RED GREEN BLUE, if
            the classes have names; without it the embedded mosaics.
        split: training images below --data (train).
        val_split: images below --data that score the network (val).
        model: unet, enet, ... or a model of your own, as above.
        steps: gradient steps.
        labels: what the values in the label maps mean, as 0:background,255:cell, or 255/0/0:cell for colours, name -
            for not labelled; without it the value is the class.
        init: run folder or weights file to start from, where its tensors fit.
        loss: cross_entropy, dice, focal, lovasz, sigmoid, or a mixture, as cross_entropy+0.5*dice.
        class_weights: auto (against unbalanced classes), or a number for each class with commas between.
        optimiser: how gradients become steps (adamw).
        schedule: what the learning rate does after the warm-up (cosine).
        augment: what is done to training examples at random, with + between: hflip, vflip, rot90, rotate=15,
            scale=0.5:2, colour=0.2, elastic=3, or none.
        freeze: parts of the network that stay as they are, as encoder.
        set: any other key of the config, as KEY=VALUE: ema=0.999, accumulate=4, compute=bfloat16, remat=True,
            early_stop=5, learning_rate=0.001, ...
        restart: keep an earlier run in --out beside it and start anew.
        extend: go on with the run in --out, finished or not, to more --steps.
        mesh: devices that share the examples of a batch and the rows of its images, as data=4,height=2; fsdp=4 shares
            examples, parameters and the optimiser's numbers; without it all of this machine share the examples.
        hosts: one training by several processes, each started with the same words but its NUMBER from 0 on:
            ADDRESS:PORT,PROCESSES,NUMBER with the address of the first one; auto on SLURM, Kubernetes and TPU pods.
        tensorboard: write the run's numbers for TensorBoard too, into OUT/tensorboard.
    """
    from jaxconv.train.command import train_command

    if network is not None and (":" not in network or model not in (None, network)):
        raise ValueError(f"{network} is not MODULE:NAME or FILE.py:NAME of a model of your own, or --model is another")
    model = network or model
    given = {
        "data": data and str(data), "split": split, "val_split": val_split, "model": model, "steps": steps,
        "labels": labels, "init": init, "loss": loss, "class_weighting": class_weights, "optimiser": optimiser,
        "schedule": schedule, "augment": augment, "freeze": freeze,
    }  # fmt: skip
    train_command(config, out, given, set, restart, extend, mesh, hosts, tensorboard)


def look_at_data(
    folder: Folder,
    split: str | None = None,
    val_split: str | None = None,
    labels: str | None = None,
    set: tuple[str, ...] = (),
    json: bool = False,
    picture: Path | None = None,
) -> None:
    """Look at a folder of images and label maps as a training would read it, and say what is wrong with it.

    Args:
        folder: with SPLIT/*.png beside SPLITannot/*.png.
        split: training images (train).
        val_split: images that score the network (val).
        labels: what the values in the label maps mean, as 0:background,255:cell, or 255/0/0:cell for colours; the name
            - means not labelled.
        set: any other key of the training config, as KEY=VALUE.
        json: print one JSON object.
        picture: PNG of eight training images with their labels laid over.
    """
    from jaxconv.train.command import config_of
    from jaxconv.train.survey import data_command

    given = {"data": str(folder), "split": split, "val_split": val_split, "labels": labels}
    data_command(config_of(None, given, set), json, picture)


def evaluate(
    run: Folder, data: Path | None = None, split: str | None = None, batch_size: int = 8, picture: Path | None = None
) -> None:
    """Score a run folder's network: IoU of each class and its boundary, and mIoU.

    Args:
        run: run folder, from train or convert.
        data: folder with SPLIT/*.png beside SPLITannot/*.png; without it what the run was trained on.
        split: which images; without it those that scored the run when it was finished.
        batch_size: images at a time.
        picture: PNG of which classes are taken for which.
    """
    from jaxconv.train.evaluation import evaluate as call

    call(run, data_folder=data, split=split, batch_size=batch_size, picture=picture)


def predict(
    run: Folder,
    images: Images,
    out: Path,
    labels: bool = False,
    probabilities: bool = False,
    tile: int | None = None,
    flips: Literal["none", "horizontal", "both"] = "none",
    scales: tuple[float, ...] = (1.0,),
) -> None:
    """Segment images of any size and write overlays in the run's palette.

    Args:
        run: run folder, from train or convert.
        images: image files, .npy files, or folders of them.
        out: folder for NAME_overlay.png.
        labels: also write NAME_labels.png, whose value is the class.
        probabilities: also write NAME_probabilities.npy, (height, width, classes).
        tile: pixels of a tile's side; without it 512 where an image is large; 0 computes whole images.
        flips: average over flipped images too.
        scales: average over the image resized by these factors.
    """
    from jaxconv.train.prediction import predict as call

    options: dict[str, Any] = {"labels": labels, "probabilities": probabilities, "tile": tile}
    call(run, images, out, **options, flips=flips, scales=scales)


def export(
    run: Folder,
    out: Path | None = None,
    size: tuple[int, int] | None = None,
    probabilities: bool = False,
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu"),
) -> None:
    """Write a run's network as a StableHLO program of any batch, and a loader that needs only jax.

    Args:
        run: run folder, from train or convert.
        out: folder for network.stablehlo and load.py; default RUN/exported.
        size: height and width of the images; default those that the run was trained on.
        probabilities: give the probability of each class, not the best class.
        platforms: what it shall run on.
    """
    from jaxconv._text import print_line
    from jaxconv.train.exporting import export as call

    written = call(run, out, size=size, probabilities=probabilities, platforms=platforms)
    print_line(f"wrote {written}; {written.with_name('load.py')} runs it")


def convert(
    checkpoint: Folder,
    model: str,
    out: Path,
    set: tuple[str, ...] = (),
    convention: Literal["torch", "keras"] = "torch",
    fold_batch_norm: bool = False,
    dry_run: bool = False,
) -> None:
    """Turn another framework's checkpoint into a run folder, or into weights to train from.

    Args:
        checkpoint: PyTorch state_dict, safetensors or .npz file.
        model: which architecture it is for, such as enet.
        out: run folder to write; or NAME.safetensors, the weights alone for train --init, for which the file may lack
            a part, such as a decoder or a head of as many classes.
        set: arguments of the model, as KEY=VALUE, such as classes=21.
        convention: how the file names and lays out its tensors.
        fold_batch_norm: store the network with batch normalisation folded into its convolutions.
        dry_run: only say which tensor would go where, and which normalisation would be folded.
    """
    from jaxconv._text import print_line
    from jaxconv.convert import convert_checkpoint
    from jaxconv.train.config import parse_settings

    options: dict[str, Any] = {"convention": convention, "fold_batch_norm": fold_batch_norm, "dry_run": dry_run}
    options["model_kwargs"] = parse_settings(set) or None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        made = convert_checkpoint(checkpoint, model, out, **options)
    for text in (*(str(w.message) for w in said), str(made)):
        print_line(text)


def bench() -> None:
    """Time layers and networks against other libraries, or compile them for an accelerator (bench --help)."""


def explain(
    what: Annotated[str, tyro.conf.Positional],
    input: str | None = None,
    image: Path | None = None,
    out: Path | None = None,
    spatial_axes: str | None = None,
    output: int | None = None,
    tile: int | None = None,
    input_range: str | None = None,
) -> None:
    """Explain a network: what it sees, where it has holes, where it prints checkerboards. Writes one HTML page.

    Args:
        what: run folder, model name, FILE.onnx, MODULE:NAME or FILE.py:NAME. NAME is a function of one image (then
            give --input or --image), or a function without arguments that returns (fn, image, ...).
        input: shape of the image, as 1,256,256,3.
        image: picture to draw the receptive field on.
        out: HTML file; default explain.html in a run folder, else NAME-explain.html.
        spatial_axes: spatial axes of the image, as 2,3; all but the first and the last by default.
        output: which output is meant, of a function with several.
        tile: tile size in pixels that the advice on large images is for; 512, and 96 for a volume.
        input_range: lowest and highest value that the network is made for, as 0,1 or -1,1 (written
            --input-range=-1,1); a run folder knows its own.
    """
    from jaxconv.explain.command import explain_command, integers, interval

    axes = integers("--spatial-axes", spatial_axes)
    shape = integers("--input", input)
    within = interval("--input-range", input_range)
    options: dict[str, Any] = {"spatial_axes": axes, "output": output, "tile": tile, "input_range": within}
    explain_command(what, shape=shape, image=image, out=out, **options)


# What other programs call a flag; the hint is given where the command has the flag that it names.
FLAGS = {
    "epochs": "--steps", "iterations": "--steps", "iters": "--steps", "max_steps": "--steps", "dataset": "--data",
    "data_dir": "--data", "data_path": "--data", "output_dir": "--out", "out_dir": "--out", "output": "--out",
    "save_dir": "--out", "logdir": "--out", "arch": "--model", "architecture": "--model", "network": "--model",
    "weights": "--init", "checkpoint": "--init", "pretrained": "--init", "overwrite": "--restart",
    "shape": "--input", "input_shape": "--input", "input_size": "--input", "size": "--input", "img_size": "--input",
    "tile_size": "--tile", "format": "--convention",
}  # fmt: skip
# What other programs call a key of the training's config; its own keys are known as well.
KEYS = {
    "lr": "learning_rate", "wd": "weight_decay", "bs": "batch_size", "batch": "batch_size", "crop_size": "crop",
    "ignore_label": "ignore_index", "warmup": "warmup_steps", "grad_clip": "clip_norm",
    "optimizer": "optimiser", "criterion": "loss", "patience": "early_stop", "dtype": "compute",
    "checkpointing": "remat", "accum": "accumulate", "grad_accum": "accumulate", "augmentation": "augment",
    "aug": "augment",
}  # fmt: skip

COMMANDS: dict[str, Callable[..., Any]] = {
    "train": train,
    "data": look_at_data,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "convert": convert,
    "explain": explain,
    "bench": bench,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; a mistake in what was given is one sentence on stderr and exit status 1."""
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has gone (`| head`): nothing is left to say to anybody
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(arguments: list[str] | None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    description: str | None = "Convolution for dense prediction in JAX."
    commands, prog = COMMANDS, "jaxconv"
    if given[:1] == ["bench"]:
        from jaxconv import bench_commands

        commands, prog, description, given = bench_commands.COMMANDS, "jaxconv bench", bench.__doc__, given[1:]
        given = bench_commands.sub_command(given)
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog=prog,
            description=description,
            args=given,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as refused:
        if refused.code and given and given[0] in commands:
            for line in flag_hints(commands[given[0]], given[1:]):
                print(f"jaxconv: {printable(line)}", file=sys.stderr)
        raise
    except BrokenPipeError:
        raise
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError, MemoryError) as error:
        said = named(error, "this command") if isinstance(error, ModuleNotFoundError) else error
        print(f"jaxconv: {printable(str(said))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        what = " ".join([prog, *given[:1]])
        print(f"jaxconv: {str(stop) or f'{what} was stopped; what it had not yet written is lost'}", file=sys.stderr)
        return 130
    return 0


def flag_hints(command: Callable[..., Any], given: Sequence[str]) -> list[str]:
    """What the flags that a command does not have are called here; nothing for those that nobody calls so.

    Example:
        >>> flag_hints(train, ["--lr", "3e-4"])
        ['--lr is --set learning_rate=... here']
    """
    from jaxconv.train.config import TrainConfig

    known = inspect.signature(command).parameters
    keys = {field.name: field.name for field in fields(TrainConfig)} | KEYS if command is train else {}
    hints = []
    for flag in (word.partition("=")[0] for word in given if word.startswith("--")):
        name = flag[2:].replace("-", "_")
        if name in known:
            continue
        if name in keys:
            key = keys[name]
            hints.append(f"{flag} is --{key} here" if key in known else f"{flag} is --set {key}=... here")
        elif FLAGS.get(name, "--")[2:] in known:
            hints.append(f"{flag} is {FLAGS[name]} here")
    return hints


if __name__ == "__main__":
    sys.exit(main())
