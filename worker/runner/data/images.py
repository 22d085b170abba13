"""A folder with a folder of images for each class; ``train`` and ``val`` above them is a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from worker.runner.data.raw import Raw
from worker.runner.faults import JobFault
from worker.runner.lazy import Array, need, np

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
_HELD_OUT: Final = ("val", "valid", "validation", "test")
_MOST_PIXELS: Final = 100_000_000
"""Of one image: a small file can unpack to very much."""

Size = tuple[int, int]
"""Height and width."""


def load_images(folder: Path, *, size: Size | None, color: str) -> Raw:
    """All images, each scaled to ``size``. Raises JobFault, EnvironmentLacks (Pillow)."""
    parts = {one.name.lower(): one for one in folder.iterdir() if one.is_dir()}
    held = next((parts[name] for name in _HELD_OUT if name in parts), None)
    if "train" in parts and held is not None:
        found, more = _files(parts["train"]), _files(held)
        classes = sorted({name for name, _ in found})
        unknown = sorted({name for name, _ in more} - set(classes))
        if unknown:
            raise JobFault(f"{held.name}/{unknown[0]}: train has no class of that name")
        is_held = np.arange(len(found) + len(more)) >= len(found)
        found = [*found, *more]
    else:
        found, is_held = _files(folder), None
        classes = sorted({name for name, _ in found})
    number = {name: index for index, name in enumerate(classes)}
    return Raw(
        x=_read(folder, [path for _, path in found], size, color),
        y=np.array([number[name] for name, _ in found], dtype=np.int64),
        suggested="classification",
        classes=tuple(classes),
        target="class",
        held_out=is_held,
    )


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Class and path of each image, sorted."""
    found = [
        (kind.name, path)
        for kind in sorted(folder.iterdir())
        if kind.is_dir() and not _hidden(kind.name)
        for path in sorted(kind.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(_hidden(part) for part in path.relative_to(kind).parts)
    ]
    if not found:
        raise JobFault(
            f"{folder.name}: has no images; a folder for each class is needed, with files such "
            "as cat/1.png"
        )
    return found


def _hidden(name: str) -> bool:
    """What editors, notebooks and macOS leave beside the images: files, and folders of them."""
    return name.startswith(".") or name == "__MACOSX"


def _read(folder: Path, paths: list[Path], size: Size | None, color: str) -> Array:
    pillow = need("PIL.Image", package="Pillow", why="a folder of images")
    pillow.MAX_IMAGE_PIXELS = _MOST_PIXELS // 2  # Pillow refuses twice as much
    mode, channels = ("RGB", 3) if color == "rgb" else ("L", 1)
    x: Array | None = None
    for index, path in enumerate(paths):
        try:
            with pillow.open(path) as opened:
                image = _bytes(opened, pillow, path.relative_to(folder)).convert(mode)
        except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
            name = path.relative_to(folder)
            raise JobFault(f"{name}: is no image that can be read: {error}") from None
        if size is None:
            size = (image.height, image.width)
        if x is None:
            x = np.empty((len(paths), *size, channels), dtype=np.uint8)
        if (image.height, image.width) != size:
            image = image.resize((size[1], size[0]), pillow.Resampling.BILINEAR)
        x[index] = np.asarray(image, dtype=np.uint8).reshape(*size, channels)
    assert x is not None, "there is at least one image"  # noqa: S101  # for the type checker
    return x


def _bytes(image: Any, pillow: Any, name: Path) -> Any:
    """With 8 bits a channel. Pillow would cut off what is brighter than 255. Raises JobFault."""
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if sixteen:  # of colours Pillow itself takes the upper byte
        return pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise JobFault(
            f"{name}: has pixels of 32 bits, whose range is not known; save it with 8 or 16 bits "
            "a channel"
        )
    return image
