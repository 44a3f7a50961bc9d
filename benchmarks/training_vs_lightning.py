"""The main job of ``jaxconv train`` beside the same training in PyTorch Lightning: processor time and memory of a step.

Both train a U-Net of 16, 32 and 64 channels with batch normalisation on mosaics of 96x96, 12 a step, float32: AdamW
with decay on kernels only, gradients clipped by their norm, a warm-up and a cosine, the loss logged every tenth step.
Each run is a process of its own. A step is what lies between two batches that the framework asks for: data, forward,
backward, optimiser and logging, without what comes after the last step; peak memory is that of the whole process during
the counted steps.

Run from the top of the checkout, pinned to one core: ``taskset -c 1 python benchmarks/training_vs_lightning.py``, in an
environment that has lightning beside ``jaxconv[train]``.
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WARM, STEPS, REPEATS = 5, 25, 3
WIDTHS, CLASSES, BATCH, SIDE, RATE, DECAY, CLIP, WARM_UP = (16, 32, 64), 6, 12, 96, 4e-3, 1e-3, 1.0, 20


class Clock:
    """Says when each batch is asked for, and the peak of memory between the first and the last counted one."""

    def __init__(self):
        self.times = []

    def tick(self):
        self.times.append((time.process_time(), time.perf_counter()))
        if len(self.times) == WARM:
            Path("/proc/self/clear_refs").write_text("5")
        self.peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]

    def figures(self):
        cpu, wall = ((self.times[-1][i] - self.times[WARM][i]) / (len(self.times) - 1 - WARM) for i in (0, 1))
        return {"cpu_ms": 1000 * cpu, "wall_ms": 1000 * wall, "peak_mib": int(self.peak) / 1024}


def mosaics():
    from jaxconv.train.mosaic import Mosaics

    return Mosaics.of_photographs("train", size=SIDE)


def with_jaxconv(clock):
    import dataclasses

    from rich.console import Console

    from jaxconv.train import TrainConfig, train
    from jaxconv.train.command import keep_memory
    from jaxconv.train.data import load_data

    keep_memory()  # as `jaxconv train` does

    config = TrainConfig(steps=WARM + STEPS, eval_every=10_000, test_images=4, checkpoint_every=10_000)
    data, source = load_data(config), mosaics()

    class Clocked:
        names = source.names

        def batch(self, start, count):
            if count == BATCH:  # not the examples that the final scores are compared with
                clock.tick()
            return source.batch(start, count)

    with tempfile.TemporaryDirectory() as folder:
        train(config, f"{folder}/run", data=dataclasses.replace(data, train=Clocked()), console=Console(quiet=True))


def with_lightning(clock, channels_last):
    import lightning
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Sequential):
        def __init__(self, into, out):
            super().__init__(nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())

    class Network(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            ways = list(zip((1, *WIDTHS), WIDTHS, strict=False))
            self.down = nn.ModuleList(nn.Sequential(Block(i, o), Block(o, o)) for i, o in ways)
            ways = list(zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True))
            self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in ways)
            self.after = nn.ModuleList(nn.Sequential(Block(2 * o, o), Block(o, o)) for _, o in ways)
            self.head = nn.Conv2d(WIDTHS[0], CLASSES, 1)

        def forward(self, x):
            skips = []
            for level, block in enumerate(self.down):
                x = block(F.max_pool2d(x, 2) if level else x)
                skips.append(x)
            for up, block, skip in zip(self.up, self.after, skips[-2::-1], strict=True):
                x = block(torch.cat([skip, up(x)], 1))
            return self.head(x)

        def training_step(self, batch, index):
            images, labels = batch
            loss = F.cross_entropy(self((images / 255 - 0.5) / 0.25), labels)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            kernels = [p for p in self.parameters() if p.ndim > 1]
            others = [p for p in self.parameters() if p.ndim == 1]
            groups = [{"params": kernels, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
            optimiser = torch.optim.AdamW(groups, RATE)

            def rate(step):
                after = max(0.0, (step - WARM_UP) / (WARM + STEPS - WARM_UP))
                return min(step / WARM_UP, (1 + math.cos(math.pi * after)) / 2)

            schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
            return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    class Source(torch.utils.data.IterableDataset):
        def __iter__(self):
            source = mosaics()
            for step in range(WARM + STEPS):
                clock.tick()
                images, labels = source.batch(step * BATCH, BATCH)
                yield torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float(), torch.from_numpy(labels).long()

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    network = Network()
    network = network.to(memory_format=torch.channels_last) if channels_last else network
    with tempfile.TemporaryDirectory() as folder:
        logger = lightning.pytorch.loggers.CSVLogger(folder)
        trainer = lightning.Trainer(
            accelerator="cpu", max_steps=WARM + STEPS, gradient_clip_val=CLIP, log_every_n_steps=10, logger=logger,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(network, torch.utils.data.DataLoader(Source(), batch_size=None))


WAYS = {
    "jaxconv train": with_jaxconv,
    "PyTorch Lightning": lambda clock: with_lightning(clock, False),
    "PyTorch Lightning, channels_last": lambda clock: with_lightning(clock, True),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", choices=WAYS, help="run one training here and print its figures")
    options = parser.parse_args()
    if options.one:
        clock = Clock()
        WAYS[options.one](clock)
        print(json.dumps(clock.figures()))
        return
    found = {name: [] for name in WAYS}
    for _ in range(REPEATS):  # in turn: what disturbs one disturbs all
        for name in WAYS:
            done = subprocess.run([sys.executable, __file__, "--one", name], capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    print("| training | step, ms of processor time: least (median) | steps a second | peak memory, MiB |")
    print("|---|---|---|---|")
    for name, runs in found.items():
        cpu = [run["cpu_ms"] for run in runs]
        wall, peak = min(run["wall_ms"] for run in runs), statistics.median(run["peak_mib"] for run in runs)
        print(f"| {name} | {min(cpu):.0f} ({statistics.median(cpu):.0f}) | {1000 / wall:.1f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
