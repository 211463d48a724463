"""External data files: found inside the model's folder and nowhere else, mapped once each."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import ExternalDataError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def map_file(path: str) -> tuple[mmap.mmap | None, Bytes]:
    """Map a regular file read-only; (None, empty) if it has no bytes. Raises OSError, or ValueError if it is no regular file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # O_NONBLOCK: opening a pipe must not wait for a writer
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise ValueError("not a regular file")
        if info.st_size == 0:
            return None, np.empty(0, np.uint8)
        mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    finally:
        os.close(fd)
    return mapping, np.frombuffer(mapping, np.uint8)


class ExternalFiles:
    """The files a model's tensors may refer to: those under `folders`, after resolving symbolic links."""

    __slots__ = ("_files", "folders", "mappings")

    def __init__(self, folders: Iterable[str]) -> None:
        self.folders = tuple(os.path.realpath(f) for f in folders)
        self._files: dict[str, tuple[mmap.mmap | None, Bytes]] = {}
        self.mappings: list[mmap.mmap] = []

    def read(self, entries: dict[str, str], nbytes: int, tensor: str) -> tuple[Bytes, mmap.mmap | None, int]:
        """(the tensor's bytes, their mapping, their offset in it). `entries` is TensorProto.external_data. Raises ExternalDataError."""
        if not self.folders:
            raise ExternalDataError(f"tensor '{tensor}' has external data: give load_model the folder it lies in (base_dir=...)")
        location = entries.get("location", "")
        mapping, data = self._open(location, tensor)
        offset = _number(entries, "offset", 0, tensor)
        length = _number(entries, "length", nbytes, tensor)
        if length != nbytes:
            raise ExternalDataError(f"tensor '{tensor}': external data has length {length}, its type and shape need {nbytes} bytes")
        if offset + length > data.size:
            raise ExternalDataError(f"tensor '{tensor}': '{location}' has {data.size} bytes, needed are {offset}..{offset + length}")
        return data[offset : offset + length], mapping, offset

    def _open(self, location: str, tensor: str) -> tuple[mmap.mmap | None, Bytes]:
        known = self._files.get(location)
        if known is not None:
            return known
        parts = location.replace("\\", "/").split("/")
        if not location or "\0" in location or os.path.isabs(location) or ".." in parts or parts[0].endswith(":"):
            raise ExternalDataError(f"tensor '{tensor}': external data location {location!r} is not a path inside the model's folder")
        for folder in self.folders:
            path = os.path.realpath(os.path.join(folder, location))
            if not any(os.path.commonpath((path, root)) == root for root in self.folders):
                raise ExternalDataError(
                    f"tensor '{tensor}': external data {location!r} leads outside the model's folder; put the file there itself"
                )
            if not os.path.lexists(path):
                continue
            try:
                found = map_file(path)
            except (OSError, ValueError) as error:
                raise ExternalDataError(f"tensor '{tensor}': cannot read external data {location!r}: {error}") from None
            self._files[location] = found
            if found[0] is not None:
                self.mappings.append(found[0])
            return found
        raise ExternalDataError(f"tensor '{tensor}': external data file {location!r} not found in {', '.join(self.folders)}")


def _number(entries: dict[str, str], key: str, default: int, tensor: str) -> int:
    text = entries.get(key)
    if text is None or text == "":
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ExternalDataError(f"tensor '{tensor}': external data {key} {text!r} is not a byte count")
    return int(text)
