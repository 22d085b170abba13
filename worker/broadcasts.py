"""Which of Celery's remote control a slot's worker obeys: questions, and no more.

Whoever can publish on Celery's control channel could otherwise have any node's workers shut down,
read other queues or kill their pool. What this project's users may ask of a job goes another way
(`tasks.control`), and what operators ask of a node as well (cordon, drain, signals).
"""

from __future__ import annotations

from typing import Final

from celery.worker.control import Panel

_HARMLESS: Final = frozenset({"enable_events", "disable_events", "heartbeat"})
"""Beside what `celery inspect` asks: Flower sends them."""


def obey_only_questions() -> None:
    """Forget the other commands, under every name that they have. Safe to call twice."""
    kept = {
        id(Panel.data[name])
        for name, about in Panel.meta.items()
        if name in Panel.data and (about.type == "inspect" or name in _HARMLESS)
    }
    for name in [name for name, command in Panel.data.items() if id(command) not in kept]:
        del Panel.data[name]
