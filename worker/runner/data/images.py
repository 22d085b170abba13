"""A folder of images: one directory for each class. Needs Pillow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.runner.data.dataset import Dataset
from worker.runner.errors import JobError

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
_MOST_PIXELS = 4096 * 4096


def load(place: Path, options: Mapping[str, Any]) -> Dataset:
    """Samples of shape (channels, height, width), pixels from 0 to 1.

    ``hyperparameters.image_size``: [height, width] to which all are scaled; else all must be of
    the size of the first. ``hyperparameters.channels``: 1 or 3 (default: as the first has).
    """
    folders = sorted(one for one in place.iterdir() if one.is_dir() and not one.is_symlink())
    found = [
        (path, number)
        for number, folder in enumerate(folders)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in _SUFFIXES and path.is_file()
    ]
    if len(folders) < 2 or not found:
        raise JobError(
            f"dataset_uri: {place.name} has neither a .csv, .npz or .parquet file nor a folder of "
            "images for each of at least two classes"
        )
    try:
        from PIL import Image
    except ImportError:
        raise JobError(
            "dataset_uri: a folder of images needs the package Pillow where the job runs"
        ) from None
    import numpy as np

    Image.MAX_IMAGE_PIXELS = _MOST_PIXELS
    size, channels = _size(options), options.get("channels")
    if channels not in (None, 1, 3):
        raise JobError(f"hyperparameters.channels is {channels!r}; 1 or 3 is meant")
    arrays = []
    for path, _ in found:
        try:
            with Image.open(path) as image:
                channels = channels or (1 if image.mode in ("1", "L", "I;16") else 3)
                size = size or (image.height, image.width)
                plain = image.convert("L" if channels == 1 else "RGB")
                if options.get("image_size") is not None:
                    plain = plain.resize((size[1], size[0]))
                pixels = np.asarray(plain, dtype=np.float32) / 255
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise JobError(f"dataset_uri: {path.parent.name}/{path.name}: {error}") from None
        if pixels.shape[:2] != size:
            raise JobError(
                f"dataset_uri: {path.parent.name}/{path.name} is {pixels.shape[0]} x "
                f"{pixels.shape[1]}, and the first image {size[0]} x {size[1]}: set "
                "hyperparameters.image_size"
            )
        arrays.append(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))
    return Dataset(
        features=np.stack(arrays),
        targets=np.asarray([number for _, number in found]),
        classes=tuple(folder.name for folder in folders),
    )


def _size(options: Mapping[str, Any]) -> tuple[int, int] | None:
    given = options.get("image_size")
    if given is None:
        return None
    if (
        not isinstance(given, list)
        or len(given) != 2
        or not all(type(one) is int and 1 <= one <= 4096 for one in given)
    ):
        raise JobError(f"hyperparameters.image_size is {given!r}; [height, width] is meant")
    return given[0], given[1]
