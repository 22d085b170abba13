"""Attempts as plain processes of this host, each under a keeper (Linux)."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.errors import KeeperError, RuntimeUnavailable, StartUncertain
from worker.keeper import client, containers, lock, protocol
from worker.keeper.client import KeeperLink
from worker.keeper.protocol import Verb
from worker.keeper.settle import Settlement, end_keeper, remove_tree, settle
from worker.keeper.zygote import Zygote
from worker.plan import AttemptId, ExitStatus, LaunchPlan
from worker.runtimes.base import Beside, Capabilities, Chunk, Handle, Status, Stream
from worker.runtimes.beginning import beginning, check_place
from worker.runtimes.beside import NativeBeside

ATTEMPTS = "attempts"
"""The directory under a node's state root that holds one directory for each attempt."""

_HELLO_WITHIN = 10.0
_GONE_WITHIN = 10.0


def unavailable() -> str:
    """Why this host can have no keepers; '' if it can."""
    if not sys.platform.startswith("linux"):
        return f"native attempts need Linux (this is {sys.platform}): use a container engine"
    if not hasattr(os, "pidfd_open") or not Path("/proc/self/stat").exists():
        return "native attempts need pidfd (Linux 5.3) and /proc"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return f"native attempts need pidfd (Linux 5.3): {error}"
    return ""


class NativeRuntime:
    """Starts attempts under keepers and finds them again. Thread-safe."""

    def __init__(
        self, *, state_root: Path, abandon_after: float, zygote: Zygote | None = None
    ) -> None:
        """
        ``state_root``: the node's state; an attempt's `LaunchPlan.state` is a directory in its
        ``attempts``. ``abandon_after``: seconds without a supervisor after which a keeper ends its
        attempt, and then itself. A ``zygote`` that is given stays the caller's to close.
        """
        self._attempts = state_root / ATTEMPTS
        self._abandon_after = abandon_after
        self._zygote = zygote if zygote is not None else Zygote()
        self._owns_zygote = zygote is None
        self._usable = False
        self._real_attempts = ""

    def capabilities(self) -> Capabilities:
        reason = unavailable()
        return Capabilities(
            name="native",
            available=not reason,
            reason=reason,
            pause=True,
            exec=True,
            enforces=frozenset({"memory", "cpu", "pids", "output"}),
        )

    def prepare(self, image: str | None, progress: Callable[[str], None]) -> None:
        """Nothing to pull: warm the zygote. ``image`` means nothing to native attempts."""
        self._require()
        self._zygote.start()

    def start(self, plan: LaunchPlan, deadline: float) -> Handle:
        self._require()
        check_place(plan, self._attempts)
        if not plan.argv:
            raise RuntimeUnavailable(f"{plan.attempt}: the plan names no program")
        directories = (plan.state, plan.scratch, plan.checkpoints, plan.output)
        try:
            with beginning(plan, directories, (os.geteuid(), os.getegid())) as guard:
                connection = self._zygote.spawn(self._spec(plan, deadline), guard, plan.grant.fds)
                link = KeeperLink(connection, plan.attempt, _HELLO_WITHIN)
        except StartUncertain:
            raise
        except (OSError, KeeperError, RuntimeUnavailable) as error:
            raise RuntimeUnavailable(f"{plan.attempt} was not started: {error}") from error
        return NativeHandle(
            link, state=plan.state, scratch=plan.scratch, take_back=self._zygote.take_back
        )

    def recover(self, slot: str | None = None) -> list[Handle]:
        """Attaches to the attempts whose keeper lives; dead ones are for `keeper.settle`."""
        found: list[Handle] = []
        if unavailable() or not self._attempts.is_dir():
            return found
        for directory in sorted(self._attempts.iterdir()):
            if not lock.alive(directory) or containers.read(directory) is not None:
                continue
            record = lock.read(directory)
            if record is None or slot not in (None, record.slot):
                continue
            # It may be ending this very moment: then it is not there to be found.
            with contextlib.suppress(OSError, KeeperError):
                link = KeeperLink(client.connect(directory), record.attempt, _HELLO_WITHIN)
                found.append(NativeHandle(link, state=directory, scratch=record.scratch))
        return found

    def close(self) -> None:
        if self._owns_zygote:
            self._zygote.close()

    def _require(self) -> None:
        if not self._usable:
            reason = unavailable()
            if reason:
                raise RuntimeUnavailable(reason)
            self._usable = True

    def _spec(self, plan: LaunchPlan, deadline: float) -> protocol.Spec:
        limits = plan.limits
        self._real_attempts = self._real_attempts or str(self._attempts.resolve())
        return {
            "job_id": plan.attempt.job_id,
            "fence": plan.attempt.fence,
            "slot": plan.grant.slot,
            "argv": list(plan.argv),
            "env": dict(plan.env),
            "state": f"{self._real_attempts}/{plan.state.name}",
            "scratch": str(plan.scratch),
            "watched": [str(plan.output), str(plan.checkpoints)],
            "memory_mb": limits.memory_mb,
            "limit_data": not plan.grant.devices,
            "cpu_cores": limits.cpu_cores,
            "pids": limits.pids,
            "nofile": limits.nofile,
            "output_mb": limits.output_mb,
            "deadline": deadline,
            "abandon_after": self._abandon_after,
        }


