"""A training that goes wrong: its learning rate is too large, and it says so and ends.

Gradient descent on x² moves by the factor 1 - 2 * rate: above a rate of 1 it runs away.
"""

import base64
import json
import os

JOB = json.loads(base64.b64decode(os.environ.get("CYXWIZ_JOB_CONFIG", "")) or "{}")
EPOCHS = JOB.get("epochs", 10)
RATE = JOB.get("hyperparameters", {}).get("learning_rate", 1.5)

x = 1.0
for epoch in range(1, EPOCHS + 1):
    x -= RATE * 2 * x
    loss = x * x
    line = {"type": "progress", "epoch": epoch, "total_epochs": EPOCHS, "loss": loss}
    print(json.dumps(line), flush=True)
    if loss > 100:
        raise SystemExit(f"epoch {epoch}: the loss is {loss:g}; choose a smaller learning_rate")
