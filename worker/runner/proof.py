"""Shows that a job sees the GPUs that it was granted, then becomes the job.

    python3 -m worker.runner.proof -- PROGRAM ARGUMENT...

The node names them in ``CYXWIZ_DEVICES``. What CUDA's driver lets this process see must be these
and no others; else the job would compute on the CPU, or on somebody else's GPU, and it ends with
`Exit.NO_DEVICE` before it has begun. Of ROCm's, each device node must open. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping, Sequence
from uuid import UUID

_NO_DEVICE = 79
"""`worker.runner.faults.Exit.NO_DEVICE`; not imported, since this starts before every job."""
_CUDA_NO_DEVICE = 100


class Unseen(Exception):
    """The devices are not to be seen; the message says why."""


def visible() -> set[str]:
    """The UUIDs, in lower case and without a prefix, of what CUDA shows. Raises Unseen."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise Unseen(f"CUDA's driver cannot be loaded: {error}") from None
    said = cuda.cuInit(0)
    if said == _CUDA_NO_DEVICE:
        return set()
    if said != 0:
        raise Unseen(f"CUDA cannot be initialised (error {said})")
    count = ctypes.c_int()
    _call(cuda, "cuDeviceGetCount", ctypes.byref(count))
    return {_uuid(cuda, number) for number in range(count.value)}


def _uuid(cuda: ctypes.CDLL, number: int) -> str:
    device, text = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    _call(cuda, "cuDeviceGet", ctypes.byref(device), number)
    # the second version knows MIG instances; an old driver has the first only
    second = hasattr(cuda, "cuDeviceGetUuid_v2")
    _call(cuda, "cuDeviceGetUuid_v2" if second else "cuDeviceGetUuid", text, device)
    return str(UUID(bytes=bytes(text)))


def _call(cuda: ctypes.CDLL, name: str, *arguments: object) -> None:
    said = cuda[name](*arguments)
    if said != 0:
        raise Unseen(f"{name}: error {said}")


def check(environ: Mapping[str, str]) -> None:
    """Compare what was granted with what is seen. Raises Unseen."""
    granted = {one for one in environ.get("CYXWIZ_DEVICES", "").split(",") if one}
    if not granted:
        return
    if environ.get("CUDA_VISIBLE_DEVICES") is None:
        _check_rocm(environ.get("CYXWIZ_DEVICE_NODES") or "/dev/kfd")
        return
    seen = visible()
    if seen != {_plain(one) for one in granted}:
        raise Unseen(
            f"{', '.join(sorted(granted))} was granted, and CUDA shows "
            f"{', '.join(sorted(seen)) or 'no device'}"
        )


def _check_rocm(nodes: str) -> None:
    for node in nodes.split(","):
        try:
            os.close(os.open(node, os.O_RDWR))
        except OSError as error:
            raise Unseen(f"{node}, by which ROCm reaches its GPUs: {error.strerror}") from None


def _plain(uuid: str) -> str:
    """``GPU-…`` and ``MIG-…`` as the driver's bytes have them."""
    return uuid.partition("-")[2].lower()


def main(arguments: Sequence[str]) -> int:
    """Does not return where all is well."""
    if len(arguments) < 2 or arguments[0] != "--":
        print("usage: proof -- PROGRAM ARGUMENT...", file=sys.stderr)
        return 2
    try:
        check(os.environ)
    except Unseen as error:
        print(f"no device: {error}", file=sys.stderr)
        return _NO_DEVICE
    try:
        os.execvp(arguments[1], list(arguments[1:]))  # noqa: S606 - it is the job
    except OSError as error:
        # as a shell says it, and as the keeper would have without this
        print(f"{arguments[1]}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