class NativeHandle:
    """One attempt, through its keeper. See `worker.runtimes.base.Handle`.

    Every verb raises `KeeperError` where the keeper is gone without having said how the attempt
    ended: the lease must then be given up, and `remove` or `settle` clears up.
    """

    def __init__(
        self,
        link: KeeperLink,
        *,
        state: Path,
        scratch: Path,
        take_back: Callable[[socket.socket], None] | None = None,
    ) -> None:
        """``take_back``: gets the connection to the keeper once that rests; None: it shall end."""
        self._take_back = take_back
        self._link = link
        self._state = state
        self._scratch = scratch

    @property
    def attempt(self) -> AttemptId:
        return self._link.attempt

    def read(self, timeout: float) -> Chunk | ExitStatus | None:
        return self._link.read(timeout)

    def ack(self, stream: Stream, offset: int) -> None:
        with contextlib.suppress(KeeperError):  # then nobody keeps anything
            self._link.ack(stream, offset)

    def beat(self, deadline: float) -> None:
        self._link.tie()  # it lasts
        self._link.send(protocol.beat_frame(deadline))

    def stop(self, grace: float) -> None:
        self._link.send(protocol.command_frame(Verb.STOP, grace))

    def fence(self) -> None:
        self._link.send(protocol.command_frame(Verb.FENCE))

    def pause(self) -> None:
        self._link.send(protocol.command_frame(Verb.PAUSE))

    def resume(self) -> None:
        self._link.send(protocol.command_frame(Verb.RESUME))

    def signal(self, number: int) -> None:
        signal.Signals(number)  # ValueError here, where the caller sees it
        self._link.send(protocol.command_frame(Verb.SIGNAL, number))

    def exec(self, argv: Sequence[str]) -> Beside:
        return NativeBeside(self._link, argv)

    def status(self) -> Status:
        return self._link.status

    def detach(self) -> None:
        self._link.close()

    def remove(self) -> None:
        """Raises `KeeperError` if this handle was detached, or something cannot be ended."""
        if not self._state.exists():
            self._link.close()
            return
        if self._link.detached:
            raise KeeperError(f"{self.attempt}: this handle was detached; recover() finds it again")
        all_dead = self._link.status is Status.EXITED  # a keeper tells the exit only then
        self._let_go()
        self._link.close()
        settled = settle(self._state, timeout=_GONE_WITHIN, all_dead=all_dead)
        if settled.outcome is not Settlement.SETTLED:
            raise KeeperError(f"{self.attempt}: still {settled.outcome} in {self._state}")
        if self._scratch.exists():
            remove_tree(self._scratch)

    def _let_go(self) -> None:
        """The grant is free, and the keeper rests or is gone."""
        if self._link.deaf:
            end_keeper(self._state)  # its job dies with it; the survivors are settled
            return
        if self._take_back is None:
            self._release()
            return
        try:
            connection = self._link.rest(_GONE_WITHIN)
        except KeeperError:
            self._release()
            return
        if connection is not None:
            self._take_back(connection)

    def _release(self) -> None:
        """Ask the keeper to end, and see it gone."""
        try:
            process = os.pidfd_open(self._link.keeper_pid)
        except ProcessLookupError:
            return
        try:
            self._link.send_always(protocol.command_frame(Verb.RELEASE))
            if not select.select([process], [], [], _GONE_WITHIN)[0]:
                # Its job dies with it; the survivors are settled.
                signal.pidfd_send_signal(process, signal.SIGKILL)
                select.select([process], [], [], _GONE_WITHIN)
        except KeeperError:
            pass  # it was gone already: the pid may be anybody's now, so it is left alone
        finally:
            os.close(process)
