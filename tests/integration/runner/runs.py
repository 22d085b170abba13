"""Real runs of the built-in runner, as the node starts it: its own process, its own directories."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runner.warm import ROOT, Forked, Warm
from tests.support.waiting import wait_until

TORCH = "CYXWIZ_TORCH_PYTHON"


def torch_python() -> str:
    """A Python that has PyTorch. Skips where none is named; fails in CI, which has one."""
    found = os.environ.get(TORCH, "")
    if found:
        return found
    why = f"{TORCH} names no Python with torch, numpy, scikit-learn, Pillow and pyarrow"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def mlp(*units: int, dropout: float = 0.0, outputs: int = 10) -> list[dict[str, Any]]:
    """Layers of a perceptron with ReLU."""
    layers: list[dict[str, Any]] = []
    for one in units:
        layers.append({"type": "Dense", "units": one, "activation": "ReLU"})
        if dropout:
            layers.append({"type": "Dropout", "rate": dropout})
    return [*layers, {"type": "Dense", "units": outputs}]


def job(layers: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A job on digits, but for what ``more`` says."""
    model = {"layers": layers}
    for name in ("optimizer", "loss", "input_shape", "metrics"):
        if (value := more.pop(name, None)) is not None:
            model[name] = value
    given = {
        "job_id": "job-1",
        "model_definition": model,
        "dataset_uri": "builtin:digits",
        "epochs": 2,
        "seed": 7,
        **more,
    }
    return {name: value for name, value in given.items() if value is not None}


@dataclass
class Done:
    """A run that has ended."""

    code: int
    lines: list[dict[str, Any]]
    """What it said on stdout; every line is JSON."""
    log: str
    home: Path

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["type"] == kind]

    @property
    def complete(self) -> dict[str, Any]:
        """Its last word."""
        assert self.lines, self.log
        assert self.lines[-1]["type"] == "complete"
        return self.lines[-1]

    @property
    def model(self) -> Path:
        return Path(self.complete["model_path"])

    @property
    def epochs(self) -> list[int]:
        return [line["epoch"] for line in self.of("progress")]


@dataclass
class Started:
    """A run that goes on. What it says goes to files: no pipe fills up."""

    process: subprocess.Popen[bytes] | Forked
    home: Path

    @property
    def lines(self) -> list[dict[str, Any]]:
        whole = (self.home / "stdout").read_bytes().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    @property
    def log(self) -> str:
        return (self.home / "stderr").read_text()

    def wait_said(self, kind: str, epoch: int) -> None:
        def said() -> bool:
            found = any(line["type"] == kind and line["epoch"] >= epoch for line in self.lines)
            assert found or self.process.poll() is None, f"it ended before: {self.log}"
            return found

        wait_until(said, timeout=60, what=f"{kind} of epoch {epoch}")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> Done:
        code = self.process.wait(90)
        return Done(code, self.lines, self.log, self.home)


@dataclass
class Place:
    """Where one job runs, attempt after attempt."""

    home: Path
    python: str = sys.executable
    data: Path | None = None
    warm: Warm | None = None
    """What its runs are forked from; None: each starts cold, as on a node."""
    started: list[Started] = field(default_factory=list)

    @property
    def checkpoints(self) -> Path:
        return self.home / "checkpoints"

    def start(self, config: Mapping[str, Any] | str, **env: str) -> Started:
        """Start an attempt; ``config`` may be text that is no job."""
        text = config if isinstance(config, str) else json.dumps(config)
        encoded = base64.b64encode(text.encode()).decode()
        for name in ("checkpoints", "output", "scratch"):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        places = {
            "CYXWIZ_JOB_ID": "job-1",
            "CYXWIZ_CHECKPOINTS": str(self.checkpoints),
            "CYXWIZ_OUTPUT": str(self.home / "output"),
            **({"CYXWIZ_DATA": str(self.data)} if self.data else {}),
        }
        out, err, cwd = (self.home / name for name in ("stdout", "stderr", "scratch"))
        out.write_bytes(b"")
        err.write_bytes(b"")
        # one thread: the tests run beside others, and a small model gains none by two
        env = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "HOME": str(cwd), **places, **env}
        argument = f"--job-config={encoded}"
        process: subprocess.Popen[bytes] | Forked
        if self.warm is not None:
            process = Forked(self.warm, argument, cwd=cwd, env=env, out=out, err=err)
        else:
            process = self._cold(argument, cwd, env, out, err)
        self.started.append(Started(process, self.home))
        return self.started[-1]

    def _cold(
        self, argument: str, cwd: Path, env: Mapping[str, str], out: Path, err: Path
    ) -> subprocess.Popen[bytes]:
        with out.open("wb") as stdout, err.open("wb") as stderr:
            return subprocess.Popen(
                [self.python, "-m", "worker.runner", argument],
                cwd=cwd,
                env={"PYTHONPATH": str(ROOT), **env},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )

    def run(self, config: Mapping[str, Any] | str, **env: str) -> Done:
        """Run an attempt to its end."""
        return self.start(config, **env).wait()

    def end(self) -> None:
        """Leave nothing behind."""
        for one in self.started:
            if one.process.poll() is None:
                one.process.kill()
            one.process.wait()
