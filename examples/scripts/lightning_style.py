"""A training loop in classes, as PyTorch Lightning has them, and the callback that reports it.

Neither Lightning nor PyTorch is needed: `Trainer` does what Lightning's does here, and calls its
callbacks with the same names and arguments. `Report` works with Lightning's own Trainer unchanged
(there it begins with ``class Report(lightning.Callback)``).

The bar stands for the one that Lightning draws: followers see its last state as log.
"""

import base64
import json
import math
import os
import random
from pathlib import Path

JOB = json.loads(base64.b64decode(os.environ.get("CYXWIZ_JOB_CONFIG", "")) or "{}")


def report(epoch: int, total_epochs: int, **metrics: float) -> None:
    """``metrics``: numbers, or what float() makes one of, such as Lightning's tensors."""
    line = {"type": "progress", "epoch": epoch, "total_epochs": total_epochs}
    line |= {name: float(value) for name, value in metrics.items()}
    print("\n" + json.dumps(line), flush=True)  # a bar may have left its line unfinished


class Report:
    def on_train_epoch_end(self, trainer: "Trainer", module: "SineModel") -> None:
        report(trainer.current_epoch + 1, trainer.max_epochs, **trainer.callback_metrics)


class SineModel:
    """One hidden layer of tanh that learns sin(x)."""

    def __init__(self, width: int, rate: float, seed: int) -> None:
        draw = random.Random(seed)
        self.rate = rate
        self.hidden = [[draw.gauss(0, 1.5), draw.gauss(0, 1.5)] for _ in range(width)]
        self.out = [draw.gauss(0, 0.3) for _ in range(width)]
        self.bias = 0.0

    def forward(self, x: float) -> tuple[float, list[float]]:
        active = [math.tanh(w * x + b) for w, b in self.hidden]
        return sum(o * a for o, a in zip(self.out, active, strict=True)) + self.bias, active

    def training_step(self, x: float, y: float) -> float:
        """Learn from one sample; its squared error."""
        found, active = self.forward(x)
        error = found - y
        for unit, (o, a) in enumerate(zip(self.out, active, strict=True)):
            inner = error * o * (1 - a * a)
            self.out[unit] -= self.rate * error * a
            self.hidden[unit][0] -= self.rate * inner * x
            self.hidden[unit][1] -= self.rate * inner
        self.bias -= self.rate * error
        return error * error


class Trainer:
    """Runs the epochs and tells the callbacks."""

    def __init__(self, max_epochs: int, callbacks: list[Report]) -> None:
        self.max_epochs = max_epochs
        self.callbacks = callbacks
        self.current_epoch = 0
        self.callback_metrics: dict[str, float] = {}

    def fit(self, module: SineModel, samples: list[tuple[float, float]]) -> None:
        for epoch in range(self.max_epochs):
            self.current_epoch = epoch
            errors = []
            for done, (x, y) in enumerate(samples, start=1):
                errors.append(module.training_step(x, y))
                if done % 50 == 0:
                    print(f"\repoch {epoch}: {done}/{len(samples)}", end="", flush=True)
            self.callback_metrics = {"loss": sum(errors) / len(errors), "rate": module.rate}
            for callback in self.callbacks:
                callback.on_train_epoch_end(self, module)
            module.rate *= 0.9


def main() -> None:
    seed = JOB.get("seed", 0)
    draw = random.Random(seed)
    samples = [(x, math.sin(x)) for x in (draw.uniform(-3, 3) for _ in range(500))]
    model = SineModel(width=16, rate=0.03, seed=seed)
    Trainer(max_epochs=JOB.get("epochs", 12), callbacks=[Report()]).fit(model, samples)
    path = Path(os.environ.get("CYXWIZ_OUTPUT", ".")) / "model.json"
    weights = {"hidden": model.hidden, "out": model.out, "bias": model.bias}
    path.write_text(json.dumps(weights))
    print(json.dumps({"type": "complete", "success": True, "model_path": path.name}), flush=True)


if __name__ == "__main__":
    main()
