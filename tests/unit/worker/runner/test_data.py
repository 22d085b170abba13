"""Data: tables, arrays, what is held out, how it is scaled."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.runner.data import source
from worker.runner.data.columns import Wanted
from worker.runner.data.csvfile import load_csv
from worker.runner.data.images import load_images
from worker.runner.data.npzfile import load_npz
from worker.runner.data.parquet import load_parquet
from worker.runner.data.prepare import Prepared, prepare
from worker.runner.data.split import Split, held_out, load_split
from worker.runner.faults import EnvironmentLacks, JobFault
from worker.runner.jobspec import job_spec
from worker.runner.model import layers
from worker.runner.options import Options, parse

pytestmark = pytest.mark.unit

TABLE = "a,b,kind\n1,2.5,x\n3,4,y\n"


def options(**hyperparameters: Any) -> Options:
    return parse(hyperparameters, None)


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        TABLE,
        TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"),
        "\ufeff" + TABLE.replace("\n", "\r\n"),
        TABLE.replace("kind", '"kind"').replace("x", ' "x" '.strip()) + "\n\n",
    ],
    ids=["comma", "semicolon", "tab", "bom", "quotes"],
)
def test_a_table_in_any_dialect(tmp_path: Path, text: str) -> None:
    raw = load_csv(table(tmp_path, text), Wanted(target="kind"))
    assert raw.x.tolist() == [[1, 2.5], [3, 4]]
    assert raw.y.tolist() == ["x", "y"]
    assert raw.features == ("a", "b")
    assert raw.suggested == "classification"


def test_the_columns_that_are_asked_for_in_that_order(tmp_path: Path) -> None:
    raw = load_csv(table(tmp_path, TABLE), Wanted(target="a", features=("b",)))
    assert raw.x.tolist() == [[2.5], [4]]
    assert (raw.y.tolist(), raw.y.dtype.kind, raw.suggested) == ([1, 3], "i", None)


@pytest.mark.parametrize(
    ("text", "target", "features", "message"),
    [
        (TABLE, None, None, "target is missing; it names the column that is learned, one of a, b"),
        (TABLE, "c", None, "target 'c' is no column of table.csv; it has a, b, kind"),
        (TABLE, "a", ("c",), "the feature 'c' is no column"),
        (TABLE, "a", ("a",), "the feature 'a' is no column of table.csv beside the target"),
        (TABLE, "a", None, "table.csv, line 2, column kind: 'x' is no usable number; fill or"),
        ("a,b\n1,2\n\n,3\n", "b", None, "table.csv, line 4, column a: is empty"),
        ("a,b\n1,\n", "b", None, "table.csv, line 2: the target b is empty"),
        ("a,b\n1,2,3\n", "b", None, "table.csv, line 2: 3 fields, and the header has 2"),
        ("a,b\n1e39,2\n", "b", None, "column a: '1e39' is no usable number"),
        ("a,b\nnan,2\n", "b", None, "column a: 'nan' is no usable number"),
        ("a,a\n1,2\n", "a", None, "the column 'a' is there twice"),
        (",a,b\n0,1,2\n", "b", None, "column 1 of the header has no name; pandas writes its row"),
        (",a,\n0,1,2\n", "a", None, "save with index=False"),
        ("a,b,\n0,1,2\n", "b", None, "column 3 of the header has no name"),
        (",a\n0,1\n", "", None, "column 1 of the header has no name"),
        ("a,b\n", "b", None, "has no line below its header"),
        ("b\n1\n", "b", None, "has no column beside the target"),
        ("", "b", None, "target 'b' is no column"),
        ('a,b\n"1,2\n', "b", None, "is no CSV in UTF-8"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(
    tmp_path: Path, text: str, target: str, features: Any, message: str
) -> None:
    with pytest.raises(JobFault) as caught:
        load_csv(table(tmp_path, text), Wanted(target=target, features=features))
    assert message in str(caught.value)


def test_columns_without_a_name_may_stay_where_the_features_are_named(tmp_path: Path) -> None:
    raw = load_csv(table(tmp_path, ",a,b,\n7,1,2,8\n"), Wanted(target="b", features=("a",)))
    assert raw.x.tolist() == [[1]]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(b"a,b\n\xff,1\n")
    with pytest.raises(JobFault, match="is no CSV in UTF-8"):
        load_csv(tmp_path / "table.csv", Wanted(target="b"))


def arrays(tmp_path: Path, **given: Any) -> Path:
    np.savez(tmp_path / "data.npz", **given)
    return tmp_path / "data.npz"


def test_arrays_with_and_without_a_split(tmp_path: Path) -> None:
    x, y = np.arange(12).reshape(3, 2, 2), np.array([0, 1, 0])
    raw = load_npz(arrays(tmp_path, x=x, y=y))
    assert raw.x.shape == (3, 2, 2)
    assert (raw.held_out, raw.suggested) == (None, None)
    raw = load_npz(arrays(tmp_path, x_train=x, y_train=y, x_test=x[:1], y_test=y[:1]))
    assert raw.held_out is not None
    assert raw.held_out.tolist() == [False, False, False, True]
    raw = load_npz(arrays(tmp_path, data=x, target=np.array([[0.5], [1], [2]])))
    assert (raw.y.shape, raw.suggested) == ((3,), "regression")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": np.zeros(3)}, "data.npz: has a; x and y, or"),
        ({"x": np.zeros(3), "y": np.zeros(3)}, "x is float64 of shape (3,); numbers of shape"),
        ({"x": np.zeros((3, 1)), "y": np.zeros(4)}, "x has 3 samples, and y 4"),
        ({"x": np.full((2, 1), np.nan), "y": np.zeros(2)}, "x has values that are not finite"),
        ({"x": np.zeros((2, 1)), "y": np.zeros((2, 1, 1))}, "y is float64 of shape (2, 1, 1)"),
        ({"x": np.array([[{}]], dtype=object), "y": np.zeros(1)}, "is no NPZ archive of plain"),
    ],
)
def test_what_is_wrong_with_arrays_is_named(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobFault) as caught:
        load_npz(arrays(tmp_path, **given))
    assert message in str(caught.value)


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04 nothing", b"\x93NUMPY"):
        (tmp_path / "data.npz").write_bytes(content)
        with pytest.raises(JobFault, match=r"data\.npz: is no NPZ archive"):
            load_npz(tmp_path / "data.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "data.npz")
    with pytest.raises(JobFault, match="is one array, no archive"):
        load_npz(tmp_path / "data.npz")


def test_a_package_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyarrow", "pyarrow.parquet", "PIL", "PIL.Image"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EnvironmentLacks, match=r"needs pyarrow, and .* pip install pyarrow"):
        load_parquet(tmp_path / "table.parquet", Wanted(target="a"))
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").touch()
    with pytest.raises(EnvironmentLacks, match="pip install Pillow"):
        load_images(tmp_path, size=None, color="rgb")


def test_the_file_is_found_in_a_folder(tmp_path: Path) -> None:
    def load(**hyperparameters: Any) -> Any:
        return source.load("file:///x", tmp_path, options(target="kind", **hyperparameters))

    with pytest.raises(JobFault, match="they have nothing"):
        load()
    table(tmp_path, TABLE)
    (tmp_path / "README.txt").touch()
    assert len(load().x) == 2
    (tmp_path / "more.csv").write_text(TABLE)
    with pytest.raises(JobFault, match=r"several files: more\.csv, table\.csv; name one"):
        load()
    assert len(load(data_file="more.csv").x) == 2
    for outside in ("../x.csv", "none.csv"):
        with pytest.raises(JobFault, match="is no file of the data"):
            load(data_file=outside)
    with pytest.raises(JobFault, match=r"README\.txt: of an unknown kind; \.csv"):
        load(data_file="README.txt")


def split(tmp_path: Path, text: str, given: list[dict[str, Any]], **job: Any) -> Split:
    config = {
        "model_definition": {"layers": given, **job.pop("model", {})},
        "dataset_uri": "file:///table.csv",
        "seed": 1,
        **job,
    }
    spec = job_spec(config)
    return load_split(
        spec,
        table(tmp_path, text),
        parse(spec.hyperparameters, spec.optimizer),
        layers.parse(spec.layers),
    )


DENSE: list[dict[str, Any]] = [{"type": "Dense", "units": 3}]
KINDS = "a,kind\n" + "".join(f"{n},{'xyz'[n % 3]}\n" for n in range(60))


def test_every_class_is_held_out_alike_and_always_the_same(tmp_path: Path) -> None:
    wanted = {"hyperparameters": {"target": "kind", "validation_split": 0.25}}
    one = split(tmp_path, KINDS, DENSE, **wanted)
    assert one.classes == ("x", "y", "z")
    assert np.bincount(one.held_y).tolist() == [5, 5, 5]
    assert len(one.x) == 45
    again = split(tmp_path, KINDS, DENSE, **wanted)
    assert again.held_x.tolist() == one.held_x.tolist()
    other = split(tmp_path, KINDS, DENSE, **{**wanted, "seed": 2})
    assert other.held_x.tolist() != one.held_x.tolist()
    both = sorted(one.x[:, 0].tolist() + one.held_x[:, 0].tolist())
    assert both == list(range(60))


def test_what_was_held_out_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another seed would hand out samples that the model was trained with."""
    path = table(tmp_path, KINDS)
    config: dict[str, Any] = {
        "model_definition": {"layers": DENSE},
        "dataset_uri": "file:///table.csv",
        "hyperparameters": {"target": "kind"},
    }
    monkeypatch.setenv("CYXWIZ_JOB_ID", "of-the-job-that-asks")
    with pytest.raises(JobFault, match=r"neither seed nor job_id, .*about"):
        held_out(config, path)
    for more in ({"seed": 1}, {"job_id": "a"}):
        assert len(held_out({**config, **more}, path)[0]) == 12
    config["hyperparameters"] = {"target": "kind", "validation_split": 0}
    assert len(held_out(config, path)[0]) == 0
    x, y = np.arange(6).reshape(3, 2), np.array([0, 1, 0])
    whole = arrays(tmp_path, x_train=x, y_train=y, x_test=x[:1], y_test=y[:1])
    given = {"model_definition": {"layers": DENSE}, "dataset_uri": "file:///data.npz"}
    assert held_out(given, whole)[0].tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("text", "job", "message"),
    [
        (
            KINDS,
            {"hyperparameters": {"target": "kind"}, "model": {"loss": "mse"}},
            "has texts such",
        ),
        (
            "a,b\n1,0.5\n2,1\n",
            {"hyperparameters": {"target": "b", "task": "classification"}},
            "has numbers such as 0.5, no classes",
        ),
        (
            KINDS,
            {"hyperparameters": {"target": "kind", "validation_split": 0.001}},
            "validation_split 0.001 of 60 samples leaves none",
        ),
        (
            KINDS,
            {"hyperparameters": {"target": "kind"}, "model": {"input_shape": [2, 1]}},
            "input_shape [2, 1] has 2 values, and a sample of the data has 1: [1]",
        ),
    ],
)
def test_data_that_do_not_suit_are_refused(
    tmp_path: Path, text: str, job: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobFault) as caught:
        split(tmp_path, text, DENSE, **job)
    assert message in str(caught.value)


