"""Dense prediction: a U-Net, and a detector in the manner of YOLOv8n (C2f, SPPF, SiLU, upsample and concat neck, decoupled head with DFL)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .common import Net, settle


class Double(nn.Sequential):
    """Two 3x3 convolutions with BatchNorm and ReLU."""

    def __init__(self, cin: int, cout: int) -> None:
        layers: list[nn.Module] = []
        for c in (cin, cout):
            layers += [nn.Conv2d(c, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.ReLU()]
        super().__init__(*layers)


class UNet(nn.Module):
    """`depth` times down by pooling and up by transposed convolution, with skips."""

    def __init__(self, base: int, depth: int, classes: int) -> None:
        super().__init__()
        widths = [base << i for i in range(depth + 1)]
        self.down = nn.ModuleList([Double(3 if i == 0 else widths[i - 1], widths[i]) for i in range(depth + 1)])
        self.pool = nn.MaxPool2d(2)
        self.grow = nn.ModuleList([nn.ConvTranspose2d(widths[i + 1], widths[i], 2, 2) for i in reversed(range(depth))])
        self.up = nn.ModuleList([Double(2 * widths[i], widths[i]) for i in reversed(range(depth))])
        self.head = nn.Conv2d(base, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, block in enumerate(self.down):
            x = block(self.pool(x) if i else x)
            skips.append(x)
        skips.pop()
        for grow, block in zip(self.grow, self.up):
            x = block(torch.cat([skips.pop(), grow(x)], 1))
        return self.head(x)


class CBS(nn.Sequential):
    """Convolution, BatchNorm, SiLU."""

    def __init__(self, cin: int, cout: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(cout, 1e-3), nn.SiLU())


class Residual(nn.Module):
    """Two 3x3 CBS, with or without a shortcut."""

    def __init__(self, width: int, shortcut: bool) -> None:
        super().__init__()
        self.body, self.shortcut = nn.Sequential(CBS(width, width, 3), CBS(width, width, 3)), shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


class C2f(nn.Module):
    """Split in two, a chain of blocks on the second half, everything concatenated."""

    def __init__(self, cin: int, cout: int, count: int, shortcut: bool) -> None:
        super().__init__()
        half = cout // 2
        self.inner, self.outer = CBS(cin, cout), CBS((2 + count) * half, cout)
        self.blocks = nn.ModuleList([Residual(half, shortcut) for _ in range(count)])

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.inner(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.outer(torch.cat(parts, 1))


class SPPF(nn.Module):
    """Three 5x5 poolings in a row, concatenated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer, self.pool = CBS(width, width // 2), CBS(width * 2, width), nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.inner(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.outer(torch.cat(parts, 1))


class Detector(nn.Module):
    """YOLOv8's topology with first width `base` and `depth` scaling the number of blocks. Output: (1, 4 + classes, anchors)."""

    bins = 16

    def __init__(self, base: int, depth: tuple[int, int], classes: int, size: int) -> None:
        super().__init__()
        w = [base << i for i in range(5)]
        few, many = depth
        self.stem = nn.Sequential(CBS(3, w[0], 3, 2), CBS(w[0], w[1], 3, 2), C2f(w[1], w[1], few, True))
        self.p3 = nn.Sequential(CBS(w[1], w[2], 3, 2), C2f(w[2], w[2], many, True))
        self.p4 = nn.Sequential(CBS(w[2], w[3], 3, 2), C2f(w[3], w[3], many, True))
        self.p5 = nn.Sequential(CBS(w[3], w[4], 3, 2), C2f(w[4], w[4], few, True), SPPF(w[4]))
        self.grow = nn.Upsample(scale_factor=2, mode="nearest")
        self.up4, self.up3 = C2f(w[4] + w[3], w[3], few, False), C2f(w[3] + w[2], w[2], few, False)
        self.down4, self.out4 = CBS(w[2], w[2], 3, 2), C2f(w[2] + w[3], w[3], few, False)
        self.down5, self.out5 = CBS(w[3], w[3], 3, 2), C2f(w[3] + w[4], w[4], few, False)
        box, cls = max(16, w[2] // 4, self.bins * 4), max(w[2], min(classes, 100))
        self.box = nn.ModuleList([nn.Sequential(CBS(c, box, 3), CBS(box, box, 3), nn.Conv2d(box, 4 * self.bins, 1)) for c in w[2:]])
        self.cls = nn.ModuleList([nn.Sequential(CBS(c, cls, 3), CBS(cls, cls, 3), nn.Conv2d(cls, classes, 1)) for c in w[2:]])
        self.dfl = nn.Conv2d(self.bins, 1, 1, bias=False)
        points, strides = [], []
        for stride in (8, 16, 32):
            centre = torch.arange(size // stride) + 0.5
            y, x = torch.meshgrid(centre, centre, indexing="ij")
            points.append(torch.stack([x.flatten(), y.flatten()]))
            strides.append(torch.full((1, y.numel()), float(stride)))
        self.register_buffer("points", torch.cat(points, 1)[None])
        self.register_buffer("strides", torch.cat(strides, 1)[None])

    def forward(self, x: Tensor) -> Tensor:
        p3 = self.p3(self.stem(x))
        p4 = self.p4(p3)
        p5 = self.p5(p4)
        n4 = self.up4(torch.cat([self.grow(p5), p4], 1))
        n3 = self.up3(torch.cat([self.grow(n4), p3], 1))
        n4 = self.out4(torch.cat([self.down4(n3), n4], 1))
        n5 = self.out5(torch.cat([self.down5(n4), p5], 1))
        levels = [torch.cat([box(p), cls(p)], 1).flatten(2) for p, box, cls in zip((n3, n4, n5), self.box, self.cls)]
        both = torch.cat(levels, 2)
        edges, scores = both.split((4 * self.bins, both.shape[1] - 4 * self.bins), 1)
        spread = edges.view(1, 4, self.bins, -1).transpose(2, 1).softmax(1)
        near, far = self.dfl(spread).view(1, 4, -1).chunk(2, 1)
        low, high = self.points - near, self.points + far
        boxes = torch.cat([(low + high) / 2, high - low], 1) * self.strides
        return torch.cat([boxes, scores.sigmoid()], 1)


def unet(small: bool) -> Net:
    """U-Net, 256x256, first width 32, four levels."""
    size = 32 if small else 256
    net = settle(UNet(8, 2, 2) if small else UNet(32, 4, 2), 2, 3, size, size)
    return Net(net, (torch.randn(1, 3, size, size),), ("image",), ("mask",))


def detector(small: bool) -> Net:
    """Detector with YOLOv8n's widths and depths, 320x320, 80 classes."""
    size = 64 if small else 320
    net = Detector(8, (1, 1), 5, size) if small else Detector(16, (1, 2), 80, size)
    settle(net, 1, 3, size, size)
    with torch.no_grad():
        net.dfl.weight.copy_(torch.arange(float(net.bins)).view(1, net.bins, 1, 1))
        for head in (*net.box, *net.cls):
            head[-1].weight.mul_(0.1)  # logits of a few units, as trained heads have: not saturated softmax and sigmoid
    return Net(net, (torch.randn(1, 3, size, size),), ("image",), ("detections",))
