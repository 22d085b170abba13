"""What a run came to, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.chaos.checker import Violation


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run came to."""

    seed: int
    jobs: int
    seconds: float
    faults: Mapping[str, int]
    missed: Mapping[str, int]
    ends: Mapping[str, int]
    attempts: int
    most_attempts: int
    median: float
    """Seconds from a job's submission to its end."""
    slowest: float
    """The same of the job that waited longest."""
    slowest_job: str
    violations: list[Violation] = field(default_factory=list)

    def text(self) -> str:
        """For people."""
        attempts = f"{self.attempts} attempts (at most {self.most_attempts} of one job)"
        waits = f"median {self.median:.1f} s, longest {self.slowest:.1f} s ({self.slowest_job})"
        lines = [
            f"seed {self.seed}: {self.jobs} jobs in {self.seconds:.0f} s, {attempts}",
            f"  from submission to end: {waits}",
            "  ended: " + _counts(self.ends),
            f"  faults: {sum(self.faults.values())}: " + _counts(self.faults),
            "  found nothing to hit: " + _counts(self.missed),
            f"  violations: {len(self.violations)}",
            *(f"    {one}" for one in self.violations),
        ]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "violations": [str(one) for one in self.violations]}


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
