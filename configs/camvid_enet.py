"""ENet on CamVid in the layout of the SegNet tutorial: 480x360, labels 0..10 and 11 for unlabelled pixels."""

from jaxconv.train.config import TrainConfig


def config() -> TrainConfig:
    """ENet with the paper's class weights, batch size 10 and weight decay, on whole images.

    Paper: ENet, arXiv:1606.02147, section 5.2: Adam, learning rate 5e-4, batch size 10; 51.3 class IoU on the test set.
    Expected: not trained to the end by the authors of this file.
    Time: meant for an accelerator.
    Command: jaxconv train --config camvid_enet --data FOLDER --split train --val-split val
    """
    return TrainConfig(
        model="enet",
        model_kwargs={},
        ignore_index=11,
        size_multiple=8,
        crop=(360, 480),
        steps=11000,
        batch_size=10,
        learning_rate=5e-4,
        warmup_steps=200,
        weight_decay=2e-4,
        class_weighting="enet",
        log_every=50,
        eval_every=500,
        eval_images=32,
        checkpoint_every=500,
    )
