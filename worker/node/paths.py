"""Where a node keeps what outlives its processes: one directory, private to the node's user."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tasks.errors import ConfigError
from worker.plan import AttemptId


@dataclass(frozen=True, kw_only=True)
class NodePaths:
    """The state directory of one node, by parts. `create` makes them."""

    state_dir: Path

    @cached_property
    def agent_lock(self) -> Path:
        """Held by the one agent of this directory."""
        return self.state_dir / "agent.lock"

    @cached_property
    def node_id(self) -> Path:
        """What tells this directory's node from another with the same name."""
        return self.state_dir / "node.id"

    @cached_property
    def node_key(self) -> Path:
        """The private key that the node signs with, mode 0600."""
        return self.state_dir / "node.key"

    @cached_property
    def enrolment(self) -> Path:
        """An operator's word that the key is the node's, unless trust.enrolment says elsewhere."""
        return self.state_dir / "node.cert"

    @cached_property
    def attempts(self) -> Path:
        """A directory for each attempt: its keeper's lock and socket."""
        return self.state_dir / "attempts"

    @cached_property
    def leases(self) -> Path:
        """Lease files: who holds a slot or a device."""
        return self.state_dir / "leases"

    @cached_property
    def work(self) -> Path:
        """A scratch directory for each attempt; removed with it."""
        return self.state_dir / "work"

    @cached_property
    def jobs(self) -> Path:
        """A directory for each job: its checkpoints, which outlive an attempt."""
        return self.state_dir / "jobs"

    @cached_property
    def artifacts(self) -> Path:
        """What jobs leave for their producers, unless storage.artifacts says elsewhere."""
        return self.state_dir / "artifacts"

    @cached_property
    def slots(self) -> Path:
        """Which process serves which slot."""
        return self.state_dir / "slots"

    @cached_property
    def logs(self) -> Path:
        """What the slot workers say."""
        return self.state_dir / "logs"

    @cached_property
    def temp(self) -> Path:
        """A directory for each slot: what its worker and whatever that starts put aside."""
        return self.state_dir / "tmp"

    @cached_property
    def images(self) -> Path:
        """A file for each image that this node has pulled, touched at each use."""
        return self.state_dir / "images"

    @cached_property
    def audit(self) -> Path:
        """Who ran what here, and how it ended; see `worker.node.audit`."""
        return self.state_dir / "audit.log"

    def attempt(self, attempt: AttemptId) -> Path:
        """The state of one attempt (`LaunchPlan.state`)."""
        return self.attempts / str(attempt)

    def scratch(self, attempt: AttemptId) -> Path:
        """The scratch directory of one attempt (`LaunchPlan.scratch`)."""
        return self.work / str(attempt)

    def job(self, job_id: str) -> Path:
        """What one job keeps between attempts."""
        return self.jobs / job_id

    def output(self, attempt: AttemptId) -> Path:
        """Where one attempt puts what it makes (`LaunchPlan.output`)."""
        return self.job(attempt.job_id) / f"output-{attempt.fence}"

    def slot_record(self, slot: str) -> Path:
        """Which process serves the slot (JSON)."""
        return self.slots / f"{slot}.json"

    def slot_ready(self, slot: str) -> Path:
        """Written by the slot's worker once it takes jobs; holds its pid."""
        return self.slots / f"{slot}.ready"

    def slot_queues(self, slot: str) -> Path:
        """Written by the slot's worker: the queues that it reads (JSON)."""
        return self.slots / f"{slot}.queues"

    def slot_unseen(self, slot: str) -> Path:
        """There while no container of the engine sees the slot's devices (JSON)."""
        return self.slots / f"{slot}.unseen"

    def slot_leaving(self, slot: str) -> Path:
        """There while the slot's worker, told to end, shall leave its job running."""
        return self.slots / f"{slot}.leaving"

    def slot_lock(self, slot: str) -> Path:
        """Held by the slot's worker for as long as it lives."""
        return self.slots / f"{slot}.lock"

    def slot_log(self, slot: str) -> Path:
        """What the slot's worker says."""
        return self.logs / f"{slot}.log"

    def slot_temp(self, slot: str) -> Path:
        """TMPDIR of the slot's worker; emptied before each start of it."""
        return self.temp / slot

    def create(self) -> None:
        """Make every directory, each for the node's user alone. Safe to call again.

        Raises:
            ConfigError: one cannot be made, is somebody else's, or others can write to it.
        """
        private_directory(self.state_dir)
        for path in (
            self.attempts,
            self.leases,
            self.work,
            self.jobs,
            self.artifacts,
            self.slots,
            self.logs,
            self.temp,
            self.images,
        ):
            private_directory(path)


def private_directory(path: Path) -> None:
    """Make ``path`` with mode 0700, or see that the one there is safe to use.

    Raises:
        ConfigError: it cannot be made, is no directory, is another user's, or group or others can
            write to it: whoever can write there decides what the node runs.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be made: {error.strerror}; set node.state_dir to a directory that "
            "this user can write to"
        ) from error
    if path.is_symlink() and path.lstat().st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{path}: is a link that user {path.lstat().st_uid} made")
    try:
        there = path.stat()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISDIR(there.st_mode):
        raise ConfigError(f"{path}: is no directory")
    if there.st_uid != os.geteuid():
        raise ConfigError(
            f"{path}: belongs to user {there.st_uid}, and this is user {os.geteuid()}; give this "
            "node a directory of its own (node.state_dir), or run it as that user"
        )
    if there.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"{path}: others can write to it (mode {stat.S_IMODE(there.st_mode):04o}); "
            f"chmod go-w {path}"
        )
