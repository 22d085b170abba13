"""What a job prints, as events. Bounded, and never raises: the bytes are the job's.

A line of stdout that is a JSON object of a known type and right in every field is taken as such;
everything else is log. What a job says of itself stays a claim: see `worker.outcome`.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from tasks.events import Checkpoint, Event, Log, Progress
from worker.runtimes.base import Chunk, Stream
from worker.stream.lines import LineBuffer, text_of
from worker.stream.masking import Mask
from worker.stream.reading import Reading

_MOST_LINES: Final = 200
"""Lines in one log event …"""
_MOST_CHARS: Final = 64 * 1024
"""… and their characters, but for the last line."""
_MOST_METRICS: Final = 64
_MOST_NAME: Final = 64
_MOST_TEXT: Final = 1024
_MOST_EPOCH: Final = 10**9
_TAIL: Final = 20
_NOT_METRICS: Final = frozenset(
    {"type", "job_id", "epoch", "total_epochs", "loss", "accuracy", "timestamp", "progress"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """The job's own word on how it went. A claim."""

    success: bool
    model_path: str
    sha256: str
    error: str
    metrics: Mapping[str, float]


class Said(NamedTuple):
    """An event, and which bytes of its stream it comes from."""

    event: Event
    start: int
    end: int


def kind_of(event: Event) -> str:
    """Which events come in the order in which they were printed; '' for what no job prints."""
    if type(event) is Progress:  # the one that comes by the hundred thousand
        return event.type
    match event:
        case Log():
            return f"{event.type}:{event.stream}"
        case Checkpoint():
            return event.type
        case _:
            return ""


class Decoder:
    """Decodes the two streams of one attempt."""

    def __init__(
        self,
        job_id: str,
        total_epochs: int,
        *,
        left: Reading | None = None,
        progress: Progress | None = None,
        mask: Mask | None = None,
    ) -> None:
        """``left``: what an earlier supervisor of the same attempt left, if there was one;
        ``progress``: the last that it heard of. ``mask``: of secrets that the job has."""
        self._mask = mask
        self._job_id = job_id
        self._total_epochs = total_epochs
        self._buffers = {one: LineBuffer() for one in Stream}
        self._left = left
        self._begun = dict.fromkeys(Stream, left is None)
        self._seen = {} if left is None else dict(left.seen)
        self.completion: Completion | None = None
        self.progress = progress
        """The last one."""
        self.lines = 0
        """How many lines were seen."""
        self.cuda_oom_seen = False
        self.memory_error_seen = False
        self._tail: deque[str] = deque(maxlen=_TAIL)
        if left is not None:
            self._recall(left.memory)

    @property
    def memory(self) -> dict[str, Any]:
        """What a successor, which does not read everything again, must know (JSON)."""
        found: dict[str, Any] = {}
        if self.cuda_oom_seen:
            found["cuda_oom"] = True
        if self.memory_error_seen:
            found["memory_error"] = True
        if self.completion is not None:
            found["complete"] = asdict(self.completion)
        return found

    def _recall(self, memory: Mapping[str, Any]) -> None:
        self.cuda_oom_seen = bool(memory.get("cuda_oom"))
        self.memory_error_seen = bool(memory.get("memory_error"))
        if "complete" in memory:
            self.completion = Completion(**memory["complete"])

    @property
    def tail(self) -> str:
        """The last lines of log, for messages; at most about 1,000 characters."""
        return " | ".join(self._tail)[-1000:]

    def consumed(self, stream: Stream) -> int:
        """Every byte of ``stream`` before this offset has become events."""
        return self._buffers[stream].consumed

    def feed(self, chunk: Chunk) -> list[Said]:
        """The events in a chunk."""
        stream = Stream(chunk.stream)
        buffer = self._buffers[stream]
        lost: list[Said] = []
        if not self._begun[stream]:
            self._begun[stream] = True
            lost = self._go_on(stream, chunk.offset)
        return lost + self._events(stream, buffer, buffer.feed(chunk.offset, chunk.data))

    def _go_on(self, stream: Stream, offset: int) -> list[Said]:
        """Begin where an earlier supervisor stopped; or later, if more is gone."""
        self._buffers[stream].skip_to(offset)
        missing = offset - (self._left.floors.get(stream, 0) if self._left is not None else 0)
        if missing <= 0:
            return []
        text = f"[{missing} bytes of output were lost: their reader died, and Redis was away]"
        return [Said(Log(stream=stream, lines=(text,)), offset, offset)]

    def flush(self) -> list[Said]:
        """The events in what is left: both streams have ended."""
        found: list[Said] = []
        for stream, buffer in self._buffers.items():
            found += self._events(stream, buffer, buffer.flush())
        return found

    def _events(
        self, stream: Stream, buffer: LineBuffer, lines: list[tuple[bytes, int]]
    ) -> list[Said]:
        found: list[Said] = []
        log: list[str] = []
        size = 0
        self.lines += len(lines)
        start = end = buffer.begins
        for line, cut in lines:
            event = None
            end += len(line) + cut + 1
            if self._mask is not None:
                line = self._mask.line(line, cut=bool(cut))
            if line[:1] == b"{" and stream is Stream.STDOUT and not cut:
                event = self._message(line, log)
            elif line:
                self._log(text_of(line, cut), log)
            if self._seen:
                event = self._unseen(event, log, stream, end)
            size += len(line)
            if event is not None or len(log) >= _MOST_LINES or size >= _MOST_CHARS:
                if log:
                    found.append(Said(Log(stream=stream, lines=tuple(log)), start, end))
                    log, size = [], 0
                if event is not None:
                    found.append(Said(event, start, end))
                start = end
        if log:
            found.append(Said(Log(stream=stream, lines=tuple(log)), start, end))
        buffer.begins = end
        return found

    def _unseen(
        self, event: Event | None, log: list[str], stream: Stream, end: int
    ) -> Event | None:
        """Take away what the line that ends at ``end`` has said and an earlier supervisor has
        published. ``log``: the last line of it, if it has any."""
        if event is not None:
            return None if end <= self._seen.get(kind_of(event), 0) else event
        if log and end <= self._seen.get(f"{Log.type}:{stream}", 0):
            log.clear()  # those before it were published, too
        return None

    def _message(self, line: bytes, log: list[str]) -> Event | None:
        """The event of a JSON line, or its text in ``log``."""
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            said = None
        if isinstance(said, dict):
            said = said if self._mask is None else self._mask.said(said)
            claimed = said.get("job_id", self._job_id)
            kind = said.get("type")
            if claimed != self._job_id and kind in ("progress", "complete", "checkpoint"):
                name = _text(claimed)[:128] or "?"
                self._log(f"[claims to be job {name}] {text_of(line)}", log)
                return None
            event: Progress | Checkpoint | None = None
            if kind == "progress":
                progress = self._progress(said, line)
                self.progress = progress or self.progress
                event = progress
            elif kind == "checkpoint":
                event = _checkpoint(said)
            elif kind == "complete" and isinstance(said.get("success"), bool):
                self.completion = _completion(said)
                return None
            if event is not None:
                return event
        self._log(text_of(line), log)
        return None

    def _progress(self, said: dict[str, Any], line: bytes) -> Progress | None:
        epoch, total = said.get("epoch"), said.get("total_epochs", self._total_epochs)
        if type(epoch) is not int or not 0 <= epoch <= _MOST_EPOCH:
            return None
        if type(total) is not int or not 1 <= total <= _MOST_EPOCH:
            return None
        return Progress(
            epoch=epoch,
            total_epochs=total,
            progress=min(1.0, epoch / total),
            # a training that diverges says NaN, and its epochs count all the same
            loss=_number(said.get("loss")),
            accuracy=_number(said.get("accuracy")),
            metrics=_metrics(said),
            line=self._masked(text_of(line)),
        )

    def _masked(self, text: str) -> str:
        return text if self._mask is None else self._mask.text(text)

    def _log(self, text: str, log: list[str]) -> None:
        if not text:
            return
        text = self._masked(text)
        log.append(text)
        self._tail.append(text[:200])
        if "rror" in text or "CUDA" in text:
            if "CUDA out of memory" in text or "OutOfMemoryError" in text:
                self.cuda_oom_seen = True
            elif text.startswith("MemoryError") or "_ArrayMemoryError" in text:
                self.memory_error_seen = True


