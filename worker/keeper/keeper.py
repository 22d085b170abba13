"""The process that keeps one attempt: its grant, its deadline, its output and its end.

One thread, one loop, nothing in it blocks. The job's main process is a child that dies with this
one (PDEATHSIG); everything that descends from it is adopted (subreaper) and dead before the exit
is told.
"""

# No pathlib here: its import costs each slot a megabyte.
# ruff: noqa: PTH108, PTH115

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import time
from functools import partial

from worker.keeper import job, prctl, procfs, protocol
from worker.keeper.conversation import SOCKET_NAME, Conversation, listen, trusted
from worker.keeper.family import Family, Pause
from worker.keeper.protocol import Verb
from worker.keeper.streams import Streams
from worker.keeper.timers import Timers
from worker.keeper.verdict import verdict
from worker.keeper.watch import READ, WRITE, ChildSignal, Watch
from worker.keeper.watchdog import Rounds, Watchdog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from worker.keeper.protocol import Exit, Hello, Spec

_AGAIN = 0.02


class Keeper:
    """One attempt, from its fork to its release."""

    def __init__(self, spec: Spec, lock: int, leases: list[int]) -> None:
        now = time.monotonic()
        self._spec = spec
        self._lock = lock
        self._leases = leases
        self._began = now
        self._wall = 0.0
        self._timers = Timers(
            deadline=spec["deadline"], abandon_after=spec["abandon_after"], now=now
        )
        watchdog = Watchdog(
            memory_mb=spec["memory_mb"],
            pids=spec["pids"],
            output_mb=spec["output_mb"],
            directories=spec["watched"],
        )
        self._rounds = Rounds(watchdog, now)
        self._family = Family(os.getpid())
        self._watch = Watch()
        self._streams = Streams(self._watch.forget)
        self._conversation = Conversation(self._streams.spools)
        self._pause = Pause(self._family)
        self._killing = False
        self._cause: str | None = None
        self._error = ""
        self._status: int | None = None
        self._all_dead = False
        self._told = False
        self._released = False

    # --- start

    def start(self, connection: socket.socket) -> None:
        """Fork the job and greet the supervisor. Raises OSError: nothing was started."""
        for number in job.IGNORED:
            signal.signal(number, signal.SIG_IGN)
        children = ChildSignal()
        prctl.adopt_orphans()
        # The job first, what it needs not beside it; should the rest fail, it dies with this.
        self._job = job.launch(self._spec, self._leases)
        self._listener = listen(self._spec["state"])
        self._streams.open(self._job.streams)
        self._watch.want(children.fd, READ, children.clear)
        self._watch.want(self._listener.fileno(), READ, self._accept)
        self._watch.want(self._job.failure, READ, self._learn_failure)
        self._record()
        self._attach(connection)
        self._conversation.flush()

    def _record(self) -> None:
        """Who keeps this attempt, for those who find its directory."""
        own = procfs.process(os.getpid())
        record = {
            "pid": os.getpid(),
            "start": own.start if own else 0,
            "job_id": self._spec["job_id"],
            "fence": self._spec["fence"],
            "slot": self._spec["slot"],
            "scratch": self._spec["scratch"],
            "leases": [os.readlink(f"/proc/self/fd/{fd}") for fd in self._leases],
        }
        os.pwrite(self._lock, json.dumps(record).encode(), 0)

    # --- the loop

    def run(self) -> None:
        while True:
            now = time.monotonic()
            self._reap(now)
            self._keep_time(now)
            self._keep_limits(now)
            self._act()
            if self._all_dead:
                self._conclude(now)
                if self._released or self._timers.abandoned(now):
                    break
            self._speak(now)
            self._watch.wait(self._patience(time.monotonic()))
        self._leave()

    def _patience(self, now: float) -> float:
        """How long nothing needs to be done, in seconds."""
        if self._rounds.measuring or (self._streams.closed and not self._told):
            return 0.0
        due = [self._timers.next_due(now, running=not self._all_dead)]
        if not self._all_dead:
            due.append(self._rounds.next_due())
            if self._pause.wanted:
                due.append(self._rounds.look_at)
            if self._killing or self._pause.unsettled:
                due.append(now + _AGAIN)
        return min(due) - now

    def _reap(self, now: float) -> None:
        while not self._all_dead:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._all_dead = True
                self._timers.ended(now)
                return
            if pid == 0:
                return
            if pid == self._job.pid:
                self._status = status
                self._wall = now - self._began
                self._killing = True  # what it leaves behind goes with it

    def _keep_time(self, now: float) -> None:
        if self._all_dead:
            return
        if self._timers.expired(now):
            self._pause.add("deadline")
        else:
            self._pause.remove("deadline")
        if self._timers.grace_over(now):
            self._kill("requested")
        if self._timers.abandoned(now):
            self._kill("abandoned")

    def _keep_limits(self, now: float) -> None:
        verdicts = [self._rounds.measure(now)]
        if not self._all_dead and not self._killing and now >= self._rounds.look_at:
            verdicts.append(self._rounds.look(now, self._family.members))
            self._pause.doubt()
        for broken in filter(None, verdicts):
            self._kill(broken)

    def _act(self) -> None:
        """Make the processes what they should be: dead, stopped or running."""
        if self._all_dead:
            return
        if self._killing:
            self._family.kill()
        else:
            self._pause.enforce()
            paused = self._pause.news()
            if paused is not None:
                self._conversation.say(protocol.state_frame(paused))

    def _kill(self, cause: str) -> None:
        if self._cause is None:
            self._cause = cause
        self._killing = True

    # --- the end

    def _conclude(self, now: float) -> None:
        """All processes are dead: collect what they left, and say how it ended."""
        self._streams.drain()
        if self._told or not self._streams.closed or not self._rounds.last(now):
            return
        self._learn_failure()
        self._conversation.bid_farewell(protocol.json_frame(protocol.EXIT, self._verdict()))
        self._told = True

    def _verdict(self) -> Exit:
        return verdict(
            status=self._status,
            cause=self._cause,
            error=self._error,
            memory_mb=self._spec["memory_mb"],
            usage=resource.getrusage(resource.RUSAGE_CHILDREN),
            wall_seconds=self._wall,
        )

    def _learn_failure(self) -> None:
        """Why the program could not be executed, if so; the pipe closes as it starts."""
        if self._job.failure < 0:
            return
        try:
            text = os.read(self._job.failure, 4096)
        except BlockingIOError:
            return
        self._error = text.decode(errors="replace")
        self._watch.forget(self._job.failure)
        os.close(self._job.failure)
        self._job.failure = -1

    def _leave(self) -> None:
        """The grant first, then the sign of life, then the supervisor: each can rely on it."""
        for lease in self._leases:
            os.close(lease)
        self._listener.close()
        with contextlib.suppress(OSError):
            os.unlink(f"{self._spec['state']}/{SOCKET_NAME}")
        os.close(self._lock)
        self._conversation.drop()

    # --- the supervisor

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if trusted(connection):
            self._attach(connection)
        else:
            connection.close()

    def _attach(self, connection: socket.socket) -> None:
        hello: Hello = {
            "keeper": os.getpid(),
            "job": self._job.pid,
            "paused": self._pause.told,
        }
        self._watch.forget(self._conversation.fd)
        self._conversation.attach(connection, protocol.json_frame(protocol.HELLO, hello))
        self._timers.attached()

    def _speak(self, now: float) -> None:
        if not self._conversation.flush():
            self._hang_up(now)
        mask = READ | (WRITE if self._conversation.blocked else 0)
        self._watch.want(self._conversation.fd, mask, self._listen)
        for index in range(protocol.STREAMS):
            pipe = self._streams.pipe(index)
            mask = READ if self._streams.readable(index) else 0
            self._watch.want(pipe, mask, partial(self._streams.read, index))

    def _hang_up(self, now: float) -> None:
        self._watch.forget(self._conversation.fd)
        self._conversation.drop()
        self._timers.lost(now)

    def _listen(self) -> None:
        while (frame := self._conversation.hear()) is not None:
            if not frame:
                self._hang_up(time.monotonic())
                return
            self._obey(frame)

    def _obey(self, frame: bytes) -> None:
        match frame[0]:
            case protocol.ACK:
                stream, offset = protocol.parse_ack(frame)
                self._streams.spools[stream].ack(offset)
            case protocol.BEAT:
                self._timers.beat(protocol.parse_beat(frame), time.monotonic())
            case protocol.COMMAND:
                command = protocol.parse_json(frame)
                self._command(Verb(command["verb"]), command["argument"])

    def _command(self, verb: Verb, argument: float) -> None:
        match verb:
            case Verb.STOP:
                self._stop(argument)
            case Verb.FENCE:
                self._kill("fenced")
            case Verb.PAUSE:
                self._pause.add("user")
            case Verb.RESUME:
                self._pause.remove("user")
            case Verb.SIGNAL:
                self._signal(int(argument))
            case Verb.RELEASE:
                self._released = True
                self._kill("requested")

    def _stop(self, grace: float) -> None:
        if self._status is not None:
            return
        if self._pause.has("deadline"):
            # It may not run one more instruction, so it cannot use a grace.
            self._kill("requested")
            return
        if self._cause is None:
            # Only the main process, as an engine would: a trainer's data loaders must live on
            # while it saves its checkpoint.
            self._cause = "requested"
            self._signal(signal.SIGTERM)
        self._pause.remove("user")
        self._timers.stop_at = min(self._timers.stop_at, time.monotonic() + grace)

    def _signal(self, number: int) -> None:
        if self._status is None:  # not yet waited for: the pid is still the job's
            os.kill(self._job.pid, number)
