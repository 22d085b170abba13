"""The process that keeps one attempt: its grant, its deadline, its output and its end.

One thread, one loop, nothing in it blocks. A native job's main process is a child whose group dies
with this one (see `worker.keeper.tether`); everything that descends from it is adopted (subreaper)
and dead before the exit is told. A container is killed by a small process that waits for this
one's death.
"""

# No pathlib here: its import costs each slot a megabyte.
# ruff: noqa: PTH108, PTH115

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time

from worker.keeper import procfs, protocol
from worker.keeper.container import ContainerSubject
from worker.keeper.conversation import SOCKET_NAME, Conversation, listen, trusted
from worker.keeper.family import Pause
from worker.keeper.process import ProcessSubject
from worker.keeper.protocol import Verb
from worker.keeper.timers import Timers
from worker.keeper.watch import READ, WRITE, Watch
from worker.keeper.watchdog import Rounds, Watchdog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from worker.keeper.protocol import Hello, Spec
    from worker.keeper.subject import Subject

_AGAIN = 0.02


class Keeper:
    """One attempt, from its start to its release."""

    def __init__(self, spec: Spec, lock: int, leases: list[int], *, may_rest: bool) -> None:
        """``may_rest``: it may be asked to keep another attempt after this one."""
        now = time.monotonic()
        self._spec = spec
        self._lock = lock
        self._leases = leases
        self._timers = Timers(
            deadline=spec["deadline"], abandon_after=spec["abandon_after"], now=now
        )
        watchdog = Watchdog(
            memory_mb=spec["memory_mb"],
            pids=spec["pids"],
            output_mb=spec["output_mb"],
            directories=spec["watched"],
            confined="container" in spec,
        )
        self._rounds = Rounds(watchdog, now)
        self._watch = Watch()
        kind = ContainerSubject if "container" in spec else ProcessSubject
        self._subject: Subject = kind(spec, leases, self._watch)
        self._conversation = Conversation(self._subject.spools)
        self._pause = Pause(self._subject)
        self._killing = False
        self._cause: str | None = None
        self._ended = False
        self._told = False
        # the mourner of a container would keep copies of what the next attempt is given
        self._may_rest = may_rest and "container" not in spec
        self._released = self._rests = False

    # --- start

    def start(self, connection: socket.socket) -> None:
        """Fork the job and greet the supervisor. Raises OSError: nothing was started."""
        record = self._record()  # a start may take long, and then somebody must find whom to end
        # The job first, what it needs not beside it; should the rest fail, it dies with this.
        self._subject.start()
        self._listener = listen(self._spec["state"])
        self._watch.want(self._listener.fileno(), READ, self._accept)
        self._write({**record, "job": self._subject.pid})
        self._attach(connection)
        if not self._conversation.flush():
            raise ConnectionError("whoever asked for the attempt has given it up")

    def _record(self) -> dict[str, object]:
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
        self._write(record)
        return record

    def _write(self, record: dict[str, object]) -> None:
        os.pwrite(self._lock, json.dumps(record).encode(), 0)

    # --- the loop

    def run(self) -> socket.socket | None:
        """Until the attempt is released; returns the connection if the next one comes over it."""
        while True:
            now = time.monotonic()
            self._look(now)
            self._keep_time(now)
            self._keep_limits(now)
            self._act()
            if self._subject.all_dead:
                self._conclude(now)
                if self._released or self._timers.abandoned(now):
                    break
            self._speak(now)
            self._watch.wait(self._patience(time.monotonic()))
        return self._leave()

    def _patience(self, now: float) -> float:
        """How long nothing needs to be done, in seconds."""
        dead = self._subject.all_dead
        if self._rounds.measuring or (dead and self._subject.drained and not self._told):
            return 0.0
        due = [self._timers.next_due(now, running=not dead), self._subject.next_due(now)]
        if not dead:
            due.append(self._rounds.next_due())
            if self._pause.wanted:
                due.append(self._rounds.look_at)
            if self._killing or self._pause.unsettled:
                due.append(now + _AGAIN)
        return min(due) - now

    def _look(self, now: float) -> None:
        self._subject.look(now)
        if self._subject.ended:
            self._killing = True  # what it leaves behind goes with it
        if self._subject.all_dead and not self._ended:
            self._ended = True
            self._timers.ended(now)

    def _keep_time(self, now: float) -> None:
        if self._subject.all_dead:
            return
        if self._timers.expired(now):
            if self._subject.pauses:
                self._pause.add("deadline")
            if self._subject.unstoppable(now):
                self._kill("deadline")
        else:
            self._pause.remove("deadline")
        if self._timers.grace_over(now):
            self._kill("requested")
        if self._timers.abandoned(now):
            self._kill("abandoned")

    def _keep_limits(self, now: float) -> None:
        verdicts = [self._rounds.measure(now, self._subject.pids)]
        if not self._subject.all_dead and not self._killing and now >= self._rounds.look_at:
            verdicts.append(self._rounds.look(now, self._subject.members))
            self._pause.doubt()
        for broken in filter(None, verdicts):
            self._kill(broken)

    def _act(self) -> None:
        """Make the processes what they should be: dead, stopped or running."""
        if self._subject.all_dead:
            return
        if self._killing:
            self._subject.kill()
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
        self._subject.drain()
        if self._told or not self._subject.drained or not self._rounds.last(now):
            return
        farewell = protocol.json_frame(protocol.EXIT, self._subject.exit(self._cause))
        self._conversation.bid_farewell(farewell)
        self._told = True

    def _leave(self) -> socket.socket | None:
        """The grant first, then the sign of life, then the supervisor: each can rely on it."""
        self._subject.leave()
        for lease in self._leases:
            os.close(lease)
        self._listener.close()
        with contextlib.suppress(OSError):
            os.unlink(f"{self._spec['state']}/{SOCKET_NAME}")
        os.close(self._lock)
        self._watch.close()
        if self._rests:
            return self._conversation.hand_over()
        self._conversation.drop()
        return None

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
            "job": self._subject.pid,
            "paused": self._pause.told,
            "tether": self._subject.tether,
        }
        self._watch.forget(self._conversation.fd)
        self._conversation.attach(connection, protocol.json_frame(protocol.HELLO, hello))
        self._timers.attached()

    def _speak(self, now: float) -> None:
        if not self._conversation.flush():
            self._listen()  # its last words came before it went
            self._hang_up(now)
        mask = READ | (WRITE if self._conversation.blocked else 0)
        self._watch.want(self._conversation.fd, mask, self._listen)
        self._subject.declare()

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
                self._subject.spools[stream].ack(offset)
            case protocol.BEAT:
                self._timers.beat(protocol.parse_beat(frame), time.monotonic())
            case protocol.COMMAND:
                command = protocol.parse_json(frame)
                self._command(Verb(command["verb"]), command["argument"])
            case protocol.BESIDE:
                fds, self._conversation.came_along = self._conversation.came_along, []
                if not self._killing and not self._pause.wanted:
                    self._subject.beside(protocol.parse_json(frame)["argv"], fds)
                    return
                for fd in fds:  # whoever asked is told by that
                    os.close(fd)

    def _command(self, verb: Verb, argument: float) -> None:
        match verb:
            case Verb.STOP:
                self._stop(argument)
            case Verb.FENCE:
                self._kill("fenced")
            case Verb.PAUSE:
                if self._subject.pauses:
                    self._pause.add("user")
            case Verb.RESUME:
                self._pause.remove("user")
            case Verb.SIGNAL:
                self._subject.signal(int(argument))
            case Verb.RELEASE | Verb.REST:
                self._released = True
                self._rests = verb is Verb.REST and self._may_rest
                self._kill("requested")

    def _stop(self, grace: float) -> None:
        if self._subject.ended:
            return
        if self._pause.has("deadline"):
            # It may not run one more instruction, so it cannot use a grace.
            self._kill("requested")
            return
        if self._cause is None:
            # Only the main process, as an engine would: a trainer's data loaders must live on
            # while it saves its checkpoint.
            self._cause = "requested"
            self._subject.signal(signal.SIGTERM)
        self._pause.remove("user")
        self._timers.stop_at = min(self._timers.stop_at, time.monotonic() + grace)
