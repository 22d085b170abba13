"""A slot's process that fetches one URL and keeps it: ``one_fetch.py CACHE CAP URL OUT``.

It writes the path of the data to OUT, and ends when its stdin does. OUT.waited is there once it has
waited for anything.
"""

from __future__ import annotations

import sys
from pathlib import Path

from worker.store.cache import Cache
from worker.store.fetching import Fetcher
from worker.store.policy import Policy
from worker.store.refusals import StoreError
from worker.store.sources import parse


def main(cache: str, cap: str, url: str, out: str) -> None:
    policy = Policy(
        roots=(),
        schemes=("http",),
        hosts=("127.0.0.1",),
        options={},
        cache=Path(cache),
        cap=int(cap),
        keep_free=0,
        code_bytes=0,
        code_files=0,
        artifacts="",
        output_bytes=0,
        stall=60.0,
    )
    fetcher = Fetcher(
        Cache(policy.cache, cap=policy.cap, keep_free=0), policy, check=Path(f"{out}.waited").touch
    )
    source = parse("dataset_uri", url, policy.schemes)
    try:
        said = str(fetcher.fetch(source).entry.data / source.name)
    except StoreError as error:
        said = f"{type(error).__name__}: {error}"
    partial = Path(f"{out}.partial")
    partial.write_text(said)
    partial.replace(out)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
