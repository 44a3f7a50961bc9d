"""A U-Net on street scenes: CamVid at half its height and width."""

from jaxconv.train.config import TrainConfig

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")


def config() -> TrainConfig:
    """Four levels of 16 to 128 channels, crops of 160x224 of images of 360x480, whose label 11 is not labelled.

    Paper: U-Net, arXiv:1505.04597, here narrower and with batch normalisation.
    Expected: val mIoU 0.258 after 12 passes over 184 images; the best classifier of single pixel intensities has 0.122
    (seed 0, jax 0.10.2 on a CPU).
    Time: 630 s of processor time, peak memory 1.36 GiB.
    Command: jaxconv train --config camvid_unet --data camvid
    """
    return TrainConfig(
        model_kwargs={"widths": [16, 32, 64, 128]},
        labels=dict(enumerate(CLASSES)) | {11: "-"},
        crop=(160, 224),
        steps=280,
        batch_size=8,
        loss="cross_entropy+dice",
        augment="hflip+scale=0.75:1.5+colour=0.1",
        eval_every=140,
        checkpoint_every=70,
    )