def prepared(x: Any, y: Any, first: dict[str, Any] | None = None, **more: Any) -> Prepared:
    x, y = np.array(x), np.array(y).reshape(len(y), -1)
    made = Split(x=x, y=y, held_x=x[:1], held_y=y[:1], classes=None, features=(), target="")
    (layer,) = layers.parse([first or {"type": "ReLU"}])
    return prepare(made, layer, options(**more), linear_end=True)


def test_features_and_targets_are_scaled_and_scaled_back() -> None:
    data = prepared([[1, 7], [3, 7], [5, 7]], [100, 200, 300])
    assert data.x.mean(axis=0).tolist() == [0, 0]
    assert data.x.std(axis=0) == pytest.approx([1, 0])  # what never changes is not blown up
    assert data.y.std() == pytest.approx(1)
    assert data.target_scaling is not None
    assert data.target_scaling.undo(data.y).ravel() == pytest.approx([100, 200, 300])
    plain = prepared([[1], [3]], [100, 300], normalize=False, normalize_target=False)
    assert (plain.x.tolist(), plain.y.tolist()) == ([[1], [3]], [[100], [300]])
    assert plain.digest != data.digest


NOW = 1_790_000_000
"""A Unix time, in seconds. The next one that float32 has is 128 later."""


def test_large_numbers_that_differ_little_are_told_apart(tmp_path: Path) -> None:
    rows = [f"{NOW + n},{NOW + 2 * n}.25" for n in range(60)]
    wanted = {
        "hyperparameters": {"target": "b", "validation_split": 0.25},
        "model": {"loss": "mse"},
    }
    one = split(
        tmp_path, "\n".join(["a,b", *rows]) + "\n", [{"type": "Dense", "units": 1}], **wanted
    )
    (layer,) = layers.parse([{"type": "Dense", "units": 1}])
    data = prepare(one, layer, options(), linear_end=True)
    for values, scaled in ((one.x, data.x), (one.y, data.y)):
        assert len(np.unique(scaled)) == 45
        assert scaled.dtype == np.float32
        assert scaled.mean() == pytest.approx(0, abs=1e-6)
        assert scaled.std() == pytest.approx(1)
        assert np.argsort(scaled[:, 0]).tolist() == np.argsort(values[:, 0]).tolist()
    assert data.target_scaling is not None
    assert data.target_scaling.undo(data.held_y) == pytest.approx(one.held_y, rel=0, abs=1e-4)
    same = prepared([[NOW + 0.1], [NOW + 0.1], [NOW + 0.1]], [1, 2, 3])
    assert same.x.tolist() == [[0], [0], [0]]  # what never changes is not blown up


