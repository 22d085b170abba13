"""Files of named arrays in the safetensors format, written whole or not at all.

The format is eight bytes with the length of a JSON header, the header, and the arrays' bytes. It
is read and written here, without its own package, so that an image needs only numpy for it; no
pickle, nothing in it can be executed. Only what the runner itself writes is needed: plain numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

from worker.runner.lazy import Array, np

_TYPES: Final = {
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "bool": "BOOL",
}
_NAMES: Final = {short: name for name, short in _TYPES.items()}
_MOST_HEADER: Final = 100_000_000


class NotWhole(Exception):
    """The file is not there, cut off, or no safetensors file."""


def write(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    """Write the file and return its SHA-256 in hex. It appears whole, on disk, or not at all.

    Raises OSError.
    """
    header, arrays = _header(tensors, metadata)
    digest = hashlib.sha256()
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        with partial.open("wb") as file:
            for block in (len(header).to_bytes(8, "little"), header, *arrays):
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    return digest.hexdigest()


def sync_directory(directory: Path) -> None:
    """What was renamed in it stays so after a crash."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays and metadata. Raises NotWhole."""
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise NotWhole(f"{path}: {error.strerror}") from None
    length = int.from_bytes(blob[:8], "little")
    if len(blob) < 8 or length > min(_MOST_HEADER, len(blob) - 8):
        raise NotWhole(f"{path}: is cut off, or no safetensors file")
    try:
        header = json.loads(blob[8 : 8 + length])
        metadata = {str(k): str(v) for k, v in header.pop("__metadata__", {}).items()}
        data = memoryview(blob)[8 + length :]
        return {name: _array(data, one) for name, one in header.items()}, metadata
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NotWhole(f"{path}: is no safetensors file: {error}") from None


def _header(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> tuple[bytes, list[Any]]:
    described: dict[str, Any] = {"__metadata__": dict(metadata)}
    arrays: list[Any] = []
    at = 0
    # the widest first, so that each array is aligned
    for name in sorted(tensors, key=lambda one: (-tensors[one].dtype.itemsize, one)):
        array = np.ascontiguousarray(tensors[name]).reshape(tensors[name].shape)
        described[name] = {
            "dtype": _TYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
        if array.nbytes:
            arrays.append(array.reshape(-1).view(np.uint8).data)
    header = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    return header + b" " * (-len(header) % 8), arrays


def _array(data: memoryview, about: Mapping[str, Any]) -> Array:
    begin, end = about["data_offsets"]
    kind, shape = np.dtype(_NAMES[about["dtype"]]), tuple(about["shape"])
    if not 0 <= begin <= end <= len(data) or end - begin != prod(shape) * kind.itemsize:
        raise ValueError("an array lies outside the file, or has another size than it says")
    return np.frombuffer(data[begin:end], dtype=kind).reshape(shape).copy()
