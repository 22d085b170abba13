"""How an attempt ended, decided from evidence: the engine's exit, the keeper's word, the files.

Pure. What the job says of itself counts against it only: a job that says it failed has failed,
one that says it succeeded must also have exited with 0 and left what it names.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import StrEnum

from tasks.state import FailureReason, JobState
from worker.plan import ExitStatus, StopCause

NO_DEVICE_STATUS = 79
"""Of the runner, and of the proof before a job: it does not see the devices that were granted."""


class Ended(StrEnum):
    """Why the supervisor itself ended an attempt."""

    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    SHUTDOWN = "shutdown"
    DEVICE_LOST = "device_lost"
    GPU_MEMORY = "gpu_memory"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """All that the decision rests on."""

    exit: ExitStatus
    ended: Ended | None = None
    """Set if the supervisor stopped it, and why."""
    why: str = ""
    """For people: who cancelled it, which time-out."""
    completed: bool = False
    """The job printed a `complete` line."""
    success: bool = False
    """… which says that it succeeded."""
    error: str = ""
    """… or why not."""
    must_complete: bool = False
    """The built-in runner, which always prints one."""
    missing_output: str = ""
    """What is wrong with the output that the line names; '' if nothing."""
    cuda_oom_seen: bool = False
    memory_error_seen: bool = False
    has_gpu: bool = False
    tail: str = ""
    """The last lines of its log, for the message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How an attempt ended. ``reason`` None: it succeeded, or was cancelled."""

    state: JobState
    reason: FailureReason | None = None
    message: str = ""
    retry: bool = False
    """Another attempt may end otherwise."""
    counts: bool = True
    """False: the node was at fault, and the attempt is not counted."""


def decide(evidence: Evidence) -> Outcome:
    """The outcome of an attempt whose lease is still ours."""
    if evidence.ended is Ended.SHUTDOWN and not _succeeded_before(evidence):
        return Outcome(
            state=JobState.FAILED,
            reason=FailureReason.NODE_LOST,
            message=evidence.why or "the node stopped",
            retry=True,
            counts=False,
        )
    if evidence.ended is Ended.CANCELLED:
        return Outcome(state=JobState.CANCELLED, message=evidence.why)
    failure = _failure(evidence)
    if failure is None:
        return Outcome(state=JobState.SUCCEEDED)
    reason, message = failure
    return Outcome(state=JobState.FAILED, reason=reason, message=message, retry=reason.retryable)


def _succeeded_before(evidence: Evidence) -> bool:
    """Whether it had ended well when it was told to end: nobody had to stop it."""
    exit_ = evidence.exit
    return exit_.code == 0 and exit_.cause is None and _failure(evidence) is None


def _failure(evidence: Evidence) -> tuple[FailureReason, str] | None:
    if evidence.ended is Ended.TIMEOUT:
        return FailureReason.TIMEOUT, evidence.why
    if evidence.ended is Ended.STALLED:
        return FailureReason.STALLED, evidence.why
    if evidence.ended is Ended.DEVICE_LOST:
        return FailureReason.DEVICE_LOST, evidence.why
    if evidence.ended is Ended.GPU_MEMORY:
        return FailureReason.GPU_OUT_OF_MEMORY, evidence.why
    return _by_limit(evidence) or _by_exit(evidence) or _by_claim(evidence)


def _by_limit(evidence: Evidence) -> tuple[FailureReason, str] | None:
    """What the keeper or the kernel stopped it for."""
    exit_ = evidence.exit
    if exit_.error:
        return FailureReason.USER_ERROR, f"could not be started: {exit_.error}"
    if exit_.cause is StopCause.MEMORY or (exit_.oom and exit_.code != 0):
        return FailureReason.OUT_OF_MEMORY, (
            f"used more memory than its limit (at most {exit_.max_rss_mb:.0f} MiB were seen); "
            "ask for more with memory_mb"
        )
    if exit_.cause is StopCause.PIDS:
        return FailureReason.USER_ERROR, "had more processes and threads than its limit"
    if exit_.cause is StopCause.OUTPUT:
        return FailureReason.OUTPUT_TOO_LARGE, "wrote more output than the node keeps of a job"
    if exit_.cause is StopCause.ENGINE and exit_.code != 0:
        return FailureReason.ENGINE_ERROR, "the container engine went away and took it along"
    if exit_.cause in (StopCause.DEADLINE, StopCause.ABANDONED, StopCause.FENCED):
        return FailureReason.NODE_LOST, f"was stopped by the node ({exit_.cause})"
    if exit_.cause is StopCause.REQUESTED and evidence.ended is None:
        return FailureReason.NODE_LOST, "was stopped by a supervisor that has died, and why with it"
    return None


def _by_exit(evidence: Evidence) -> tuple[FailureReason, str] | None:
    exit_ = evidence.exit
    if exit_.code == 0:
        return None
    how = _how(exit_)
    if evidence.completed and evidence.success:
        how += " although it reported success"
    if evidence.error:
        how += f": {evidence.error}"
    elif evidence.tail:
        how += f"; its last words: {evidence.tail}"
    if exit_.code == NO_DEVICE_STATUS and evidence.has_gpu:
        return FailureReason.NO_DEVICE, how
    if evidence.cuda_oom_seen and evidence.has_gpu:
        return FailureReason.GPU_OUT_OF_MEMORY, how
    if evidence.memory_error_seen:
        return FailureReason.OUT_OF_MEMORY, how
    return FailureReason.USER_ERROR, how


def _by_claim(evidence: Evidence) -> tuple[FailureReason, str] | None:
    """It exited with 0: its own words and its files may still tell against it."""
    if evidence.completed and not evidence.success:
        return FailureReason.USER_ERROR, evidence.error or "reported that it failed"
    if evidence.must_complete and not evidence.completed:
        if evidence.exit.cause is StopCause.ENGINE:
            return FailureReason.ENGINE_ERROR, (
                "exited with 0 while the container engine was away, and its `complete` line did "
                "not come through"
            )
        return FailureReason.INVALID_OUTPUT, "exited with 0 and printed no `complete` line"
    if evidence.missing_output:
        return FailureReason.INVALID_OUTPUT, evidence.missing_output
    return None


def _how(exit_: ExitStatus) -> str:
    if exit_.signal is None:
        return f"exited with {exit_.code}"
    try:
        name = signal.Signals(exit_.signal).name
    except ValueError:
        name = f"signal {exit_.signal}"
    return f"was ended by {name}"
