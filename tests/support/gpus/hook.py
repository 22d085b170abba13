"""Stands in for NVIDIA's hook below a private dockerd, on a machine without a GPU.

A program that calls it, with the name ``nvidia-container-runtime-hook``, must be on dockerd's PATH
when that starts: then Docker takes requests for GPUs. It is given the container's state on stdin.
Like the real one it puts CUDA's library into the container, here the stand-in, which shows the
devices that were asked for and no others; like the real one it fails for a device that is not
there. What it was asked for it writes down: one file for each container.

    python3 hook.py RECORDS LIBRARIES GPUS STATE-FILE prestart
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

LIBRARY = "libcuda.so.1"
IN_CONTAINER = "etc/stand-in-gpus"
PLACES = ("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu")


def main(records: Path, libraries: Path, gpus: int, phase: str, state: dict[str, Any]) -> int:
    if phase != "prestart":
        return 0
    bundle = Path(state["bundle"])
    config = json.loads((bundle / "config.json").read_text())
    env = dict(pair.split("=", 1) for pair in config["process"]["env"])
    asked = env.get("NVIDIA_VISIBLE_DEVICES", "")
    (records / f"{state['id']}.json").write_text(
        json.dumps({"devices": asked, "capabilities": env.get("NVIDIA_DRIVER_CAPABILITIES", "")})
    )
    if asked in ("", "void", "none"):
        return 0
    from_uuid = {f"GPU-{0x5A000000 + n:08x}-0000-4000-8000-{n:012x}": n for n in range(gpus)}
    wanted = [*from_uuid] if asked == "all" else asked.split(",")
    for one in wanted:
        if one not in from_uuid:
            print(f"nvidia-container-cli: device error: {one}: unknown device", file=sys.stderr)
            return 1
    root = (bundle / config["root"]["path"]).resolve()
    lines = [f"gpus {len(wanted)}", *(f"gpu {n} uuid {one}" for n, one in enumerate(wanted))]
    (root / IN_CONTAINER).write_text("\n".join(lines) + "\n")
    place = next((root / one for one in PLACES if (root / one).is_dir()), root / "usr/lib")
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(libraries / LIBRARY, place / LIBRARY)
    return 0


def install(directory: Path, records: Path, libraries: Path, gpus: int) -> None:
    """Put the program into ``directory``, which is then to be on dockerd's PATH."""
    directory.mkdir(parents=True, exist_ok=True)
    records.mkdir(parents=True, exist_ok=True)
    program = directory / "nvidia-container-runtime-hook"
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} -S {Path(__file__)} {records} {libraries} {gpus} "$@"\n'
    )
    program.chmod(0o755)


if __name__ == "__main__":
    place, where, count, *rest = sys.argv[1:]
    sys.exit(main(Path(place), Path(where), int(count), rest[-1], json.load(sys.stdin)))
