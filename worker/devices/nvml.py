"""NVIDIA's GPUs through NVML. The only module that imports pynvml.

Devices are asked for by index and known by UUID: a look-up by UUID may fail for all of them when
one is lost. NVML must be initialised in the process that asks, so it is at the first question
after a fork. A host without the library or the driver has no GPUs, and says why.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from tasks.choices import Device as Kind
from worker.devices.inventory import Device, GpuEvent, GpuProcess, Snapshot

try:
    import pynvml
except ImportError:  # a producer's installation, or a node without the extra
    pynvml = None

_T = TypeVar("_T")
_MIB: Final = 1 << 20
_WITHOUT_LIBRARY: Final = (
    "no NVIDIA GPUs: libnvidia-ml.so.1 cannot be loaded (no NVIDIA driver, or it was not passed "
    "into this container)"
)
_WITHOUT_PYNVML: Final = "no NVIDIA GPUs: the package nvidia-ml-py is not installed"


class NvmlInventory:
    """Thread-safe; asks the driver anew each time."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pid = 0
        self._seen: dict[str, Device] = {}
        self._near: tuple[frozenset[str], dict[frozenset[str], int]] = (frozenset(), {})

    def snapshot(self) -> Snapshot:
        with self._lock:
            if reason := self._begin():
                return Snapshot(reason=reason)
            try:
                return self._look()
            except pynvml.NVMLError as error:
                self._end()
                return Snapshot(reason=f"no NVIDIA GPUs: the driver does not answer: {error}")

    def close(self) -> None:
        """Let go of the driver. Safe to call twice; the next question begins anew."""
        with self._lock:
            self._end()

    def _begin(self) -> str:
        """Why NVML cannot be used; '' if it can."""
        if pynvml is None:
            return _WITHOUT_PYNVML
        if self._pid == os.getpid():
            return ""
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            if isinstance(error, pynvml.NVMLError_LibraryNotFound):
                return _WITHOUT_LIBRARY
            return f"no NVIDIA GPUs: NVML cannot be initialised: {error}"
        self._pid = os.getpid()
        return ""

    def _end(self) -> None:
        if self._pid == os.getpid():
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
        self._pid = 0

    def _look(self) -> Snapshot:
        found: dict[str, Device] = {}
        handles: dict[str, Any] = {}
        lost: list[int] = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                gpu = _describe(handle, index)
            except pynvml.NVMLError:
                lost.append(index)
                continue
            found[gpu.uuid] = gpu
            handles[gpu.uuid] = handle
            if gpu.partitioned:
                for instance in _instances(handle, gpu):
                    found[instance.uuid] = instance
        for uuid, gone in self._seen.items():
            if uuid not in found and not (gone.parent and gone.parent in found):
                found[uuid] = _lost(gone)
        self._seen = dict(found)
        return Snapshot(
            devices=tuple(found.values()),
            reason=_said_of(lost),
            driver=_text(pynvml.nvmlSystemGetDriverVersion()),
            cuda=_cuda(pynvml.nvmlSystemGetCudaDriverVersion()),
            distances=self._closeness(handles),
        )

    def _closeness(self, handles: dict[str, Any]) -> dict[frozenset[str], int]:
        """Asked for once for the same GPUs: it is wired, and there are many pairs."""
        if self._near[0] != handles.keys():
            self._near = (frozenset(handles), dict(_distances(handles)))
        return self._near[1]


class NvmlEvents:
    """What the driver reports of Xids and double-bit errors from now on. One thread."""

    def __init__(self) -> None:
        """Without a driver there is nothing to hear, and `hear` says nothing."""
        self._set: Any = None
        self._registered: set[str] = set()

    def watch(self) -> None:
        """Hear of every GPU that can report; safe to call again, for those that came since."""
        if pynvml is None:
            return
        with contextlib.suppress(pynvml.NVMLError):
            if self._set is None:
                pynvml.nvmlInit()
                self._set = pynvml.nvmlEventSetCreate()
            for index in range(pynvml.nvmlDeviceGetCount()):
                with contextlib.suppress(pynvml.NVMLError):
                    self._register(pynvml.nvmlDeviceGetHandleByIndex(index))

    def _register(self, handle: Any) -> None:
        uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
        if uuid in self._registered:
            return
        wanted = pynvml.nvmlEventTypeXidCriticalError | pynvml.nvmlEventTypeDoubleBitEccError
        types = wanted & pynvml.nvmlDeviceGetSupportedEventTypes(handle)
        if types:
            pynvml.nvmlDeviceRegisterEvents(handle, types, self._set)
            self._registered.add(uuid)

    def hear(self, within_ms: int = 0, most: int = 100) -> list[GpuEvent]:
        """What was reported. Waits at most ``within_ms`` for the first."""
        heard: list[GpuEvent] = []
        if self._set is None:
            return heard
        while len(heard) < most:
            try:
                data = pynvml.nvmlEventSetWait_v2(self._set, 0 if heard else within_ms)
                uuid = _text(pynvml.nvmlDeviceGetUUID(data.device))
            except pynvml.NVMLError:  # nothing more; a lost GPU, which the inventory shows
                break
            xid = int(data.eventData)
            of_memory = data.eventType == pynvml.nvmlEventTypeDoubleBitEccError
            heard.append(GpuEvent(uuid=uuid, xid=None if of_memory else xid))
        return heard

    def close(self) -> None:
        """Safe to call twice."""
        if self._set is not None:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlEventSetFree(self._set)
                pynvml.nvmlShutdown()
            self._set = None
            self._registered.clear()


