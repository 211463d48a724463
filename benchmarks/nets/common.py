"""What the network builders share: the description of an exportable network, and weights that keep activations at unit scale."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass(frozen=True)
class Net:
    """A module in eval mode, example arguments, and the names of inputs and outputs. `dynamic`: input name -> axis -> symbol."""

    module: nn.Module
    args: tuple[torch.Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: dict[str, dict[int, str]] = field(default_factory=dict)


def settle(module: nn.Module, *sizes: int) -> nn.Module:
    """Give a convolutional network random affine parameters and the running statistics of its own activations on noise; leave it in eval mode.

    Untrained running statistics (0, 1) would let activations grow or vanish with depth, and relative errors would mean nothing.
    """
    for m in module.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.6, 1.4)
            nn.init.normal_(m.bias, 0.0, 0.2)
            m.momentum = 1.0
    module.train()
    with torch.no_grad():
        module(torch.randn(*sizes))
    return module.eval()


def shake(module: nn.Module) -> nn.Module:
    """Move every bias and scale off its initial 0 or 1, so that a runtime that forgets one is found; leave the module in eval mode."""
    with torch.no_grad():
        for p in module.parameters():
            if p.dim() == 1:
                p += 0.05 * torch.randn_like(p)
    return module.eval()
