"""All descendants of a keeper as one thing: killed, stopped and continued together."""

from __future__ import annotations

import contextlib
import os
import signal

from worker.keeper import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Stoppable(Protocol):
        """What `Pause` keeps stopped."""

        def stop(self) -> bool: ...

        def resume(self) -> None: ...


_PASSES = 20


class Family:
    """The processes below ``root`` (this process, which adopts orphans)."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._stopped: set[tuple[int, int]] = set()

    def members(self) -> list[procfs.Process]:
        return procfs.descendants(self._root)

    def kill(self) -> None:
        """SIGKILL to every one that is seen now. Repeat until there is no child left to wait for.

        Groups first: the kernel kills a group in one go, which ends a fork bomb that a walk over
        its members would chase for ever.
        """
        found = self.members()
        own = os.getpgrp()
        for group in {entry.group for entry in found} - {own, 0}:
            with contextlib.suppress(OSError):
                os.killpg(group, signal.SIGKILL)
        for entry in found:
            procfs.send(entry, signal.SIGKILL)

    def stop(self) -> bool:
        """SIGSTOP until a pass finds nobody running. False: some do yet, call it again soon."""
        for _ in range(_PASSES):
            running = [entry for entry in self.members() if not entry.stopped]
            if not running:
                return True
            for entry in running:
                if procfs.send(entry, signal.SIGSTOP):
                    self._stopped.add((entry.pid, entry.start))
        return False

    def resume(self) -> None:
        """SIGCONT to those that `stop` stopped, and not to what the job had stopped itself."""
        for entry in self.members():
            if (entry.pid, entry.start) in self._stopped:
                procfs.send(entry, signal.SIGCONT)
        self._stopped.clear()


class Pause:
    """Keeps a family stopped for as long as there is a reason: several may ask, apart."""

    def __init__(self, family: Stoppable) -> None:
        self._family = family
        self._reasons: set[str] = set()
        self._still = False
        self.told = False
        """What the supervisor was told last."""

    @property
    def wanted(self) -> bool:
        return bool(self._reasons)

    @property
    def unsettled(self) -> bool:
        """Somebody may run who should not."""
        return self.wanted and not self._still

    def has(self, reason: str) -> bool:
        return reason in self._reasons

    def add(self, reason: str) -> None:
        self._reasons.add(reason)

    def remove(self, reason: str) -> None:
        """Resumes the family if that was the last reason."""
        if reason in self._reasons:
            self._reasons.remove(reason)
            if not self._reasons:
                self._still = False
                self._family.resume()

    def doubt(self) -> None:
        """Somebody outside may have continued it: look again."""
        self._still = False

    def enforce(self) -> None:
        if self.unsettled:
            self._still = self._family.stop()

    def news(self) -> bool | None:
        """Whether it is paused, where the supervisor was told otherwise; else None."""
        paused = self._still if self.wanted and not self.told else self.wanted
        if paused is self.told:
            return None
        self.told = paused
        return paused
