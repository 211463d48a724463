"""`pytensor-rt demo`: the digit classifier that ships with the package, trained by tools/train_digits.py."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..session import InferenceSession
from .common import Array, interleaved, peer, seconds, spread

FOLDER = Path(__file__).resolve().parent.parent / "demo"
SHADES = " .:-=+*#%@"


def pictures(images: Array, captions: list[str]) -> str:
    """Images [n, 8, 8] with values in [0, 1] side by side, each under its caption."""
    rows = ["   ".join(c.ljust(16) for c in captions)]
    shade = lambda v: SHADES[round(float(v) * (len(SHADES) - 1))] * 2
    rows += ["   ".join("".join(map(shade, image[y])) for image in images) for y in range(images.shape[1])]
    return "\n".join(r.rstrip() for r in rows)


def command(args: argparse.Namespace) -> int:
    """Classify, show, time. Exit code 1 if the results are not those of onnxruntime."""
    with np.load(FOLDER / "digits.npz") as archive:
        images, labels = archive["images"], archive["labels"]
    path = str(FOLDER / "digits.onnx")
    session = InferenceSession(path, device=args.device, threads=args.threads)
    scores = session.run(["scores"], {"image": images})[0]
    predicted = scores.argmax(axis=1)

    print(f"{len(images)} handwritten digits that the network was not trained on; the first eight:\n")
    for part in (slice(0, 4), slice(4, 8)):
        captions = [f"predicted {p}" + ("" if p == y else f", is {y}") for p, y in zip(predicted[part], labels[part])]
        print(pictures(images[part, 0], captions) + "\n")
    right = int((predicted == labels).sum())
    print(f"accuracy        {right} of {len(labels)} ({right / len(labels):.1%})\n")

    print(f"the plan for {len(images)} images at once:")
    print(session.plan_report(image=images.shape))
    print(f"opened in       {seconds(session.load_seconds)}, kernels {session.isa}, at most {session.threads} threads\n")

    runner = session.bind(image=images)
    runner.replay()
    runs: dict[str, Callable[[], Any]] = {"replay()": runner.replay, "run()": lambda: session.run(None, {"image": images})}
    other = peer(args, path)
    if other is not None:
        runs["onnxruntime"] = lambda: other.run(None, {"image": images})
    times = interleaved(runs, 15)
    print(f"latency for {len(images)} images, median (first to third quartile):")
    for name, t in times.items():
        print(f"{name:<15} {spread(t)}")
    if other is None:
        return 0
    expected = other.run(None, {"image": images})[0]
    difference = float(np.abs(scores - expected).max())
    ratio = statistics.median(times["onnxruntime"]) / statistics.median(times["run()"])
    print(f"run() has {ratio:.2f} x the speed of onnxruntime; the largest difference between their scores is {difference:.1e}")
    return 0 if np.allclose(scores, expected, rtol=1e-3, atol=1e-4) else 1
