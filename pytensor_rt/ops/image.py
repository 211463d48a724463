"""ImageDecoder, by Pillow where it is installed."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ..dtypes import I64, STRING, U8
from ..errors import ExecutionError
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer
from .registry import op

_MODES = {"RGB": "RGB", "BGR": "RGB", "Grayscale": "L"}


@op("ImageDecoder", since=20)
def image_decoder(t: Tracer, encoded: Tensor, *, pixel_format: str = "RGB") -> Tensor:
    """uint8 [height, width, channels] of an encoded image, uint8 [n]. The size is only known once decoded, so a segment ends here."""
    if pixel_format not in _MODES:
        t.fail(f"unknown pixel_format {pixel_format!r}")
    try:
        from PIL import Image
    except ImportError:
        t.fail("decoding images needs Pillow, which is not installed")

    def decode(data: Any) -> tuple[Any, ...]:
        try:
            with Image.open(io.BytesIO(data.tobytes())) as image:
                pixels = np.array(image.convert(_MODES[pixel_format]))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise ExecutionError(f"[ImageDecoder]: {error}") from None
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels[:, :, ::-1] if pixel_format == "BGR" else pixels
        holder = np.empty((1,), object)
        holder[0] = pixels
        return holder, np.array(pixels.shape, np.int64)

    pixels, shape = t.host(decode, [encoded], [((1,), STRING), ((3,), I64)])
    t.kept.append(pixels)
    size = t.ints(shape)
    t.kept.pop()
    return t.host(lambda v: (v[0],), [pixels], [(size, U8)])[0]
