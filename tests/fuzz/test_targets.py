"""Everything that hostile parties feed, by generated input and by what was found before.

A file in ``corpus/TARGET`` is an input that once failed, or that leads somewhere: it is tried each
time.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import rates
from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.unit

HERE = Path(__file__).parent
SAVED = [
    pytest.param(path.parent.name, path, id=f"{path.parent.name}-{path.name}")
    for path in sorted((HERE / "corpus").glob("*/*"))
]

WORDS = st.sampled_from(
    [
        *("type", "progress", "complete", "epoch", "total_epochs", "loss", "success", "model_path"),
        *("v", "job_id", "attempt", "seq", "ts", "node", "slot", "lines", "result", "metrics"),
        *("command", "script", "code_uri", "model_definition", "layers", "units", "signature"),
        *("headers", "properties", "body", "content-type", "id", "task", "delivery_tag"),
        *("slots", "name", "kind", "state", "labels", "sandbox_level", "__metadata__", "dtype"),
        *("shape", "data_offsets", "F32", "queued", "log", "succeeded", "truncated", "usage"),
        *("op", "token", "argv", "seconds", "at", "short", "delivered", "seen", "floors", "memory"),
        *("fence", "batch", "part", "parts", "digests", "restored", "spec", "at", "certificate"),
    ]
)
LEAF = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | WORDS
    | st.sampled_from([1, 10**400, "\udcff", "\x1b[2J", "1e999"])
)
JSON = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(WORDS, inner, max_size=6),
    max_leaves=30,
)


def text_of(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


INPUT = (
    st.binary(max_size=300)
    | JSON.map(text_of)
    | st.dictionaries(WORDS, JSON, max_size=12).map(text_of)
    | st.builds(
        lambda value, n: n.to_bytes(8, "little") + text_of(value), JSON, st.integers(0, 400)
    )
    | st.integers(1, 3_000).map(lambda depth: b"[" * depth)
    | st.integers(1, 3_000).map(lambda depth: b'{"a":' * depth)
)


@pytest.mark.parametrize(("name", "path"), SAVED)
def test_what_was_found_before(name: str, path: Path) -> None:
    TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_generated_input(target: Callable[[bytes], None]) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(INPUT)
    def try_it(data: bytes) -> None:
        target(data)

    try_it()


def test_the_decoder_by_what_it_has_not_run_yet(tmp_path: Path) -> None:
    """libFuzzer, by way of atheris, with a small budget; more: see tests.fuzz.guided"""
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python")
    corpus = tmp_path / "corpus"
    shutil.copytree(HERE / "corpus" / "decoder", corpus)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.guided", "decoder", str(corpus), "-runs=4000",
         "-max_len=2048", "-seed=1", f"-artifact_prefix={tmp_path}/"],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Done 4000 runs" in done.stderr


def test_the_rates_can_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert rates.main(5_000, 500) == 0
    assert "5000 lines" in capsys.readouterr().out
