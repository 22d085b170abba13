"""When a node's slots have to read anew what its engine is good for."""

from __future__ import annotations

from worker.engines import EngineState


class EngineChanges:
    """Looks at one state after the other."""

    def __init__(self) -> None:
        self._offered: tuple[str, bool] | None = None

    def step(self, state: EngineState) -> bool:
        """Whether slots that were started under what was seen before are to begin anew.

        An engine that is away for a while changes nothing: its jobs are handed back meanwhile.
        """
        offers = (state.name if state.available else "", state.usable)
        before = self._offered
        if not state.name or offers == before or (before is not None and not state.available):
            return False
        self._offered = offers
        return before is not None and (before[1] or state.usable)
