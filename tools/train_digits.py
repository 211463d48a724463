"""Train the model that `pytensor-rt demo` runs: a small convolutional classifier of scikit-learn's 8x8 digits.

    python tools/train_digits.py        # writes pytensor_rt/demo/digits.onnx and digits.npz; needs torch, onnxscript and scikit-learn

The digits are split once, with a fixed seed: 1,437 for training, 360 held out. The 32 images that ship with the package are the first 32 of the
held-out part, which training never sees. The batch dimension of the exported model is dynamic; input and output are named `image` and `scores`.
"""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "pytensor_rt" / "demo"
EPOCHS, BATCH, SHIPPED = 40, 64, 32


def network() -> nn.Module:
    """About 9,000 weights: three convolutions with batch normalisation, one of them depthwise, then a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 48, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4 * 48, 10),
    )  # fmt: skip


def shifted(x: torch.Tensor) -> torch.Tensor:
    """The batch moved by up to one pixel in each direction."""
    dy, dx = (int(torch.randint(-1, 2, ())) for _ in range(2))
    return torch.roll(x, (dy, dx), (2, 3))


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    train_x, held_x, train_y, held_y = train_test_split(images, digits.target, test_size=360, random_state=0, stratify=digits.target)
    x, y = torch.from_numpy(train_x), torch.from_numpy(train_y)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, epochs=EPOCHS, steps_per_epoch=-(-len(x) // BATCH))
    for epoch in range(EPOCHS):
        model.train()
        order = torch.randperm(len(x))
        total = 0.0
        for part in order.split(BATCH):
            loss = nn.functional.cross_entropy(model(shifted(x[part])), y[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(part)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {total / len(x):.4f}")
    model.eval()
    with torch.no_grad():
        accuracy = float((model(torch.from_numpy(held_x)).argmax(1).numpy() == held_y).mean())
    print(f"held-out accuracy {accuracy:.4f} over {len(held_y)} images")

    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / "digits.onnx"
    torch.onnx.export(
        model, (torch.zeros(2, 1, 8, 8),), path, input_names=["image"], output_names=["scores"], opset_version=17, dynamo=False,
        dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}}, do_constant_folding=False,
    )  # fmt: skip
    exported = onnx.load(path)
    exported.doc_string = (
        f"Digits of 8x8 pixels in [0, 1]. Trained by tools/train_digits.py; accuracy {accuracy:.4f} on 360 held-out images."
    )
    onnx.checker.check_model(exported, full_check=True)
    onnx.save(exported, path)
    np.savez_compressed(FOLDER / "digits.npz", images=held_x[:SHIPPED], labels=held_y[:SHIPPED].astype(np.int64))
    print(f"{path.stat().st_size} bytes in {path.name}")


if __name__ == "__main__":
    main()
