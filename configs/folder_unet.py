"""A U-Net on a folder of images and label maps."""

from jaxconv.train.config import TrainConfig


def config() -> TrainConfig:
    """Four levels, RGB crops of 192x192, labels 255 ignored; a starting point for one's own images.

    Paper: U-Net, arXiv:1505.04597, here with batch normalisation.
    Expected: depends on the images; metrics.csv has the validation mIoU every 250 steps.
    Time: not measured; 18 times the pixels of the main job, so meant for an accelerator.
    Command: jaxconv train --config folder_unet --data FOLDER --split train --val-split val
    """
    return TrainConfig(
        model_kwargs={"widths": [16, 32, 64, 128]},
        ignore_index=255,
        crop=(192, 192),
        steps=2500,
        batch_size=8,
        learning_rate=2e-3,
        warmup_steps=100,
        class_weighting="enet",
        log_every=25,
        eval_every=250,
        checkpoint_every=250,
    )
