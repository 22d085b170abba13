"""Whether the engine made of a container what it was asked for. Pure.

Engines ignore options that they cannot keep, some without a word. So each option that was asked for
is compared with what ``inspect`` says, and so is what nobody asked for but the image: its mounts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One item of the sandbox, as it was seen."""

    item: str
    wanted: str
    seen: str
    good: bool
    keeping: str = ""
    """How it is kept, where not by what was asked for: see `worker.sandbox.standins`."""

    def __str__(self) -> str:
        return f"{self.item}: wanted {self.wanted}, found {self.seen}"


def finding(item: str, wanted: object, seen: object) -> Finding:
    """Good if both are the same text."""
    return Finding(item=item, wanted=str(wanted), seen=str(seen), good=str(wanted) == str(seen))


_SELF: Final = ("User", "WorkingDir", "Entrypoint", "Cmd", "Tty", "OpenStdin", "StopSignal")


def compare(asked: Mapping[str, Any], seen: Mapping[str, Any]) -> list[Finding]:
    """One finding for each option of the create call ``asked``; ``seen`` is inspect's answer."""
    host, config = seen.get("HostConfig") or {}, seen.get("Config") or {}
    found = [
        same(name, value, host.get(name))
        for name, value in asked["HostConfig"].items()
        if name not in ("SecurityOpt", "Mounts")
    ]
    found += [same(name, asked[name], config.get(name)) for name in _SELF]
    found.append(_security(asked["HostConfig"], host))
    found.append(compare_mounts(asked["HostConfig"], seen))
    found.append(_paths(host))
    found.append(compare_health(config))
    found.append(compare_labels(asked, config))
    found.append(compare_environment(asked, config))
    return found


def same(item: str, wanted: Any, seen: Any) -> Finding:
    """Whether the engine says what was asked for; all ways of saying "nothing" are one."""
    good = _plain(wanted) == _plain(seen)
    return Finding(item=item, wanted=_show(wanted), seen=_show(seen), good=good)


def _plain(value: Any) -> Any:
    """The value with all ways of saying "nothing" made one, and lists of objects unordered."""
    if isinstance(value, Mapping):
        plain = {key: _plain(inner) for key, inner in value.items()}
        return {key: inner for key, inner in plain.items() if inner is not None} or None
    if isinstance(value, list) and value:
        return sorted((_plain(one) for one in value), key=repr)
    if value in (None, "", [], {}, 0, False):
        return None
    return value


def _show(value: Any) -> str:
    return str(value) if value not in (None, "", [], {}) else "nothing"


def _security(asked: Mapping[str, Any], host: Mapping[str, Any]) -> Finding:
    """No new privileges, and the engine's own seccomp profile: nothing may be unconfined."""
    said = host.get("SecurityOpt") or ()
    options = {str(one).removesuffix(":true").removesuffix("=true") for one in said}
    wanted = set(asked["SecurityOpt"])
    return Finding(
        item="SecurityOpt",
        wanted=", ".join(sorted(wanted)),
        seen=", ".join(sorted(options)) or "nothing",
        good=options == wanted,
    )


def compare_mounts(asked: Mapping[str, Any], seen: Mapping[str, Any]) -> Finding:
    """Exactly the mounts that were asked for: an image's volumes would be more."""
    wanted = {
        (one["Type"], one.get("Source", ""), one["Target"], not one["ReadOnly"])
        for one in asked["Mounts"]
    }
    found = {
        (
            one.get("Type"),
            one.get("Source", "") if one.get("Type") != "tmpfs" else "",
            one.get("Destination"),
            bool(one.get("RW")),
        )
        for one in seen.get("Mounts") or ()
    }
    # an engine does not say of a tmpfs whether it is read-only; the host shows it once it is there
    wanted_plain = {(*one[:3], one[0] != "tmpfs" and one[3]) for one in wanted}
    found_plain = {(*one[:3], one[0] != "tmpfs" and one[3]) for one in found}
    return Finding(
        item="Mounts",
        wanted=_show(sorted(wanted)),
        seen=_show(sorted(map(str, found))),
        good=wanted_plain == found_plain,
    )


def _paths(host: Mapping[str, Any]) -> Finding:
    """The parts of /proc and /sys that engines hide are hidden."""
    masked, frozen = host.get("MaskedPaths"), host.get("ReadonlyPaths")
    return Finding(
        item="MaskedPaths",
        wanted="the engine's own",
        seen=f"{len(masked or ())} masked, {len(frozen or ())} read-only",
        good=bool(masked) and bool(frozen),
    )


def compare_health(config: Mapping[str, Any]) -> Finding:
    test = (config.get("Healthcheck") or {}).get("Test") or ["NONE"]
    return Finding(item="Healthcheck", wanted="none", seen=_show(test), good=test == ["NONE"])


def compare_labels(asked: Mapping[str, Any], config: Mapping[str, Any]) -> Finding:
    seen = config.get("Labels") or {}
    good = all(seen.get(key) == value for key, value in asked["Labels"].items())
    said = "them" if good else "others"
    return Finding(item="Labels", wanted="the attempt's", seen=said, good=good)


def compare_environment(asked: Mapping[str, Any], config: Mapping[str, Any]) -> Finding:
    """All that was asked for is there; the image may add to it. Values are not shown."""
    there = set(config.get("Env") or ())
    missing = [pair.split("=", 1)[0] for pair in asked["Env"] if pair not in there]
    return Finding(
        item="Env",
        wanted=f"{len(asked['Env'])} variables",
        seen="them" if not missing else f"not {', '.join(missing)}",
        good=not missing,
    )


def differences(findings: list[Finding]) -> Iterator[Finding]:
    """Those that are not as they should be."""
    return (one for one in findings if not one.good)
