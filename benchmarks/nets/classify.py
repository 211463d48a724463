"""Image classifiers: ResNet-50, MobileNetV2, ConvNeXt-T, ViT-B/16. The small variants keep every kind of block and shrink the rest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import Net, settle, shake


def _conv_bn(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1, act: nn.Module | None = None) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(cout)]
    return nn.Sequential(*layers, *([act] if act is not None else []))


class Bottleneck(nn.Module):
    """ResNet's 1x1, 3x3 (strided), 1x1 with a shortcut."""

    def __init__(self, cin: int, width: int, stride: int) -> None:
        super().__init__()
        cout = width * 4
        self.body = nn.Sequential(
            _conv_bn(cin, width, 1, act=nn.ReLU()), _conv_bn(width, width, 3, stride, act=nn.ReLU()), _conv_bn(width, cout, 1)
        )
        self.shortcut = nn.Identity() if cin == cout and stride == 1 else _conv_bn(cin, cout, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet with bottlenecks: `blocks` per stage, `base` channels in the first."""

    def __init__(self, blocks: tuple[int, ...], base: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_bn(3, base, 7, 2, act=nn.ReLU()), nn.MaxPool2d(3, 2, 1)]
        cin = base
        for stage, count in enumerate(blocks):
            for i in range(count):
                layers.append(Bottleneck(cin, base << stage, 2 if i == 0 and stage else 1))
                cin = (base << stage) * 4
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(cin, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1))


class InvertedResidual(nn.Module):
    """MobileNetV2's expand, depthwise, project."""

    def __init__(self, cin: int, cout: int, stride: int, expand: int) -> None:
        super().__init__()
        mid = cin * expand
        layers = [_conv_bn(cin, mid, 1, act=nn.ReLU6())] if expand > 1 else []
        self.body = nn.Sequential(*layers, _conv_bn(mid, mid, 3, stride, mid, nn.ReLU6()), _conv_bn(mid, cout, 1))
        self.skip = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skip else self.body(x)


class MobileNetV2(nn.Module):
    """Width 1.0; `table`: expansion, channels, count, stride of each stage."""

    def __init__(self, table: list[tuple[int, int, int, int]], last: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_bn(3, 32, 3, 2, act=nn.ReLU6())]
        cin = 32
        for expand, cout, count, stride in table:
            for i in range(count):
                layers.append(InvertedResidual(cin, cout, stride if i == 0 else 1, expand))
                cin = cout
        self.features = nn.Sequential(*layers, _conv_bn(cin, last, 1, act=nn.ReLU6()))
        self.head = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean([2, 3]))


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of NCHW, as ConvNeXt spells it: permute, normalise, permute."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise, LayerNorm and MLP with channels last, layer scale, residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.rand(width, 1, 1) * 0.4 + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.spatial(x).permute(0, 2, 3, 1))
        return x + self.scale * self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """`blocks` and `widths` per stage."""

    def __init__(self, blocks: tuple[int, ...], widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        cin = 3
        for i, (count, width) in enumerate(zip(blocks, widths)):
            reduce = nn.Conv2d(cin, width, 4, 4) if i == 0 else nn.Conv2d(cin, width, 2, 2)
            layers += [reduce, LayerNorm2d(width, eps=1e-6)] if i == 0 else [LayerNorm2d(cin, eps=1e-6), reduce]
            layers += [ConvNeXtBlock(width) for _ in range(count)]
            cin = width
        self.features = nn.Sequential(*layers)
        self.norm, self.head = nn.LayerNorm(cin, eps=1e-6), nn.Linear(cin, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.features(x).mean([2, 3])))


class Logits(nn.Module):
    """A transformers classifier that returns a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image).logits


def _image(module: nn.Module, size: int) -> Net:
    return Net(module, (torch.randn(1, 3, size, size),), ("image",), ("logits",))


def resnet50(small: bool) -> Net:
    """ResNet-50, 224x224."""
    net = ResNet((1, 2), 16, 10) if small else ResNet((3, 4, 6, 3), 64, 1000)
    size = 64 if small else 224
    return _image(settle(net, 2, 3, size, size), size)


def mobilenet_v2(small: bool) -> Net:
    """MobileNetV2, 224x224."""
    full = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    net = MobileNetV2(full[:3], 128, 10) if small else MobileNetV2(full, 1280, 1000)
    size = 64 if small else 224
    return _image(settle(net, 2, 3, size, size), size)


def convnext_t(small: bool) -> Net:
    """ConvNeXt-T, 224x224."""
    net = ConvNeXt((1, 2), (24, 48), 10) if small else ConvNeXt((3, 3, 9, 3), (96, 192, 384, 768), 1000)
    return _image(shake(net), 64 if small else 224)


def vit_b16(small: bool) -> Net:
    """ViT-B/16 of transformers, 224x224, with its classifier."""
    from transformers import ViTConfig, ViTForImageClassification

    size = 32 if small else 224
    shape = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96, "patch_size": 8} if small else {}
    config = ViTConfig(image_size=size, num_labels=10 if small else 1000, initializer_range=0.04, **shape)
    return _image(shake(Logits(ViTForImageClassification(config))), size)