def test_what_is_too_large_for_a_trainer_is_named() -> None:
    assert prepared([[1e100], [-1e100]], [1, 2]).x.tolist() == [[1], [-1]]
    for x, y in (([[1e100], [1]], [1, 2]), ([[1], [2]], [1e100, 2])):
        with pytest.raises(JobFault, match=r"numbers such as 1e\+100, too large .*normalize"):
            prepared(x, y, normalize=False, normalize_target=False)
    with pytest.raises(JobFault, match="too large to be squared"):
        prepared([[1e200], [-1e200]], [1, 2])


def test_an_image_is_scaled_per_channel() -> None:
    x = np.stack([np.zeros((4, 2, 2)), np.arange(16).reshape(4, 2, 2)], axis=-1)
    data = prepared(x, [0, 1, 2, 3])
    assert data.input_scaling is not None
    assert data.input_scaling.mean.tolist() == [0, 7.5]


def test_an_embedding_gets_whole_numbers_in_its_range() -> None:
    embedding = {"type": "Embedding", "num_embeddings": 4, "embedding_dim": 2}
    assert prepared([[0, 3]], [1.0], embedding).x.dtype == np.int64
    for x, text in (
        ([[0.5]], "takes whole numbers"),
        ([[4]], "num_embeddings is 4"),
        ([[-1]], "-1"),
    ):
        with pytest.raises(JobFault, match=text):
            prepared(x, [1.0], embedding)
