"""A U-Net on the electron micrographs of ISBI 2012: membranes between cells."""

from jaxconv.train.config import TrainConfig


def config() -> TrainConfig:
    """Three levels of 16 to 64 channels, crops of 96x96 with elastic changes; docs/volumes.md has the other scores.

    Paper: U-Net, arXiv:1505.04597, here narrower and with batch normalisation.
    Expected: val mIoU 0.751 (slices 24 to 29); the best classifier of single pixel intensities has 0.569 (seed 0, jax
    0.10.2 on a CPU).
    Time: 123 s of processor time for 250 steps of 4 crops and all scores, peak memory 0.92 GiB.
    Command: jaxconv train --config isbi2012_unet --data isbi2012
    """
    return TrainConfig(
        model_kwargs={"widths": [16, 32, 64]},
        labels={0: "membrane", 255: "cell"},
        channels=1,
        crop=(96, 96),
        steps=250,
        batch_size=4,
        loss="cross_entropy+dice",
        augment="hflip+vflip+rot90+scale=0.8:1.25+elastic=4",
        eval_every=125,
        checkpoint_every=125,
    )
