"""What the runner writes: arrays, checkpoints, models. Damage is always noticed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.runner import tensorfile
from worker.runner.checkpoints import Checkpoints
from worker.runner.data.prepare import Scaling
from worker.runner.model import layers
from worker.runner.model.shapes import infer
from worker.runner.model_file import TrainedModel, load_model, save_model

pytestmark = pytest.mark.unit

ARRAYS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array([True, False]),
    "none": np.zeros((0, 4), dtype=np.float32),
    "one": np.array(7, dtype=np.int64),
    "turned": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "half": np.arange(3, dtype=np.float16),
}


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        assert np.array_equal(found[name], value)


def test_the_format_is_that_of_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "ours"
    tensorfile.write(path, ARRAYS, {"name": "ä"})
    same(safetensors.numpy.load_file(path), ARRAYS)
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == {"name": "ä"}
    whole = {k: np.ascontiguousarray(v).reshape(v.shape) for k, v in ARRAYS.items()}
    safetensors.numpy.save_file(whole, tmp_path / "theirs", {"name": "x"})
    found, metadata = tensorfile.read(tmp_path / "theirs")
    same(found, ARRAYS)
    assert metadata == {"name": "x"}


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    tensorfile.write(path, {"a": np.zeros(2)}, {})
    with pytest.raises(KeyError):
        tensorfile.write(path, {"a": np.array([{}])}, {})
    same(tensorfile.read(path)[0], {"a": np.zeros(2)})
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_file_is_no_whole_one(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "file"
        tensorfile.write(path, {"a": np.arange(4.0)}, {"k": "v"})
        blob = bytearray(path.read_bytes())
        header = 8 + int.from_bytes(blob[:8], "little")
        at = data.draw(st.integers(0, header - 1))
        blob[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(blob[: data.draw(st.integers(at, len(blob)))])
        try:
            tensors, _ = tensorfile.read(path)
        except tensorfile.NotWhole:
            return
        for value in tensors.values():
            assert value.nbytes <= len(blob)


def test_a_file_that_is_cut_off_is_no_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    tensorfile.write(path, {"a": np.arange(4.0)}, {})
    blob = path.read_bytes()
    for length in range(len(blob)):
        path.write_bytes(blob[:length])
        with pytest.raises(tensorfile.NotWhole):
            tensorfile.read(path)
    path.unlink()
    with pytest.raises(tensorfile.NotWhole, match="No such file"):
        tensorfile.read(path)


def checkpoints(tmp_path: Path, *, keep: int = 3, made_from: str = "this") -> Checkpoints:
    return Checkpoints(tmp_path / "ck", keep=keep, made_from=made_from)


def test_the_latest_is_the_one_that_got_furthest(tmp_path: Path) -> None:
    store = checkpoints(tmp_path)
    assert store.latest() is None
    for epoch, step in ((2, 0), (10, 0), (9, 5), (10, 3)):
        store.save(epoch, step, {"a": np.array([epoch])}, {"step": step})
    found = store.latest()
    assert found is not None
    assert (found.epoch, found.step, found.values) == (10, 3, {"step": 3})
    assert found.tensors["a"].tolist() == [10]
    assert checkpoints(tmp_path, made_from="that").latest() is None
    names = sorted(path.name for path in (tmp_path / "ck").glob("*.safetensors"))
    assert [name[:12] for name in names] == ["epoch-000009", "epoch-000010", "epoch-000010"]


def test_one_without_its_hash_was_never_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = checkpoints(tmp_path)
    for epoch in (1, 2, 3):
        store.save(epoch, 0, {"a": np.zeros(3)}, {})
    (tmp_path / "ck" / "epoch-000003.safetensors.sha256").unlink()
    (tmp_path / "ck" / "epoch-000002.safetensors.sha256").write_text("nonsense")
    found = store.latest()
    assert found is not None
    assert found.epoch == 1
    assert "epoch-000002.safetensors is not used" in capsys.readouterr().err


def test_a_whole_file_that_is_no_checkpoint_is_passed_over(tmp_path: Path) -> None:
    store = checkpoints(tmp_path)
    store.save(1, 0, {}, {})
    path = tmp_path / "ck" / "epoch-000002.safetensors"
    for metadata in (
        {},
        {"format": "cyxwiz-checkpoint-1", "made_from": "this"},
        {"format": "cyxwiz-checkpoint-1", "made_from": "this", "values": "{"},
    ):
        sha256 = tensorfile.write(path, {}, metadata)
        path.with_name(f"{path.name}.sha256").write_text(f"{sha256}  {path.name}\n")
        found = store.latest()
        assert found is not None
        assert found.epoch == 1


def model(**more: Any) -> TrainedModel:
    placed = infer(layers.parse([{"type": "Dense", "units": 2}, {"type": "Softmax"}]), (3,))
    weights = {
        "layers.0.weight": np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32),
        "layers.0.bias": np.array([0, 1], dtype=np.float32),
    }
    given: dict[str, Any] = {
        "input_shape": (3,),
        "layers": placed,
        "weights": weights,
        "loss": "cross_entropy",
        "classes": ("no", "yes"),
        "input_scaling": Scaling(mean=np.float32([0, 0, 1]), std=np.float32([1, 2, 1])),
        "about": {"seed": "7"},
    }
    return TrainedModel(**{**given, **more})


def test_a_model_is_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    one = model()
    sha256 = save_model(path, one)
    assert len(sha256) == 64
    again = load_model(path)
    x = np.array([[3, 0, 5], [0, 4, 5]])
    assert again.outputs(x) == pytest.approx(one.outputs(x))
    expected = np.exp([3, 1]) / np.exp([3, 1]).sum()
    assert again.outputs(x)[0] == pytest.approx(expected)
    assert again.predict(x).tolist() == ["no", "yes"]
    assert again.about is not None
    assert again.about["seed"] == "7"
    assert again.predict(np.zeros((0, 3))).tolist() == []
    with pytest.raises(ValueError, match=r"samples of shape \(3,\) are needed, not \(2,\)"):
        again.predict(np.zeros((1, 2)))


def test_numbers_are_predicted_in_their_own_unit(tmp_path: Path) -> None:
    scaling = Scaling(mean=np.float32([10, 20]), std=np.float32([2, 3]))
    placed = infer(layers.parse([{"type": "Dense", "units": 2}]), (3,))
    one = model(classes=None, loss="mse", layers=placed, input_scaling=None, target_scaling=scaling)
    save_model(tmp_path / "m", one)
    assert load_model(tmp_path / "m").predict(np.array([[1, 2, 0]])).tolist() == [[12, 29]]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_scaling_is_done_in_the_precision_that_the_file_has(tmp_path: Path, kind: Any) -> None:
    """Files of earlier versions have float32; what was learned from them is scaled as it was."""
    now = 1_790_000_000
    scaling = Scaling(mean=np.array([now, 0, 0], kind), std=np.array([10, 1, 1], kind))
    save_model(tmp_path / "m", model(input_scaling=scaling))
    again = load_model(tmp_path / "m")
    assert again.input_scaling is not None
    assert again.input_scaling.mean.dtype == kind
    (found,) = again.input_scaling.apply(np.array([[now + 30.0, 1, 2]]))
    assert found.dtype == np.float32
    assert found[1:].tolist() == [1, 2]
    assert (found[0] == 3) is np.bool_(kind is np.float64)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no safetensors file"):
        load_model(path)
    tensorfile.write(path, {}, {"format": "cyxwiz-model", "version": "2"})
    with pytest.raises(ValueError, match="is no cyxwiz-model of version 1"):
        load_model(path)
    save_model(path, model())
    _, metadata = tensorfile.read(path)
    architecture = json.dumps({"input_shape": [3], "layers": [{"index": 0, "type": "Magic"}]})
    tensorfile.write(path, {}, {**metadata, "architecture": architecture})
    with pytest.raises(ValueError, match=r"its architecture cannot be read: .*'Magic'"):
        load_model(path)
