"""The networks of jaxconv.models as PyTorch statements, with the names that published weights have, at any width."""

# ruff: noqa: E501, B905

import torch
import torch.nn.functional as F
from torch import nn


def seq(*layers):
    return nn.Sequential(*layers)


def row(i, o, k, act=None, **kw):
    rate = kw.get("dilation", 1)
    layers = [nn.Conv2d(i, o, k, padding=rate * (k - 1) // 2, bias=False, **kw), nn.BatchNorm2d(o)]
    return seq(*layers, *([act()] if act else []))


def up_to(x, like):
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class VGG16(nn.Module):
    def __init__(self, widths, hidden, classes, batch_norm=False):
        super().__init__()
        layers, last = [], 3
        for width, count in zip(widths, (2, 2, 3, 3, 3)):
            for _ in range(count):
                layers += [
                    nn.Conv2d(last, width, 3, padding=1),
                    *([nn.BatchNorm2d(width)] if batch_norm else []),
                    nn.ReLU(),
                ]
                last = width
            layers.append(nn.MaxPool2d(2))
        self.features = seq(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = seq(
            nn.Linear(last * 49, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(),
            nn.Linear(hidden, classes),
        )  # fmt: skip

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class Bottleneck(nn.Module):
    def __init__(self, i, width, stride, rate):
        super().__init__()
        o = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(i, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, rate, rate, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, o, 1, bias=False), nn.BatchNorm2d(o)
        self.downsample = shortcut(i, o, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Basic(nn.Module):
    def __init__(self, i, o, stride, rate):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, rate, rate, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, rate, rate, bias=False), nn.BatchNorm2d(o)
        self.downsample = shortcut(i, o, stride)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def shortcut(i, o, stride):
    return seq(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o)) if stride > 1 or i != o else None


class ResNet(nn.Module):
    def __init__(self, depth, width, classes, stride=32, rates=None):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        block, times = (Basic, 1) if depth < 50 else (Bottleneck, 4)
        last, rate, reached, self.channels = width, 1, 4, [width]
        counts = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth]
        for stage, count in enumerate(counts):
            s, first = (1 if stage == 0 else 2), rate
            if reached * s > stride:
                rate, s = rate * 2, 1
            reached *= s
            chosen = [rates[stage][i % len(rates[stage])] if rates else rate if i else first for i in range(count)]
            blocks = []
            for i, dilation in enumerate(chosen):
                blocks.append(block(last, width << stage, s if i == 0 else 1, dilation))
                last = times * (width << stage)
            setattr(self, f"layer{stage + 1}", seq(*blocks))
            self.channels.append(last)
        self.fc = nn.Linear(last, classes) if classes else None

    def levels(self, x):
        found = [F.relu(self.bn1(self.conv1(x)))]
        x = F.max_pool2d(found[0], 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
            found.append(x)
        return found

    def forward(self, x):
        return self.fc(self.levels(x)[-1].mean((2, 3)))


class Inverted(nn.Module):
    def __init__(self, i, o, s, e, rate=1):
        super().__init__()
        h = i * e
        rows = [row(i, h, 1, nn.ReLU6)] if e > 1 else []
        rows += [
            row(h, h, 3, nn.ReLU6, stride=s, groups=h, dilation=rate),
            nn.Conv2d(h, o, 1, bias=False),
            nn.BatchNorm2d(o),
        ]
        self.conv, self.adds = seq(*rows), s == 1 and i == o

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


def mobile_features(width, stride=32):
    def even(c):
        n = max(8, int(c + 4) // 8 * 8)
        return n + 8 if n < 0.9 * c else n

    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    last, reached, rate = even(32 * width), 2, 1
    layers = [row(3, last, 3, nn.ReLU6, stride=2)]
    for e, c, n, s in table:
        first = rate
        if reached * s > stride:
            rate, s = rate * s, 1
        reached *= s
        for i in range(n):
            layers.append(Inverted(last, even(c * width), s if i == 0 else 1, e, first if i == 0 else rate))
            last = even(c * width)
    return seq(*layers, row(last, 1280, 1, nn.ReLU6))


class MobileNetV2(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.features = mobile_features(width)
        self.classifier = seq(nn.Dropout(), nn.Linear(1280, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def separable(i, o, rate=1):
    return seq(nn.Conv2d(i, i, 3, padding=rate, dilation=rate, groups=i, bias=False), nn.Conv2d(i, o, 1, bias=False))


class ASPP(nn.Module):
    def __init__(self, i, o, rates, apart=True):
        super().__init__()

        def branch(r):
            return seq(separable(i, o, r), nn.BatchNorm2d(o), nn.ReLU()) if apart else row(i, o, 3, nn.ReLU, dilation=r)

        branches = [row(i, o, 1, nn.ReLU), *map(branch, rates)]
        self.convs = nn.ModuleList([*branches, seq(nn.AdaptiveAvgPool2d(1), *row(i, o, 1, nn.ReLU))])
        self.project = seq(*row(o * (2 + len(rates)), o, 1, nn.ReLU), nn.Dropout())

    def forward(self, x):
        parts = [branch(x) for branch in self.convs]
        parts[-1] = parts[-1].expand(-1, -1, *x.shape[-2:])
        return self.project(torch.cat(parts, 1))


class Holder(nn.Module):
    """Layers under names, applied in order unless told otherwise."""

    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x


class DeepLabV3Plus(nn.Module):
    """MobileNetV2 at output stride 16, named as segmentation_models_pytorch does."""

    def __init__(self, share, width, classes, rates):
        super().__init__()
        features = mobile_features(share, 16)
        low = features[2].conv[-1].num_features

        def sep(i):
            return [separable(i, width), nn.BatchNorm2d(width), nn.ReLU()]

        self.encoder = Holder(features=features)
        self.decoder = Holder(
            aspp=seq(ASPP(1280, width, rates), *sep(width)),
            block1=row(low, 48, 1, nn.ReLU),
            block2=seq(*sep(48 + width)),
        )
        self.segmentation_head = seq(nn.Conv2d(width, classes, 1))

    def forward(self, x):
        features = self.encoder.features
        low = features[3](features[:3](x))
        y = up_to(self.decoder.aspp(features[4:](low)), low)
        y = self.decoder.block2(torch.cat([y, self.decoder.block1(low)], 1))
        return up_to(self.segmentation_head(y), x)


class FCN8s(nn.Module):
    """With the names of pytorch-fcn; padding 100 with its crops, or aligned."""

    def __init__(self, widths, hidden, classes, padding):
        super().__init__()
        last, self.padding, self.names = 3, padding, []
        for stage, (width, count) in enumerate(zip(widths, (2, 2, 3, 3, 3)), 1):
            self.names.append([f"conv{stage}_{i}" for i in range(1, count + 1)])
            for name in self.names[-1]:
                setattr(self, name, nn.Conv2d(last, width, 3, padding=padding if name == "conv1_1" else 1))
                last = width
        aligned = padding == 1
        self.fc6, self.fc7 = nn.Conv2d(last, hidden, 7, padding=3 if aligned else 0), nn.Conv2d(hidden, hidden, 1)
        self.score_fr = nn.Conv2d(hidden, classes, 1)
        self.score_pool3, self.score_pool4 = nn.Conv2d(widths[2], classes, 1), nn.Conv2d(widths[3], classes, 1)
        for name, k in (("upscore2", 4), ("upscore8", 16), ("upscore_pool4", 4)):
            setattr(self, name, nn.ConvTranspose2d(classes, classes, k, k // 2, bias=False))

    def up(self, layer, y, size, cut):
        y = layer(y)
        return y[..., cut : cut + size[0], cut : cut + size[1]]

    def forward(self, x):
        y, pools = x, []
        for names in self.names:
            for name in names:
                y = F.relu(getattr(self, name)(y))
            y = F.max_pool2d(y, 2, ceil_mode=True)
            pools.append(y)
        y = self.score_fr(F.relu(self.fc7(F.relu(self.fc6(y)))))
        three, four = self.score_pool3(pools[2]), self.score_pool4(pools[3])
        if self.padding == 1:
            y = self.up(self.upscore2, y, four.shape[-2:], 1) + four
            y = self.up(self.upscore_pool4, y, three.shape[-2:], 1) + three
            return self.up(self.upscore8, y, x.shape[-2:], 4)
        y = self.upscore2(y)
        y = self.upscore_pool4(y + self.up(lambda t: t, four, y.shape[-2:], 5))
        return self.up(self.upscore8, y + self.up(lambda t: t, three, y.shape[-2:], 9), x.shape[-2:], 31)


class SegNet(nn.Module):
    """VGG-16 with batch normalisation, unpooled by its own indices."""

    def __init__(self, widths, classes):
        super().__init__()
        self.encoder = Holder(features=VGG16(widths, 1, 1, True).features)
        stages, into = nn.ModuleList(), widths[-1]
        for i in range(4, -1, -1):
            out = widths[max(i - 1, 0)]
            rows = (
                [row2(into, widths[i])]
                + ([row2(widths[i], widths[i])] if i > 1 else [])
                + ([row2(widths[i], out)] if i else [])
            )
            stages.append(seq(*rows))
            into = out
        self.decoder = Holder(stages=stages, head=nn.Conv2d(widths[0], classes, 3, padding=1))

    def forward(self, x):
        found = []
        for layer in self.encoder.features:
            if isinstance(layer, nn.MaxPool2d):
                size = x.shape[-2:]
                x, indices = F.max_pool2d(x, 2, return_indices=True)
                found.append((indices, size))
            else:
                x = layer(x)
        for stage in self.decoder.stages:
            indices, size = found.pop()
            x = stage(F.max_unpool2d(x, indices, 2, output_size=size))
        return self.decoder.head(x)


def row2(i, o):
    return row(i, o, 3, nn.ReLU)


class C(nn.Module):
    def __init__(self, i, o, k, s=1, d=1):
        super().__init__()
        self.conv = nn.Conv2d(i, o, k, s, (k - 1) // 2 * d, d, bias=False)

    def forward(self, x):
        return self.conv(x)


def bn(c):
    return nn.BatchNorm2d(c, eps=1e-3)


class Pyramid(nn.Module):
    def __init__(self, i, o, halve=False, add=True):
        super().__init__()
        n = o // 5
        self.c1, self.add = C(i, n, 3, 2) if halve else C(i, n, 1), add and not halve
        for d in (1, 2, 4, 8, 16):
            setattr(self, f"d{d}", C(n, o - 4 * n if d == 1 else n, 3, 1, d))
        if halve:
            self.bn, self.act = bn(o), nn.PReLU(o)
        else:
            self.bn, self.act = Holder(bn=bn(o), act=nn.PReLU(o)), nn.Identity()

    def forward(self, x):
        y = self.c1(x)
        d1, d2, d4, d8, d16 = (getattr(self, f"d{d}")(y) for d in (1, 2, 4, 8, 16))
        y = torch.cat([d1, d2, d2 + d4, d2 + d4 + d8, d2 + d4 + d8 + d16], 1)
        return self.act(self.bn(x + y if self.add else y))


class ESPNet(nn.Module):
    def __init__(self, classes, p, q):
        super().__init__()

        def br(c):
            return Holder(bn=bn(c), act=nn.PReLU(c))

        def cbr(i, o, k, s=1):
            return Holder(conv=nn.Conv2d(i, o, k, s, 1, bias=False), bn=bn(o), act=nn.PReLU(o))

        def up():
            return nn.ConvTranspose2d(classes, classes, 2, 2, bias=False)

        self.encoder = Holder(
            level1=cbr(3, 16, 3, 2), b1=br(19), level2_0=Pyramid(19, 64, True),
            level2=seq(*(Pyramid(64, 64) for _ in range(p))), b2=br(131), level3_0=Pyramid(131, 128, True),
            level3=seq(*(Pyramid(128, 128) for _ in range(q))), b3=br(256), classifier=C(256, classes, 1),
        )  # fmt: skip
        self.level3_C, self.br, self.conv = C(131, classes, 1), bn(classes), cbr(19 + classes, classes, 3)
        self.up_l3 = seq(up())
        self.combine_l2_l3 = seq(br(2 * classes), Pyramid(2 * classes, classes, add=False))
        self.up_l2, self.classifier = seq(up(), br(classes)), up()

    def forward(self, x):
        e, half = self.encoder, F.avg_pool2d(x, 3, 2, 1)
        first = e.b1(torch.cat([e.level1(x), half], 1))
        start = e.level2_0(first)
        second = e.b2(torch.cat([e.level2(start), start, F.avg_pool2d(half, 3, 2, 1)], 1))
        start = e.level3_0(second)
        third = e.classifier(e.b3(torch.cat([start, e.level3(start)], 1)))
        y = torch.cat([self.level3_C(second), self.up_l3(self.br(third))], 1)
        y = self.up_l2(self.combine_l2_l3(y))
        return self.classifier(self.conv(torch.cat([y, first], 1)))


class UNet(nn.Module):
    """Named as Pytorch-UNet."""

    def __init__(self, i, classes, widths, rank=2):
        super().__init__()

        def of(kind, *numbers, **kw):
            return getattr(nn, f"{kind}{rank}d")(*numbers, **kw)

        def double(i, o):
            rows = [(of("Conv", a, o, 3, padding=1, bias=False), of("BatchNorm", o), nn.ReLU()) for a in (i, o)]
            return Holder(double_conv=seq(*rows[0], *rows[1]))

        self.inc, self.depth = double(i, widths[0]), len(widths) - 1
        for d, (a, b) in enumerate(zip(widths, widths[1:]), 1):
            setattr(self, f"down{d}", Holder(maxpool_conv=seq(of("MaxPool", 2), double(a, b))))
        for d, (a, b) in enumerate(zip(widths[:0:-1], widths[-2::-1]), 1):
            setattr(self, f"up{d}", Holder(up=of("ConvTranspose", a, b, 2, 2), conv=double(2 * b, b)))
        self.outc = Holder(conv=of("Conv", widths[0], classes, 1))

    def forward(self, x):
        skips = [self.inc(x)]
        for d in range(1, self.depth + 1):
            skips.append(getattr(self, f"down{d}")(skips[-1]))
        x = skips.pop()
        for d in range(1, self.depth + 1):
            level, skip = getattr(self, f"up{d}"), skips.pop()
            x = level.conv(torch.cat([skip, level.up(x)], 1))
        return self.outc(x)


def dcgan_generator(latent, w):
    layers = [nn.ConvTranspose2d(latent, 8 * w, 4, 1, 0, bias=False), nn.BatchNorm2d(8 * w), nn.ReLU()]
    for a in (8, 4, 2):
        layers += [nn.ConvTranspose2d(a * w, a * w // 2, 4, 2, 1, bias=False), nn.BatchNorm2d(a * w // 2), nn.ReLU()]
    return Holder(main=seq(*layers, nn.ConvTranspose2d(w, 3, 4, 2, 1, bias=False), nn.Tanh()))


def dcgan_discriminator(w):
    layers = [nn.Conv2d(3, w, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for a in (1, 2, 4):
        layers += [nn.Conv2d(a * w, 2 * a * w, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * a * w), nn.LeakyReLU(0.2)]
    return Holder(main=seq(*layers, nn.Conv2d(8 * w, 1, 4, bias=False)))


class HiFiGAN(nn.Module):
    def __init__(self, mels, width, strides, kernels, block_kernels, block_rates):
        super().__init__()
        wn = torch.nn.utils.parametrizations.weight_norm

        def convs(c, k, rates):
            return nn.ModuleList([wn(nn.Conv1d(c, c, k, 1, (k - 1) * r // 2, r)) for r in rates])

        self.conv_pre, self.each = wn(nn.Conv1d(mels, width, 7, padding=3)), len(block_kernels)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for s, k in zip(strides, kernels):
            self.ups.append(wn(nn.ConvTranspose1d(width, width // 2, k, s, (k - s) // 2)))
            width //= 2
            for k, rates in zip(block_kernels, block_rates):
                self.resblocks.append(Holder(convs1=convs(width, k, rates), convs2=convs(width, k, [1] * len(rates))))
        self.conv_post = wn(nn.Conv1d(width, 1, 7, padding=3))

    def forward(self, x):
        x = self.conv_pre(x)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            total = 0
            for block in self.resblocks[i * self.each : (i + 1) * self.each]:
                y = x
                for first, second in zip(block.convs1, block.convs2):
                    y = y + second(F.leaky_relu(first(F.leaky_relu(y, 0.1)), 0.1))
                total = total + y
            x = total / self.each
        return torch.tanh(self.conv_post(F.leaky_relu(x)))


class WaveNet(nn.Module):
    def __init__(self, classes, residual, dilated, skip, end, layers, blocks):
        super().__init__()
        self.rates = [2**i for i in range(layers)] * blocks

        def convs(i, o, k):
            rates = self.rates if k > 1 else [1] * len(self.rates)
            return nn.ModuleList([nn.Conv1d(i, o, k, dilation=d, bias=False) for d in rates])

        self.start_conv = nn.Conv1d(classes, residual, 1, bias=False)
        self.filter_convs, self.gate_convs = convs(residual, dilated, 2), convs(residual, dilated, 2)
        self.residual_convs, self.skip_convs = convs(dilated, residual, 1), convs(dilated, skip, 1)
        self.end_conv_1, self.end_conv_2 = nn.Conv1d(skip, end, 1), nn.Conv1d(end, classes, 1)

    def forward(self, x):
        x, total = self.start_conv(x), 0
        for i, rate in enumerate(self.rates):
            y = F.pad(x, (rate, 0))
            z = torch.tanh(self.filter_convs[i](y)) * torch.sigmoid(self.gate_convs[i](y))
            total, x = total + self.skip_convs[i](z), x + self.residual_convs[i](z)
        return self.end_conv_2(F.relu(self.end_conv_1(F.relu(total))))


class FSRCNN(nn.Module):
    def __init__(self, scale, d=56, s=12, maps=4):
        super().__init__()
        self.scale, self.maps = scale, maps
        self.feature_extract, self.activation_1 = nn.Conv2d(3, d, 5, padding=2), nn.PReLU(d)
        self.shrink, self.activation_2 = nn.Conv2d(d, s, 1), nn.PReLU(s)
        for i in range(1, maps + 1):
            setattr(self, f"map_{i}", nn.Conv2d(s, s, 3, padding=1))
        self.activation_3, self.expand, self.activation_4 = nn.PReLU(s), nn.Conv2d(s, d, 1), nn.PReLU(d)
        self.deconv = nn.ConvTranspose2d(d, 3, 9, scale, 4, output_padding=scale - 1)

    def forward(self, x):
        x = self.activation_2(self.shrink(self.activation_1(self.feature_extract(x))))
        for i in range(1, self.maps + 1):
            x = getattr(self, f"map_{i}")(x)
        return self.deconv(self.activation_4(self.expand(self.activation_3(x))))


# Decoders over encoders that give their levels, with the names that jaxconv.models has.


class Over(nn.Module):
    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x):
        return self.decoder(self.encoder.levels(x), x)


class VGGLevels(nn.Module):
    """VGG-16 whose last two poolings are dilations instead; only the last level is of use."""

    def __init__(self, widths):
        super().__init__()
        layers, last = [], 3
        for stage, (width, count) in enumerate(zip(widths, (2, 2, 3, 3, 3))):
            rate = 2 if stage == 4 else 1
            for _ in range(count):
                layers += [nn.Conv2d(last, width, 3, padding=rate, dilation=rate), nn.ReLU()]
                last = width
            layers.append(nn.MaxPool2d(2) if stage < 3 else nn.Identity())
        self.features = seq(*layers)

    def levels(self, x):
        return [self.features(x)]


def transposed(c, factor):
    return Holder(conv=nn.ConvTranspose2d(c, c, 2 * factor, factor, factor // 2, bias=False))


class FCNHead(nn.Module):
    def __init__(self, channels, classes, finest):
        super().__init__()
        count = {32: 1, 16: 2, 8: 3}[finest]
        self.scores = nn.ModuleList([nn.Conv2d(c, classes, 1) for c in channels[: -count - 1 : -1]])
        self.ups = nn.ModuleList([transposed(classes, f) for f in [2] * (count - 1) + [finest]])

    def forward(self, levels, image):
        y = self.scores[0](levels[-1])
        for i in range(1, len(self.scores)):
            y = self.scores[i](levels[-1 - i]) + self.ups[i - 1](y)
        return self.ups[-1](y)


class UNetHead(nn.Module):
    def __init__(self, channels, classes, width):
        super().__init__()
        ups, blocks, last = [], [], channels[-1]
        for i, skip in enumerate([*channels[-2::-1], 0]):
            out = width >> i
            ups.append(transposed(last, 2))
            blocks.append(Holder(conv1=row2(last + skip, out), conv2=row2(out, out)))
            last = out
        self.ups, self.blocks = nn.ModuleList(ups), nn.ModuleList(blocks)
        self.head = nn.Conv2d(last, classes, 3, padding=1)

    def forward(self, levels, image):
        x, skips = levels[-1], levels[-2::-1]
        for i, (up, block) in enumerate(zip(self.ups, self.blocks)):
            x = up(x)
            x = block(torch.cat([x, skips[i]], 1) if i < len(skips) else x)
        return self.head(x)


class DeepLabV3Head(nn.Module):
    def __init__(self, channels, classes, width):
        super().__init__()
        self.aspp, self.conv = ASPP(channels[-1], width, (12, 24, 36), apart=False), row2(width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, levels, image):
        return up_to(self.head(self.conv(self.aspp(levels[-1]))), image)


class DUCHead(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.head = Holder(conv=nn.Conv2d(channels[-1], classes * 64, 3, padding=1))

    def forward(self, levels, image):
        return F.pixel_shuffle(self.head(levels[-1]), 8)


class ContextHead(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        convs = [nn.Conv2d(classes, classes, 3, padding=r, dilation=r) for r in (1, 1, 2, 4, 8, 16, 1)]
        self.head = nn.Conv2d(channels, classes, 1)
        self.context = Holder(convs=nn.ModuleList(convs), last=nn.Conv2d(classes, classes, 1))

    def forward(self, levels, image):
        y = self.head(levels[-1])
        for conv in self.context.convs:
            y = F.relu(conv(y))
        return up_to(self.context.last(y), image)


def statement(model, settings):
    """The PyTorch network of a name in jaxconv.models.REGISTRY and the settings that the benchmark has; or None."""
    s = dict(settings)
    classes, share = s.get("classes", 1000), s.get("encoder_width", 1.0)
    widths, hidden = s.get("widths", (64, 128, 256, 512, 512)), s.get("hidden", 4096)
    deep, width = max(int(64 * share), 1), s.get("width", 256)
    rates = ((1,), (1,), (1, 2, 5, 9), (5, 9, 17))

    def over(head, *more, depth=18, stride=32, rates=None):
        encoder = ResNet(depth, deep, 0, stride, rates)
        return Over(encoder, head(encoder.channels, classes, *more))

    def enet():
        import enet_torch

        return enet_torch.ENet(classes)

    def hifigan():
        keys = ("strides", "kernels", "block_kernels", "block_rates")
        usual = ((8, 8, 2, 2), (16, 16, 4, 4), (3, 7, 11), ((1, 3, 5),) * 3)
        return HiFiGAN(s.get("mels", 80), s.get("width", 512), *(s.get(k, u) for k, u in zip(keys, usual)))

    def wavenet():
        keys = {"residual": 32, "dilated": 32, "skip": 256, "end": 256, "layers": 10, "blocks": 4}
        return WaveNet(s.get("classes", 256), *(s.get(k, u) for k, u in keys.items()))

    made = {
        "enet": enet, "espnet": lambda: ESPNet(classes, s.get("p", 2), s["q"]), "hifigan": hifigan, "wavenet": wavenet,
        "unet": lambda: UNet(s["in_channels"], classes, s["widths"], s.get("rank", 2)),
        "dcgan_generator": lambda: dcgan_generator(s.get("latent", 100), s["width"]),
        "dcgan_discriminator": lambda: dcgan_discriminator(s["width"]), "fsrcnn": lambda: FSRCNN(2),
        "vgg16": lambda: VGG16(widths, hidden, classes), "vgg16_bn": lambda: VGG16(widths, hidden, classes, True),
        **{f"resnet{d}": lambda d=d: ResNet(d, s.get("width", 64), classes) for d in (18, 34, 50, 101)},
        "mobilenetv2": lambda: MobileNetV2(s.get("width", 1.0), classes),
        "fcn": lambda: FCN8s(widths, hidden, classes, 1),
        "segnet": lambda: SegNet([int(w * share) for w in widths], classes),
        "deeplabv3": lambda: over(DeepLabV3Head, width, depth=50, stride=8),
        "deeplabv3plus": lambda: DeepLabV3Plus(share, width, classes, s.get("rates", (6, 12, 18))),
        "duc": lambda: over(DUCHead, depth=101, stride=8, rates=rates),
        "context": lambda: Over(VGGLevels([int(w * share) for w in widths]), ContextHead(int(512 * share), classes)),
        **{f"fcn{n}s": lambda n=n: over(FCNHead, n) for n in (32, 16, 8)},
        "segmentation": lambda: over(UNetHead, width),
    }  # fmt: skip
    return made[model]() if model in made else None