def _describe(handle: Any, index: int) -> Device:
    """The GPU behind a handle. Raises NVMLError: it is lost, or cannot be read."""
    major_minor = _maybe(lambda: pynvml.nvmlDeviceGetCudaComputeCapability(handle))
    partitioned = _maybe(lambda: pynvml.nvmlDeviceGetMigMode(handle)[0]) == 1
    total, reserved, used = _memory(handle)
    processes = _processes(handle)
    power = _maybe(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    return Device(
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        kind=Kind.CUDA,
        index=index,
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        memory_mb=total,
        reserved_mb=reserved,
        used_mb=used,
        utilisation=_maybe(lambda: int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
        temperature_c=_maybe(
            lambda: int(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
        ),
        power_w=None if power is None else power / 1000,
        compute_capability="" if major_minor is None else "{}.{}".format(*major_minor),
        pci=_text(_maybe(lambda: pynvml.nvmlDeviceGetPciInfo(handle).busId) or ""),
        processes=processes or (),
        tells_processes=processes is not None,
        partitioned=partitioned,
        double_bit_errors=_maybe(
            lambda: int(
                pynvml.nvmlDeviceGetTotalEccErrors(
                    handle,
                    pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                    pynvml.NVML_VOLATILE_ECC,
                )
            )
        ),
    )


def _instances(handle: Any, gpu: Device) -> Iterator[Device]:
    """The MIG instances of a GPU."""
    for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            part = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            total, reserved, used = _memory(part)
            name = _text(pynvml.nvmlDeviceGetName(part))
            uuid = _text(pynvml.nvmlDeviceGetUUID(part))
        except pynvml.NVMLError:  # a place without an instance
            continue
        processes = _processes(part)
        yield Device(
            uuid=uuid,
            kind=gpu.kind,
            index=number,
            name=name,
            memory_mb=total,
            reserved_mb=reserved,
            used_mb=used,
            temperature_c=gpu.temperature_c,
            compute_capability=gpu.compute_capability,
            pci=gpu.pci,
            processes=processes or (),
            tells_processes=processes is not None,
            parent=gpu.uuid,
            profile=name.partition(" MIG ")[2],
            double_bit_errors=gpu.double_bit_errors,
        )


def _memory(handle: Any) -> tuple[int, int, int]:
    """Total, reserved and used, MiB."""
    try:
        told = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        reserved = int(told.reserved)
    except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NotSupported):
        told = pynvml.nvmlDeviceGetMemoryInfo(handle)  # an old driver: reserved is in used
        reserved = 0
    return int(told.total) // _MIB, reserved // _MIB, int(told.used) // _MIB


def _processes(handle: Any) -> tuple[GpuProcess, ...] | None:
    """None: the driver does not tell."""
    computing = _maybe(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle))
    if computing is None:
        return None
    drawing = _maybe(lambda: pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle)) or []
    found: dict[int, GpuProcess] = {}
    for listed, graphics in ((computing, False), (drawing, True)):
        for one in listed:
            used = None if one.usedGpuMemory is None else int(one.usedGpuMemory) // _MIB
            found.setdefault(one.pid, GpuProcess(pid=one.pid, memory_mb=used, graphics=graphics))
    return tuple(found.values())


def _distances(handles: dict[str, Any]) -> Iterator[tuple[frozenset[str], int]]:
    names = list(handles)
    for at, one in enumerate(names):
        for other in names[at + 1 :]:
            far = _maybe(
                lambda one=one, other=other: int(  # type: ignore[misc]  # mypy cannot infer a lambda with defaults
                    pynvml.nvmlDeviceGetTopologyCommonAncestor(handles[one], handles[other])
                )
            )
            if far is not None:
                yield frozenset((one, other)), far


def _lost(device: Device) -> Device:
    """The device as it was seen last, which no longer answers."""
    return Device(
        uuid=device.uuid,
        kind=device.kind,
        index=device.index,
        name=device.name,
        memory_mb=device.memory_mb,
        pci=device.pci,
        parent=device.parent,
        profile=device.profile,
        tells_processes=False,
        fault="it no longer answers the driver (lost, hidden or reconfigured)",
    )


def _said_of(lost: list[int]) -> str:
    if not lost:
        return ""
    which = ", ".join(map(str, lost))
    return f"the driver lists devices that do not answer (index {which})"


def _maybe(ask: Callable[[], _T]) -> _T | None:
    """None: this device does not tell. A lost one is an error all the same."""
    try:
        return ask()
    except pynvml.NVMLError_GpuIsLost:
        raise
    except pynvml.NVMLError:
        return None


def _text(said: str | bytes) -> str:
    return said.decode() if isinstance(said, bytes) else said


def _cuda(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
