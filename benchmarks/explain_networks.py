"""How long the analysis takes on real networks at 512x512: U-Net, ENet, and a DeepLab with a ResNet-50.

python benchmarks/explain_networks.py
"""

import argparse
import time

import jax
import jax.numpy as jnp
from flax import nnx

import jaxconv as jc
from jaxconv.models import ENet, UNet


def layer(x, out, k=3, stride=1, rate=1):
    w = jnp.ones((k, k, x.shape[-1], out))
    return jax.nn.relu(jc.conv(x, w, stride=stride, padding=rate * (k // 2), dilation=rate) * 2 - 1)


def deeplab(x):
    """ResNet-50 at stride 8 with dilated last stages, atrous pyramid, bilinear resize; real widths."""
    size = x.shape[1:3]
    x = jc.max_pool(layer(x, 64, 7, stride=2), 3, stride=2, padding=1)
    for out, blocks, stride, rate in ((256, 3, 1, 1), (512, 4, 2, 1), (1024, 6, 1, 2), (2048, 3, 1, 4)):
        for block in range(blocks):
            s = stride if block == 0 else 1
            skip = layer(x, out, 1, stride=s) if block == 0 else x
            x = skip + layer(layer(layer(x, out // 4, 1), out // 4, stride=s, rate=rate), out, 1)
    pyramid = [layer(x, 256, 1), *(layer(x, 256, rate=r) for r in (6, 12, 18))]
    x = layer(layer(jnp.concatenate(pyramid, axis=-1), 256, 1), 21, 1)
    return jc.resize(x, size)


def networks():
    for name, make in (
        ("U-Net", lambda: UNet(3, 5, rngs=nnx.Rngs(0))),
        ("ENet", lambda: ENet(12, rngs=nnx.Rngs(0))),
    ):
        model = nnx.eval_shape(make)
        model.eval()
        yield name, model
    yield "DeepLab, ResNet-50", deeplab


def measure(net, image):
    """The field and the counts of its output in the middle; seconds of the field, counts, coverage and gridding."""
    steps = [time.perf_counter()]
    field = jc.analysis.receptive_field(net, image)
    steps.append(time.perf_counter())
    counts = field.counts(field.central_index)
    steps.append(time.perf_counter())
    assert field.coverage <= 1
    steps.append(time.perf_counter())
    jc.analysis.gridding(net, image).table()
    steps.append(time.perf_counter())
    return field, counts, [after - before for before, after in zip(steps, steps[1:])]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="rows and columns of the image")
    size = parser.parse_args().size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    print(f"{'network':20s}{'size':>6s}{'paths':>9s}{'field':>9s}{'counts':>9s}{'coverage':>10s}{'gridding':>10s}  s")
    total = 0.0
    for name, net in networks():
        field, counts, seconds = measure(net, image)
        total += sum(seconds)
        a, b, c, d = seconds
        print(f"{name:20s}{field.size[0]:6d}{counts.max():9.1e}{a:9.2f}{b:9.3f}{c:10.2f}{d:10.2f}")
    print(f"all told {total:.2f} s")


if __name__ == "__main__":
    main()
