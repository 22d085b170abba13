"""How an attempt has ended, from evidence; and the result of a success."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tasks import events
from tasks.job import JobConfig
from tasks.state import JobState
from worker.attempt import Attempt
from worker.note import Note
from worker.outcome import Evidence, Outcome, decide
from worker.plan import ExitStatus, StopCause
from worker.result import missing_output, success_result
from worker.stream.publisher import Publisher
from worker.supplies import Supplies

_LAST_WORDS_LOST: Final = (
    "[the container engine was away when the container ended: the last of its output may be lost]"
)


def judge(
    job: JobConfig,
    exit_: ExitStatus,
    attempt: Attempt,
    note: Note,
    *,
    publisher: Publisher,
    supplies: Supplies,
    used: Mapping[str, Any],
    about: Mapping[str, Any],
) -> tuple[Outcome, Mapping[str, Any]]:
    """The outcome; and of a success its result, with the artefacts that were kept.

    ``used``: of its devices. ``about``: where it ran, and how long, for the result.

    Raises TurnedAway: what it left could not be kept.
    """
    assert note.output is not None  # noqa: S101 - a note of ours is whole
    # Podman's containers have a monitor of their own, which keeps what they print
    if exit_.cause is StopCause.ENGINE and note.about.get("mode") != "podman":
        publisher.offer(events.Log(stream="stderr", lines=(_LAST_WORDS_LOST,)))
    publisher.state(
        events.Usage(
            cpu_seconds=round(exit_.cpu_seconds, 3),
            max_rss_mb=round(exit_.max_rss_mb, 1),
            wall_seconds=round(exit_.wall_seconds, 3),
            oom=exit_.oom,
            **used,
        ),
        more_soon=True,
    )
    said = attempt.decoder.completion
    outcome = decide(
        Evidence(
            exit=exit_,
            ended=attempt.ended,
            why=attempt.why,
            completed=said is not None,
            success=said is not None and said.success,
            error="" if said is None else said.error,
            must_complete=job.model_definition is not None,
            missing_output=missing_output(said, note.output),
            cuda_oom_seen=attempt.decoder.cuda_oom_seen,
            memory_error_seen=attempt.decoder.memory_error_seen,
            has_gpu=bool(note.devices),
            tail=attempt.decoder.tail,
        )
    )
    if outcome.state is not JobState.SUCCEEDED:
        return outcome, {}
    result = success_result(
        job_id=note.lease.job_id,
        completion=said,
        progress=attempt.decoder.progress,
        kept=supplies.keep(note.output),
        output=note.output,
        about={
            **note.about,
            **about,
            "cpu_seconds": round(exit_.cpu_seconds, 3),
            "max_rss_mb": round(exit_.max_rss_mb, 1),
            # it went on, and ended well: nothing else would tell that it was short of memory
            **({"oom": True} if exit_.oom else {}),
            **used,
        },
    )
    return outcome, result
