"""Which columns of a table are features, and which one is the target."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from worker.runner.faults import JobFault


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a job asks of a table."""

    target: str | None
    features: Sequence[str] | None = None
    """None: every column but the target and what names the rows."""


def choose(
    name: str, header: Sequence[str], wanted: Wanted, rows: Collection[str] = ()
) -> tuple[list[int], int]:
    """Where the features and the target are in ``header``. Raises JobFault.

    ``rows``: columns that name or number the rows: features only where they are asked for.
    """
    if "" in header and (wanted.features is None or not wanted.target):
        raise JobFault(
            f"{name}: column {header.index('') + 1} of the header has no name; pandas writes its "
            "row numbers so: save with index=False, or name the columns to learn from with "
            "hyperparameters.features"
        )
    twice = {column for column in header if column and header.count(column) > 1}
    if twice:
        raise JobFault(f"{name}: the column {sorted(twice)[0]!r} is there twice")
    if wanted.target is None:
        raise JobFault(
            "hyperparameters: target is missing; it names the column that is learned, one of "
            + _listed(header)
        )
    if wanted.target not in header:
        raise JobFault(
            f"hyperparameters: target {wanted.target!r} is no column of {name}; it has "
            + _listed(header)
        )
    for column in wanted.features or ():
        if column not in header or column == wanted.target:
            raise JobFault(
                f"hyperparameters: the feature {column!r} is no column of {name} beside the "
                f"target; it has {_listed(header)}"
            )
    usual = [one for one in header if one not in rows]
    chosen = [header.index(one) for one in wanted.features or usual if one != wanted.target]
    if not chosen:
        raise JobFault(f"{name}: has no column beside the target")
    return chosen, header.index(wanted.target)


def _listed(header: Sequence[str]) -> str:
    shown = ", ".join(header[:20])
    return f"{shown} and {len(header) - 20} more" if len(header) > 20 else shown
