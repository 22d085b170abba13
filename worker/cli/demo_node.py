"""A private node for ``cyxwiz demo``: a real one, in a directory that goes with it."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import worker
from worker.cli.demo_sandbox import DemoSandbox
from worker.cli.exits import CommandFailed
from worker.node import slot_records
from worker.node.adoption import Leftovers
from worker.node.paths import NodePaths
from worker.node.processes import WatchedProcess, kill_group
from worker.node.tied import tied_command

_STOP_S: Final = 10.0
"""A node with nothing to do ends within two; each step of a stop has so long."""
_POLL_S: Final = 0.02
_ROOT_BYTES: Final = 40


class NodeFailed(CommandFailed):
    """The demo's node did not start, or ended; the message has what it said last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoNode:
    """The running node."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait_ready(self, timeout: float) -> None:
        """Return once it takes jobs. Raises NodeFailed."""
        until = time.monotonic() + timeout
        while "node ready\n" not in self.log.read_text(errors="replace"):
            if self.process.poll() is not None:
                raise self.failed(f"the node ended with {self.process.returncode}")
            if time.monotonic() > until:
                raise self.failed(f"the node took no jobs within {timeout:.0f} s")
            time.sleep(_POLL_S)

    def failed(self, what: str) -> NodeFailed:
        """The error for what went wrong, with the end of what the node and its slot said."""
        said = [*_tail(self.log), *_tail(self.log.parent / "state" / "logs" / "cpu0.log")]
        return NodeFailed("\n  ".join([what + "; it said:", *said]))


@contextmanager
def demo_directory() -> Iterator[Path]:
    """A directory of this user's alone, removed at the end with all that is in it."""
    root = tempfile.gettempdir()
    # its sockets must fit into an AF_UNIX path
    short = len(os.fsencode(root)) <= _ROOT_BYTES or not os.access("/tmp", os.W_OK)
    directory = Path(tempfile.mkdtemp(prefix="cyxwiz-demo-", dir=root if short else "/tmp"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def demo_node(
    directory: Path, redis_url: str, env: Mapping[str, str], sandbox: DemoSandbox
) -> Iterator[DemoNode]:
    """Start a node in ``directory``; stop it at the end, however that comes.

    It ends by itself should this process be killed.
    """
    state, temporary = directory / "state", directory / "tmp"
    temporary.mkdir(mode=0o700)
    config = directory / "server-node.yaml"
    config.write_text(json.dumps(demo_config(state, sandbox), indent=2))
    log = directory / "node.log"
    command = [sys.executable, "-m", "worker.cli", "node", "--config", str(config)]
    command += ["--redis", redis_url, "--drain", "0"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            tied_command(command, signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**_environment(env), "TMPDIR": str(temporary)},
            start_new_session=True,  # a Ctrl-C is for the demo, which then stops its node
        )
    try:
        yield DemoNode(process=process, log=log)
    finally:
        if not _stopped(process):
            _end_what_it_left(NodePaths(state_dir=state))


def demo_config(state: Path, sandbox: DemoSandbox) -> dict[str, object]:
    """The node's configuration, as JSON, which is YAML."""
    docker = {"socket": str(sandbox.socket), "pull_policy": "never", "preload_images": []}
    return {
        "execution": {"mode": "docker"}
        if sandbox.usable
        else {"mode": "native", "allow_untrusted_native": True},
        "docker": docker,
        "node": {"name": "demo", "state_dir": str(state)},
        "slots": {"cpu": 1},
        "timeouts": {"stop_grace": 2},
    }


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    """Nothing that is meant for a node of this host, or for its producers."""
    clean = {name: value for name, value in env.items() if not name.startswith("CYXWIZ_")}
    root = Path(worker.__file__).resolve().parents[1]
    if root.name not in ("site-packages", "dist-packages"):  # a checkout
        clean["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), env.get("PYTHONPATH"))))
    return clean


def _stopped(process: subprocess.Popen[bytes]) -> bool:
    """End the agent: SIGTERM drains; twice more and it kills its slot workers. If all went well."""
    for times in (1, 2):
        for _ in range(times):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            continue
        return process.returncode == 0
    process.kill()
    process.wait()
    return False


def _end_what_it_left(paths: NodePaths) -> None:
    """An agent that dies leaves its slot workers to its successor, and here none comes."""
    for slot in slot_records.recorded(paths):
        record = slot_records.read(paths, slot)
        left = None if record is None else WatchedProcess.find(record.process)
        if left is not None:
            left.send(signal.SIGKILL)
            select.select([left], [], [], _STOP_S)
            kill_group(left.name)
            left.collect()
    Leftovers(paths).end_all(grace=0.0)


def _tail(log: Path) -> list[str]:
    try:
        return log.read_text(errors="replace").splitlines()[-12:]
    except OSError:
        return []
