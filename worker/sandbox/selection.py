"""Which image a job runs in. Pure.

An image that the job names is taken as it stands. Else it is one of the project's: of the newest
version that the job's range admits, and of the best flavour for its device: cuda12 before cuda11
where the driver can do it, rocm for ROCm, cpu for the rest. A job that needs a GPU never gets an
image without one, nor the other way round: it would run, slowly or not at all, and say nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from tasks.choices import Device
from worker.sandbox.references import OWN

REPOSITORY: Final = f"{OWN}executor"
CPU, CUDA12, CUDA11, ROCM = "cpu", "cuda12", "cuda11", "rocm"
_FLAVOURS: Final = (CUDA12, CUDA11, CPU, ROCM)
_LEAST_CUDA: Final = {CUDA12: 12, CUDA11: 11}
LATEST: Final = "latest"


@dataclass(frozen=True, kw_only=True, slots=True)
class Flavoured:
    """One of the project's images that a node has, or can get."""

    flavour: str
    version: Version

    @property
    def reference(self) -> str:
        """As the allow-list and the pull policy know it."""
        return f"{REPOSITORY}:{self.flavour}-{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The image of an attempt."""

    reference: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NoImage:
    """There is none; ``message`` says what was looked for and what there is."""

    message: str


def flavours_for(device: Device, cuda: int | None) -> tuple[str, ...]:
    """The flavours that can serve a slot's device, best first.

    ``device``: what the slot is made of (never any). ``cuda``: the newest major version of CUDA
    that its driver can do; None: it is not known, and any is tried.
    """
    match device:
        case Device.CUDA:
            return tuple(
                name for name, least in _LEAST_CUDA.items() if cuda is None or cuda >= least
            )
        case Device.ROCM:
            return (ROCM,)
        case _:
            return (CPU,)


def select_image(
    *,
    image: str | None,
    version: str | None,
    device: Device,
    known: Sequence[Flavoured],
    cuda: int | None = None,
) -> Chosen | NoImage:
    """The image of a job.

    ``image``, ``version``: the job's own words (`JobConfig.image`, ``image_version``); both are
    checked already. ``device``: the slot's. ``known``: what there is to choose from; where it has
    nothing of a flavour and no version is asked for, its ``latest`` is left to the pull policy.
    """
    if image is not None:
        return Chosen(reference=image, why="the job names it")
    flavours = flavours_for(device, cuda)
    if not flavours:
        return NoImage(message=f"no image fits a driver for CUDA {cuda}: cuda11 is the oldest")
    wanted = SpecifierSet(version or "")
    early = bool(wanted.prereleases)  # only a range that names one admits a version before its time
    for flavour in flavours:
        fitting = [
            one
            for one in known
            if one.flavour == flavour and wanted.contains(one.version, prereleases=early)
        ]
        if fitting:
            best = max(fitting, key=lambda one: one.version)
            asked = (
                f"the newest {flavour} image that {version} admits"
                if version
                else (f"the newest {flavour} image")
            )
            return Chosen(reference=best.reference, why=asked)
    if version is None:
        return Chosen(
            reference=f"{REPOSITORY}:{flavours[0]}-{LATEST}", why=f"{flavours[0]} for {device}"
        )
    there = ", ".join(sorted(one.reference for one in known)) or "none"
    return NoImage(
        message=f"image_version: no {' or '.join(flavours)} image that {version} admits; "
        f"this node has: {there}"
    )


def known_images(tags: Iterable[str], repository: str) -> list[Flavoured]:
    """The project's images among these tags. ``repository``: what `REPOSITORY` means on this node.

    Tags of another form are somebody else's, and ``latest`` is no version: both are left out.
    """
    found = []
    for tag in tags:
        name, _, text = tag.rpartition(":")
        flavour, dash, number = text.partition("-")
        if name != repository or not dash or flavour not in _FLAVOURS:
            continue
        try:
            found.append(Flavoured(flavour=flavour, version=Version(number)))
        except InvalidVersion:
            continue
    return found
