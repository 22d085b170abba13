"""docs/scripts.md: what it says to print is progress."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from pathlib import Path

import pytest

from tasks.events import Progress
from worker.runtimes.base import Chunk, Stream
from worker.stream.decoder import Decoder

pytestmark = pytest.mark.unit

PAGE = (Path(__file__).parents[4] / "docs" / "scripts.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_every_program_is_one() -> None:
    assert len(PROGRAMS) == 4
    for program in PROGRAMS:
        ast.parse(program)


def test_the_callbacks_report() -> None:
    """With what a framework would give them."""
    [report] = [one for one in PROGRAMS if "def report" in one]
    space: dict[str, object] = {}
    said = io.StringIO()
    lightning, keras = type("L", (), {"Callback": object}), type("K", (), {})
    keras.callbacks = type("C", (), {"Callback": object})
    trainer = type("T", (), {"current_epoch": 1, "max_epochs": 4, "callback_metrics": {"loss": 1}})
    space |= {"lightning": lightning, "keras": keras}
    with contextlib.redirect_stdout(said):
        exec(report, space)
        exec(next(one for one in PROGRAMS if "lightning.Callback" in one), space)
        print("\rEpoch 0: 50%\rEpoch 0: 100%", end="")  # Lightning's bar, when it calls back
        space["Report"]().on_train_epoch_end(trainer, None)
        exec(next(one for one in PROGRAMS if "keras.callbacks" in one), space)
        model = space["Report"]()
        model.params = {"epochs": 4}
        model.on_epoch_end(2, {"loss": 0.5, "auc": 0.75})
    decoder = Decoder("job-1", 1)
    found = decoder.feed(Chunk(stream=Stream.STDOUT, offset=0, data=said.getvalue().encode()))
    progress = [one.event for one in found if isinstance(one.event, Progress)]
    assert [(one.epoch, one.total_epochs, one.loss) for one in progress] == [
        (1, 10, 0.41),
        (2, 4, 1.0),
        (3, 4, 0.5),
    ]
    assert progress[2].metrics == {"auc": 0.75}
