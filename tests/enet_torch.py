"""ENet in PyTorch, written from the description of the published weights: the peer of `jaxconv.models.ENet`."""

import torch
from torch import nn
from torch.nn import functional as F

STAGE = ["regular", 2, "asymmetric", 4, "regular", 8, "asymmetric", 16]


def row(conv, prelu=True):
    """Convolution, batch normalisation and a PReLU with one slope."""
    layers = [conv, nn.BatchNorm2d(conv.out_channels)]
    return nn.Sequential(*layers, nn.PReLU()) if prelu else nn.Sequential(*layers)


def conv(into, out, kernel_size, **kwargs):
    return nn.Conv2d(into, out, kernel_size, bias=False, **kwargs)


class Initial(nn.Module):
    def __init__(self):
        super().__init__()
        self.main_branch = conv(3, 13, 3, stride=2, padding=1)
        self.batch_norm = nn.BatchNorm2d(16)
        self.out_prelu = nn.PReLU(16)

    def forward(self, x):
        pooled = F.max_pool2d(x, 3, stride=2, padding=1)
        return self.out_prelu(self.batch_norm(torch.cat([self.main_branch(x), pooled], dim=1)))


class Branch(nn.Module):
    """The extension branch and the PReLU after the sum, which all other blocks have."""

    def __init__(self, first, second, third, out):
        super().__init__()
        self.ext_conv1, self.ext_conv2, self.ext_conv3 = first, second, third
        self.out_prelu = nn.PReLU(out)

    def join(self, main, x):
        return self.out_prelu(main + self.ext_conv3(self.ext_conv2(self.ext_conv1(x))))


class Bottleneck(Branch):
    def __init__(self, channels, kind):
        inner = channels // 4
        if kind == "asymmetric":
            second = nn.Sequential(
                *row(conv(inner, inner, (5, 1), padding=(2, 0))), *row(conv(inner, inner, (1, 5), padding=(0, 2)))
            )
        else:
            rate = 1 if kind == "regular" else kind
            second = row(conv(inner, inner, 3, padding=rate, dilation=rate))
        super().__init__(row(conv(channels, inner, 1)), second, row(conv(inner, channels, 1)), channels)

    def forward(self, x):
        return self.join(x, x)


class Down(Branch):
    def __init__(self, into, out):
        inner = into // 4
        first, second = row(conv(into, inner, 2, stride=2)), row(conv(inner, inner, 3, padding=1))
        super().__init__(first, second, row(conv(inner, out, 1)), out)
        self.added = out - into

    def forward(self, x):
        main, indices = F.max_pool2d(x, 3, stride=2, padding=1, return_indices=True)
        return self.join(F.pad(main, (0, 0, 0, 0, 0, self.added)), x), indices


class Up(Branch):
    def __init__(self, into, out):
        inner = into // 4
        up = nn.ConvTranspose2d(inner, inner, 3, stride=2, padding=1, output_padding=1, bias=False)
        super().__init__(row(conv(into, inner, 1)), row(up), row(conv(inner, out, 1)), out)
        self.main_conv1 = row(conv(into, out, 1), prelu=False)

    def forward(self, x, indices):
        size = [2 * n for n in x.shape[2:]]
        return self.join(F.max_unpool2d(self.main_conv1(x), indices, 2, output_size=size), x)


class ENet(nn.Module):
    def __init__(self, classes=12):
        super().__init__()
        self.initial_block = Initial()
        self.downsample1_0 = Down(16, 64)
        self.stages = {"1": self.add(1, 1, ["regular"] * 4, 64)}
        self.downsample2_0 = Down(64, 128)
        self.stages["2"] = self.add(2, 1, STAGE, 128)
        self.stages["3"] = self.add(3, 0, STAGE, 128)
        self.upsample4_0 = Up(128, 64)
        self.stages["4"] = self.add(4, 1, ["regular"] * 2, 64)
        self.upsample5_0 = Up(64, 16)
        self.stages["5"] = self.add(5, 1, ["regular"], 16)
        self.transposed_conv = nn.ConvTranspose2d(16, classes, 3, stride=2, padding=1, bias=False)

    def add(self, number, first, kinds, channels):
        names = []
        for i, kind in enumerate(kinds, first):
            names.append(f"{kind if isinstance(kind, str) else 'dilated'}{number}_{i}")
            self.add_module(names[-1], Bottleneck(channels, kind))
        return names

    def run(self, stage, x):
        for name in self.stages[stage]:
            x = getattr(self, name)(x)
        return x

    def forward(self, x):
        size = x.shape[2:]
        x = self.initial_block(x)
        x, indices1 = self.downsample1_0(x)
        x, indices2 = self.downsample2_0(self.run("1", x))
        x = self.run("3", self.run("2", x))
        x = self.run("4", self.upsample4_0(x, indices2))
        x = self.run("5", self.upsample5_0(x, indices1))
        return self.transposed_conv(x, output_size=size)
