"""Watches an attempt that runs, to its exit: what it prints, how long it takes, its devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tasks import events
from tasks.executor import Delivery
from tasks.job import JobConfig
from tasks.state import JobState
from worker.attempt import Attempt, Patience
from worker.device_watch import DeviceWatch
from worker.granting import promised_mb
from worker.heirs import Heir
from worker.holding import Holding
from worker.keeper import secret_files
from worker.limits import effective_timeout
from worker.note import Note
from worker.parts import NodeParts
from worker.plan import ExitStatus
from worker.runtimes.base import Handle
from worker.stream.decoder import Decoder
from worker.stream.masking import Mask


class Watching:
    """Of one attempt, which was started, or taken over."""

    def __init__(
        self,
        parts: NodeParts,
        delivery: Delivery,
        job: JobConfig,
        handle: Handle,
        note: Note,
        *,
        holding: Holding,
        saved: Callable[[], None],
        heir: Heir | None,
    ) -> None:
        """``saved``: called for each checkpoint that the job reports. ``heir``: of an attempt that
        was taken over.

        Raises OSError: the job's secrets cannot be read.
        """
        self._parts = parts
        self._job = job
        self._handle = handle
        self._note = note
        self._holding = holding
        self._adopted = heir is not None
        self._devices: DeviceWatch | None = None
        place = parts.paths.attempt(handle.attempt)
        values = secret_files.read(place).values() if job.secrets else ()
        self.mask = Mask(values) if values else None
        """Of the job's secrets; None: it has none."""
        self.attempt = Attempt(
            job=job,
            handle=handle,
            publisher=holding.publisher,
            patience=Patience(
                timeout=effective_timeout(job, parts.config) or 0.0,
                stall=job.stall_timeout_seconds or 0.0,
                grace=parts.config.timeouts.stop_grace,
            ),
            started=delivery.started,
            progress=delivery.progress,
            lasts=holding.lasts,
            saved=saved,
            **self._where_it_was(heir),
        )

    def watch(self) -> ExitStatus:
        """How it has exited, with no secret in what it says. Raises `worker.attempt.Left`."""
        if self._adopted:
            self.attempt.stand_as_recorded()
        self._holding.attach(self.attempt, self._handle)
        self._watch_devices()
        try:
            exit_ = self.attempt.watch()
        finally:
            if self._devices is not None:
                self._devices.stop()
        if self.mask is not None:
            exit_ = replace(exit_, error=self.mask.text(exit_.error))
        return exit_

    def used(self) -> Mapping[str, Any]:
        """What it used of its devices, for the result; {} if it has none."""
        return {} if self._devices is None else self._devices.totals()

    def _where_it_was(self, heir: Heir | None) -> dict[str, Any]:
        """What reads the output of an attempt; and where that goes on, if it runs already."""
        job = self._job
        job_id = self._handle.attempt.job_id
        if heir is None or heir.adopted is None:
            return {"decoder": Decoder(job_id, job.epochs, mask=self.mask)}
        return {
            "decoder": Decoder(
                job_id,
                job.epochs,
                left=heir.reading,
                progress=_progress(heir.adopted.progress),
                mask=self.mask,
            ),
            "began": heir.note.began,
            "paused": heir.adopted.state is JobState.PAUSED,
        }

    def _watch_devices(self) -> None:
        if self._note.devices:
            self._devices = DeviceWatch(
                self._parts.inventory,
                self._note.devices,
                self._handle.attempt,
                attempts=self._parts.paths.attempts,
                limit_mb=promised_mb(self._parts, self._job),
                drained=self._parts.pool.health.drained,
                end=self.attempt.end,
                tell=self._holding.publisher.offer,
            )
            self._devices.start()


def _progress(said: Mapping[str, Any]) -> events.Progress | None:
    """The last progress that the record knows of."""
    try:
        return events.Progress(**{k: v for k, v in said.items() if k != "type"})
    except TypeError:  # there was none, or another version has said it
        return None
