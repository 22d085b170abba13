"""Logistic regression, written as a job: progress, checkpoints, a model. Standard library only.

Run by itself it trains, too: what a job gets has defaults here.
"""

import base64
import json
import math
import os
import random
import signal
import sys
from pathlib import Path

JOB = json.loads(base64.b64decode(os.environ.get("CYXWIZ_JOB_CONFIG", "")) or "{}")
EPOCHS = JOB.get("epochs", 10)
RATE = JOB.get("hyperparameters", {}).get("learning_rate", 0.5)
SEED = JOB.get("seed", 0)
OUTPUT = Path(os.environ.get("CYXWIZ_OUTPUT", "."))
CHECKPOINT = Path(os.environ.get("CYXWIZ_CHECKPOINTS", ".")) / "checkpoint.json"
asked: list[int] = []


def say(kind: str, **fields: object) -> None:
    """One line of JSON on stdout is all that a job needs to be heard."""
    print(json.dumps({"type": kind, **fields}), flush=True)


def points(count: int) -> list[tuple[tuple[float, ...], int]]:
    """Two clouds that overlap a little: (x, y, 1) and the class."""
    draw = random.Random(SEED)
    found = []
    for number in range(count):
        kind = number % 2
        centre = 1.0 if kind else -1.0
        found.append(((draw.gauss(centre, 0.8), draw.gauss(centre, 0.8), 1.0), kind))
    return found


def chance(weights: list[float], x: tuple[float, ...]) -> float:
    """That ``x`` is of class 1."""
    score = sum(w * value for w, value in zip(weights, x, strict=True))
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, score))))


def save(epoch: int, weights: list[float]) -> None:
    """Whole or not at all: a process that is killed in between leaves the one before."""
    partial = CHECKPOINT.with_suffix(".partial")
    partial.write_text(json.dumps({"epoch": epoch, "weights": weights}))
    partial.replace(CHECKPOINT)
    say("checkpoint", epoch=epoch, path=CHECKPOINT.name)


def main() -> None:
    data = points(400)
    known, held_out = data[:300], data[300:]
    first, weights = 1, [0.0, 0.0, 0.0]
    if CHECKPOINT.exists():
        found = json.loads(CHECKPOINT.read_text())
        first, weights = found["epoch"] + 1, found["weights"]
        print(f"goes on after epoch {found['epoch']}")
    for epoch in range(first, EPOCHS + 1):
        loss = 0.0
        for x, kind in known:
            p = chance(weights, x)
            loss -= math.log(max(p if kind else 1 - p, 1e-12)) / len(known)
            step = RATE / epoch * (kind - p)
            weights = [w + step * value for w, value in zip(weights, x, strict=True)]
        right = sum((chance(weights, x) > 0.5) == bool(kind) for x, kind in held_out)
        accuracy = right / len(held_out)
        say("progress", epoch=epoch, total_epochs=EPOCHS, loss=loss, accuracy=accuracy)
        if asked or epoch == EPOCHS // 2:
            save(epoch, weights)
        if signal.SIGTERM in asked:
            sys.exit(143)  # the next attempt goes on from here
        asked.clear()
    (OUTPUT / "model.json").write_text(json.dumps({"weights": weights}))
    say("complete", success=True, model_path="model.json", metrics={"accuracy": accuracy})


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: asked.append(number))
    main()
