"""The regression gate: our speed against onnxruntime must not fall below the stored one.

    python benchmarks/check.py             exit status 1 if a model is slower than baseline.json says, beyond max(5 %, 3 x noise)
    python benchmarks/check.py --record    measure and store baseline.json

The stored figures are ratios of two runtimes measured in turns, which move far less between machines of one kind and hours of one day than times do.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import architectures, compare, zoo

BASELINE = Path(__file__).resolve().parent / "baseline.json"
DEFAULT = ["zoo", "*-script", "*-qdq"]
LEAST, NOISES = 0.05, 3.0  # the loss that always passes, and the multiple of the noise that does


def measure(name: str, seconds: float, repeat: int) -> dict[str, float]:
    """Our speed against onnxruntime on one thread, its noise and our largest error as a multiple of the tolerance. Raises RuntimeError."""
    (model,) = compare.select_models([name])
    args = SimpleNamespace(loads=1, repeat=repeat, seconds=seconds, timeout=300.0, float64=False)
    with tempfile.TemporaryDirectory() as scratch:
        row = compare.measure(model, 1, ["pytensor_rt", compare.BASE], args, Path(scratch))[0]  # type: ignore[arg-type]
    if "speed" not in row or "wrong" in row:
        raise RuntimeError(row.get("failed") or row.get("wrong") or "onnxruntime does not run it")
    return {"speed": row["speed"], "noise": row["noise"], "error_share": row["error_share"]}


def allowed_loss(then: dict[str, float], now: dict[str, float]) -> float:
    """The relative loss of speed that passes."""
    return max(LEAST, NOISES * max(then["noise"], now["noise"]))


def verdict(then: dict[str, float], now: dict[str, float]) -> str:
    """Empty if `now` passes, otherwise why not."""
    if now["error_share"] > 1:
        return f"wrong: {now['error_share']:.1f} x tolerance"
    if now["speed"] < then["speed"] * (1 - allowed_loss(then, now)):
        return "slower"
    return ""


def processor() -> str:
    """The processor that ratios hold for."""
    return str(compare.describe([], [])["cpu"])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fails where pytensor_rt is slower against onnxruntime than the stored ratios.")
    parser.add_argument("--record", action="store_true", help="store the ratios measured now")
    parser.add_argument(
        "--models",
        nargs="+",
        help="default: those of the baseline; with --record: the zoo, and the script and quantised exports of the architectures",
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="timed seconds per model and runtime")
    parser.add_argument("--repeat", type=int, default=10, help="blocks that these are split into")
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    args = parser.parse_args()
    stored: dict[str, Any] = json.loads(args.baseline.read_text()) if args.baseline.exists() else {"models": {}}
    if not args.record and stored.get("cpu") != processor():
        print(f"the baseline is of {stored.get('cpu')!r}, this is {processor()!r}: make bench-record stores one for it", file=sys.stderr)
        return 2
    patterns = args.models or (DEFAULT if args.record else list(stored["models"]))
    names = [m.name for m in compare.select_models(patterns)]
    if not args.record and (new := [n for n in names if n not in stored["models"]]):
        parser.error(f"not in the baseline: {', '.join(new)}")
    measured: dict[str, dict[str, float]] = {}
    failures = []
    for i, name in enumerate(names):
        try:
            now = measure(name, args.seconds, args.repeat)
            if not args.record and verdict(stored["models"][name], now):
                now = measure(name, 4 * args.seconds, 2 * args.repeat)
        except (RuntimeError, zoo.RegistryError, zoo.PinError, architectures.ExportError) as error:
            print(f"[{i + 1}/{len(names)}] {name}: {error}")
            failures.append(name)
            continue
        measured[name] = now
        line = f"[{i + 1}/{len(names)}] {name}: {now['speed']:.2f} (noise {100 * now['noise']:.1f} %)"
        if not args.record:
            then = stored["models"][name]
            why = verdict(then, now)
            line += f", stored {then['speed']:.2f}, may lose {100 * allowed_loss(then, now):.0f} %: {why or 'ok'}"
            if why:
                failures.append(name)
        print(line, flush=True)
    if args.record:
        kept = stored["models"] if args.models and stored.get("cpu") == processor() else {}
        models = {**kept, **{n: {k: round(v, 4) for k, v in m.items()} for n, m in measured.items()}}
        about = compare.describe([], ["pytensor_rt", compare.BASE])
        args.baseline.write_text(
            json.dumps({"cpu": about["cpu"], "date": about["date"], "versions": about["versions"], "models": models}, indent=1)
        )
    print(f"{len(measured)} measured, {len(failures)} failed{': ' + ', '.join(failures) if failures else ''}")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
