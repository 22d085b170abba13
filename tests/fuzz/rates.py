"""How fast hostile lines and configurations go by: python -m tests.fuzz.rates [LINES] [CONFIGS]

By default 10^6 lines through the decoder and 10^5 configurations through validation. Prints their
rates and by how much memory grew; ends with 1 if it grew by more than `MOST_GROWTH_MB`.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

from tasks.errors import InvalidJob
from tasks.events import encode
from tasks.job import JobConfig
from worker.runtimes.base import Chunk, Stream
from worker.stream.decoder import Decoder

MOST_GROWTH_MB: Final = 64
_LINES: Final = [
    b'{"type":"progress","epoch":3,"total_epochs":10,"loss":0.41,"accuracy":0.87}',
    b'{"type":"progress","epoch":1e999,"loss":NaN,"metrics":{"a":[]}}',
    b'{"type":"complete","success":true,"model_path":"/job/output/model"}',
    b'{"type":"checkpoint","epoch":-1}',
    b"Epoch 1: 50%\rEpoch 1: 100%",
    b"\x1b[2J\x1b]0;title\x07" + "\u202e\u0000\ufffe".encode("utf-8", "surrogatepass"),
    b"CUDA out of memory",
    b"[" * 200,
    b"\xff\xfe\x00" * 20,
    b"",
]
_JOB: Final[dict[str, Any]] = {
    "command": ["true"],
    "epochs": 3,
    "labels": {"a": "b"},
    "env": {"A": "b"},
    "hyperparameters": {"learning_rate": 0.1, "deep": [[[[]]]]},
    "dataset_uri": "https://example.org/a",
    "expires": "2030-01-31T12:00:00Z",
    "sandbox": "required",
    "secrets": ["a"],
}
_VALUES: Final[list[Any]] = [
    *(None, True, -1, 0, 2**70, 1e308, "", "x" * 5000, "\udcff", "\x1b[2J", [], {}, [[]]),
    *({"a": {}}, ["true"] * 50, {"\x00": "\x00"}, "../..", "gvisor", "bridge", "cuda"),
]


def lines(count: int, chance: random.Random) -> Iterator[bytes]:
    """Lines of the contract and of no contract, whole and harmed, in chunks of about 64 KiB."""
    chunk = bytearray()
    for _ in range(count):
        line = bytearray(chance.choice(_LINES))
        for _ in range(chance.randrange(3)):
            if line:
                line[chance.randrange(len(line))] = chance.randrange(256)
        chunk += line.replace(b"\n", b" ") + b"\n"
        if len(chunk) > 65_536:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


def configs(count: int, chance: random.Random) -> Iterator[object]:
    """Configurations with one to three fields of the wrong kind, as dicts and as text."""
    names = [*JobConfig.model_fields, "unknown"]
    for number in range(count):
        job = {**_JOB, **{chance.choice(names): chance.choice(_VALUES) for _ in range(3)}}
        yield job if number % 2 else json.dumps(job)


def main(most_lines: int = 10**6, most_configs: int = 10**5) -> int:
    chance = random.Random(1)
    decoder, offset, begun, events = Decoder("job-1", 10), 0, time.perf_counter(), 0
    warm = 0
    for chunk in lines(most_lines, chance):
        found = decoder.feed(Chunk(stream=Stream.STDOUT, offset=offset, data=chunk))
        offset += len(chunk)
        events += sum(1 for said in found if encode(said.event))
        warm = warm or _rss_mb()
    events += len(decoder.flush())
    took = time.perf_counter() - begun
    print(f"{most_lines} lines, {offset / 2**20:.1f} MiB: {most_lines / took:,.0f} a second")
    taken, begun = 0, time.perf_counter()
    for value in configs(most_configs, chance):
        try:
            JobConfig.parse(value)
            taken += 1
        except InvalidJob:
            pass
    took = time.perf_counter() - begun
    rate = most_configs / took
    print(f"{most_configs} configurations, {taken} of them valid: {rate:,.0f} a second")
    grown = _rss_mb() - warm
    print(f"{events} events; memory grew by {grown} MiB at most")
    return int(grown > MOST_GROWTH_MB)


def _rss_mb() -> int:
    """The most that this process ever had, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
