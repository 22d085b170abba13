"""``python -m tests.chaos --jobs 1000 --seed 7``: exits 1 if a job is lost, doubled or left."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from pathlib import Path

from tests.chaos.harness import ALL_KINDS, Chaos, Plan
from tests.chaos.report import Report
from tests.chaos.schedule import Kind
from tests.support.redis_server import short_directory


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seed", type=int, nargs="+", default=[1])
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--slots", type=int, default=3, help="of each node")
    parser.add_argument("--ttl", type=float, default=3.0, help="of a lease, seconds")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two faults")
    parser.add_argument("--patience", type=float, default=3600.0, help="seconds for all jobs")
    parser.add_argument(
        "--containers", action="store_true", help="every second node has a container engine"
    )
    parser.add_argument("--only", nargs="+", choices=[kind.name for kind in Kind], default=[])
    parser.add_argument("--json", type=Path, help="write the reports there")
    parser.add_argument("--keep", type=Path, help="keep what a run with violations left there")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # its nodes end with it
    kinds = frozenset(Kind[name] for name in asked.only) or ALL_KINDS
    reports: list[Report] = []
    for seed in asked.seed:
        plan = Plan(
            seed=seed,
            jobs=asked.jobs,
            nodes=asked.nodes,
            slots=asked.slots,
            ttl=asked.ttl,
            every=asked.every,
            kinds=kinds,
            patience=asked.patience,
            containers=asked.containers,
        )
        directory = short_directory()
        try:
            with Chaos(plan, directory, aloud=True) as chaos:
                reports.append(chaos.run())
                if reports[-1].violations and asked.keep:
                    shutil.copytree(
                        directory,
                        asked.keep / f"seed-{seed}",
                        dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns("*.sock"),
                    )
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        print(reports[-1].text(), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps([one.as_json() for one in reports], indent=2))
    return 1 if any(one.violations for one in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