def _finite(value: Any) -> bool:
    """Whether it is None or a number that JSON can say. No bool: that is no number here."""
    if value is None:
        return True
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is int and -(2**63) <= value < 2**63


def _number(value: Any) -> float | None:
    return value if _finite(value) else None


def _metrics(said: dict[str, Any]) -> dict[str, float]:
    """All further finite numbers, up to a bound. Other values are no metrics, and no harm."""
    found: dict[str, float] = {}
    for name, value in said.items():
        if name in _NOT_METRICS or type(value) not in (int, float):
            continue
        if not _finite(value) or len(name) > _MOST_NAME:
            continue
        found[text_of(name.encode("utf-8", "replace"))] = value
        if len(found) == _MOST_METRICS:
            break
    return found


def _checkpoint(said: dict[str, Any]) -> Checkpoint | None:
    epoch = said.get("epoch", 0)
    if type(epoch) is not int or not 0 <= epoch <= _MOST_EPOCH:
        return None
    return Checkpoint(epoch=epoch, path=_text(said.get("path")), sha256=_text(said.get("sha256")))


def _completion(said: dict[str, Any]) -> Completion:
    metrics = said.get("metrics")
    return Completion(
        success=said["success"],
        model_path=_text(said.get("model_path")),
        sha256=_text(said.get("sha256")),
        error=_text(said.get("error")),
        metrics=_metrics(metrics) | _named(metrics) if isinstance(metrics, dict) else {},
    )


def _named(metrics: dict[str, Any]) -> dict[str, float]:
    """Loss and accuracy among the final metrics."""
    return {
        name: metrics[name]
        for name in ("loss", "accuracy")
        if metrics.get(name) is not None and _finite(metrics[name])
    }


def _text(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    return text_of(value[:_MOST_TEXT].encode("utf-8", "replace"))
