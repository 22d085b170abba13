"""Checks of data that needs Pillow or pyarrow to be read: see `torch_checks`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.integration.runner.checking import Check, refused
from worker.runner.data.columns import Wanted
from worker.runner.data.images import load_images
from worker.runner.data.parquet import load_parquet
from worker.runner.faults import JobFault


def images_become_arrays(directory: Path) -> None:
    from PIL import Image

    for part, count in (("train", 3), ("val", 1)):
        for number, kind in enumerate(("dark", "light")):
            folder = directory / part / kind
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (6, 4), (number * 200,) * 3).save(folder / f"{index}.png")
    raw = load_images(directory, size=None, color="rgb")
    assert raw.x.shape == (8, 4, 6, 3)
    assert raw.classes == ("dark", "light")
    assert raw.held_out is not None
    assert list(raw.held_out) == [False] * 6 + [True] * 2
    assert list(raw.y) == [0, 0, 0, 1, 1, 1, 0, 1]
    assert set(raw.x[raw.y == 1].ravel()) == {200}
    small = load_images(directory / "train", size=(2, 3), color="grayscale")
    assert small.x.shape == (6, 2, 3, 1)
    (directory / "train" / "dark" / "._1.png").write_bytes(b"what macOS adds")
    (directory / "train" / "__MACOSX").mkdir()
    (directory / "train" / "__MACOSX" / "1.png").write_bytes(b"the same")
    for name in (".ipynb_checkpoints", "__MACOSX", "more/.thumbs/small"):
        hidden = directory / "train" / "dark" / name
        hidden.mkdir(parents=True)
        Image.new("RGB", (6, 4), (9,) * 3).save(hidden / "1-checkpoint.png")
    assert len(load_images(directory / "train", size=None, color="rgb").x) == 6
    assert load_images(directory, size=None, color="rgb").classes == ("dark", "light")
    (directory / "train" / "dark" / "9.png").write_bytes(b"no image")
    with refused(JobFault, "train/dark/9.png: is no image"):
        load_images(directory, size=None, color="rgb")


def images_of_sixteen_bits_keep_their_shades(directory: Path) -> None:
    from PIL import Image

    folder = directory / "one"
    folder.mkdir()
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    for name in ("1.png", "2.tif"):
        Image.fromarray(ramp).save(folder / name)
    for color, channels in (("grayscale", 1), ("rgb", 3)):
        raw = load_images(directory, size=None, color=color)
        assert raw.x.shape == (2, 16, 16, channels)
        for one in raw.x.reshape(2, 256, channels):
            assert one[:, 0].tolist() == list(range(256))
            assert (one == one[:, :1]).all()
    for pixels in (ramp.astype(np.float32) / 65535, ramp.astype(np.int32) * 3):
        Image.fromarray(pixels).save(folder / "3.tif")
        with refused(JobFault, "one/3.tif: has pixels of 32 bits, whose range is not known"):
            load_images(directory, size=None, color="rgb")


def what_pandas_adds_is_no_feature(directory: Path) -> None:
    """Rows' names that pandas writes as columns: with a name of their own, or without one."""
    import pyarrow
    from pyarrow import parquet

    path = directory / "table.parquet"
    index = "__index_level_0__"
    table = pyarrow.table({"a": [1, 2], "y": [0.5, 1], "id": [7, 8], index: [1, 0]})
    told = {"index_columns": ["id", index, {"kind": "range", "start": 0, "stop": 2, "step": 1}]}
    parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(told)}), path)
    raw = load_parquet(path, Wanted(target="y"))
    assert (raw.features, raw.x.tolist()) == (("a",), [[1], [2]])
    asked = load_parquet(path, Wanted(target="y", features=("id", index)))
    assert asked.x.tolist() == [[7, 1], [8, 0]]
    assert load_parquet(path, Wanted(target="id")).features == ("a", "y")
    for nonsense in ("{", "[]", '{"index_columns": 3}', '{"index_columns": [3]}'):
        parquet.write_table(table.replace_schema_metadata({"pandas": nonsense}), path)
        assert load_parquet(path, Wanted(target="y")).features == ("a", "id", index)


def parquet_keeps_large_numbers(directory: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = directory / "table.parquet"
    columns = {
        "time": pyarrow.array([1_790_000_000, 1_790_000_001]),
        "half": pyarrow.array([0.5, 1.5], pyarrow.float32()),
        "kind": pyarrow.array([2**62, 2**62 + 1]),
    }
    parquet.write_table(pyarrow.table(columns), path)
    raw = load_parquet(path, Wanted(target="kind"))
    assert raw.x.tolist() == [[1_790_000_000, 0.5], [1_790_000_001, 1.5]]
    assert raw.y.tolist() == [2**62, 2**62 + 1]
    small = load_parquet(path, Wanted(target="kind", features=("half",)))
    assert small.x.dtype == np.float32


def parquet_becomes_columns(directory: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = directory / "table.parquet"
    columns = {"a": [1, 2, 3], "b": [0.5, 1.5, 2.5], "kind": ["x", "y", "x"], "n": [1, None, 3]}
    parquet.write_table(pyarrow.table(columns), path)
    raw = load_parquet(path, Wanted(target="kind", features=("b", "a")))
    assert raw.x.tolist() == [[0.5, 1], [1.5, 2], [2.5, 3]]
    assert raw.y.tolist() == ["x", "y", "x"]
    assert raw.features == ("b", "a")
    whole = load_parquet(path, Wanted(target="a", features=("b",)))
    assert whole.y.dtype.kind == "i"
    with refused(JobFault, "column n: has 1 empty"):
        load_parquet(path, Wanted(target="a", features=("n",)))
    with refused(JobFault, "column kind: is string"):
        load_parquet(path, Wanted(target="a", features=("kind",)))
    path.write_bytes(b"PAR1 nothing")
    with refused(JobFault, "is no Parquet file"):
        load_parquet(path, Wanted(target="a"))


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        images_become_arrays,
        images_of_sixteen_bits_keep_their_shades,
        parquet_becomes_columns,
        parquet_keeps_large_numbers,
        what_pandas_adds_is_no_feature,
    )
}
