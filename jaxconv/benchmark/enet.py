"""ENet (Paszke et al. 2016, arXiv:1606.02147) as a function of parameters and a backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Second stage, repeated as the third: kind of the 3x3 step and its dilation.
STAGE = (
    ("regular", 1), ("dilated", 2), ("asymmetric", 1), ("dilated", 4),
    ("regular", 1), ("dilated", 8), ("asymmetric", 1), ("dilated", 16),
)  # fmt: skip

# Gives the next parameter of a kind and shape.
Take = Callable[[str, tuple[int, ...]], Any]


class _Shapes:
    """A backend that computes nothing: it lets `forward` name its parameters."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **settings: (None, None) if name == "pool" else 0


def parameters(widths: tuple[int, ...], channels: int, classes: int) -> list[tuple[str, tuple[int, ...]]]:
    """Kind and shape of each parameter in the order in which `forward` takes them."""
    found: list[tuple[str, tuple[int, ...]]] = []
    forward(lambda kind, shape: found.append((kind, shape)), 0, _Shapes(), widths, channels, classes)
    return found


def forward(take: Take, x: Any, b: Any, widths: tuple[int, ...], channels: int, classes: int) -> Any:
    """Logits of an image.

    Args:
        take: gives the next parameter.
        x: image; sizes are multiples of 8.
        b: backend.
        widths: channels of the three scales (16, 64, 128).
        channels: of the image.
        classes: of the result.

    Returns:
        Logits of the image's size.
    """
    net, (low, middle, high) = _Blocks(take, b), widths
    pooled, _ = b.pool(x)
    first = b.conv(x, take("conv", (3, 3, channels, low - channels)), stride=2, pad=1)
    x = net.prelu(net.norm(b.join(first, pooled), low), low)
    x, indices1 = net.down(x, low, middle)
    for _ in range(4):
        x = net.bottleneck(x, middle, "regular", 1)
    x, indices2 = net.down(x, middle, high)
    for kind, rate in 2 * STAGE:
        x = net.bottleneck(x, high, kind, rate)
    x = net.up(x, indices2, high, middle)
    for _ in range(2):
        x = net.bottleneck(x, middle, "regular", 1)
    x = net.up(x, indices1, middle, low)
    x = net.bottleneck(x, low, "regular", 1)
    return b.up(x, take("up", (3, 3, classes, low)), 2, 1, 1)


class _Blocks:
    def __init__(self, take: Take, b: Any):
        self.take, self.b = take, b

    def norm(self, x: Any, c: int) -> Any:
        return self.b.norm(x, *(self.take(kind, (c,)) for kind in ("scale", "shift", "mean", "variance")))

    def prelu(self, x: Any, c: int = 1) -> Any:
        return self.b.prelu(x, self.take("slope", (c,)))

    def row(self, x: Any, k: tuple[int, int], into: int, out: int, **settings: Any) -> Any:
        """Convolution, normalisation and a PReLU of one slope."""
        return self.prelu(self.norm(self.b.conv(x, self.take("conv", (*k, into, out)), **settings), out))

    def bottleneck(self, x: Any, c: int, kind: str, rate: int) -> Any:
        inner = c // 4
        y = self.row(x, (1, 1), c, inner)
        if kind == "asymmetric":
            y = self.row(self.row(y, (5, 1), inner, inner), (1, 5), inner, inner)
        else:
            y = self.row(y, (3, 3), inner, inner, rate=rate)
        return self.prelu(x + self.row(y, (1, 1), inner, c), c)

    def down(self, x: Any, into: int, out: int) -> tuple[Any, Any]:
        inner = into // 4
        main, indices = self.b.pool(x)
        y = self.row(x, (2, 2), into, inner, stride=2, pad=0)
        y = self.row(self.row(y, (3, 3), inner, inner), (1, 1), inner, out)
        return self.prelu(self.b.more_channels(main, out - into) + y, out), indices

    def up(self, x: Any, indices: Any, into: int, out: int) -> Any:
        inner = into // 4
        main = self.norm(self.b.conv(x, self.take("conv", (1, 1, into, out))), out)
        y = self.row(x, (1, 1), into, inner)
        y = self.prelu(self.norm(self.b.up(y, self.take("up", (3, 3, inner, inner)), 2, 1, 1), inner))
        return self.prelu(self.b.unpool(main, indices) + self.row(y, (1, 1), inner, out), out)
