"""What a benchmark prints, and how it exits."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One figure of ours over the baseline's, and its bound."""

    name: str
    ratio: float
    bound: float
    at_most: bool
    """True: the ratio may be `bound` at most; False: it must be that at least."""

    @property
    def ok(self) -> bool:
        return self.ratio <= self.bound if self.at_most else self.ratio >= self.bound

    @property
    def room(self) -> float:
        """How far within the bound; below 1 it is missed."""
        better = (self.bound, self.ratio) if self.at_most else (self.ratio, self.bound)
        return better[0] / better[1] if better[1] else float("inf")

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ratio": round(self.ratio, 3),
            "bound": self.bound,
            "bound_is": "at most" if self.at_most else "at least",
            "ok": self.ok,
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """The outcome of a benchmark."""

    name: str
    figures: Mapping[str, float]
    """By name, with the unit in it."""
    measures: tuple[Measure, ...]

    @property
    def ok(self) -> bool:
        return all(measure.ok for measure in self.measures)

    def to_json(self) -> dict[str, Any]:
        """``ratio`` and ``bound`` are those of the measure with the least room."""
        tightest = min(self.measures, key=lambda measure: measure.room)
        return {
            "name": self.name,
            "figures": {name: round(value, 3) for name, value in self.figures.items()},
            "ratio": round(tightest.ratio, 3),
            "bound": tightest.bound,
            "ok": self.ok,
            "measures": [measure.to_json() for measure in self.measures],
        }

    def to_table(self) -> str:
        wide = max(len(name) for name in [*self.figures, *(one.name for one in self.measures)])
        lines = [self.name]
        lines += [f"  {name:<{wide}}  {value:>12,.2f}" for name, value in self.figures.items()]
        for one in self.measures:
            sign = "<=" if one.at_most else ">="
            verdict = "ok" if one.ok else "MISSED"
            lines.append(
                f"  {one.name:<{wide}}  {one.ratio:>12,.2f}  ({sign} {one.bound:g})  {verdict}"
            )
        return "\n".join(lines)


def main(measure: Callable[[], Report]) -> None:
    """Run a benchmark as a program."""
    parser = argparse.ArgumentParser(description=sys.modules[measure.__module__].__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    asked = parser.parse_args()
    report = measure()
    print(json.dumps(report.to_json()) if asked.json else report.to_table())
    sys.exit(0 if report.ok else 1)
