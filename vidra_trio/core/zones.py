"""Where files may be written, decided on the text of absolute paths.

1. With roots set, only they (and the download folder) are open.
2. Without, every folder is, but for the zones: what belongs to the system, our
   own data and cache, and the hidden folders of the home, where a file can
   become a program's configuration.
3. A place the operator named (a root, the download folder) opens the zone it
   lies in, for itself: DATA/downloads is fine although DATA is not.
4. Text is not truth: links and case folding are seen only on the disk. Whoever
   writes asks again with the real path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PathRules:
    """What the settings say about paths; each one absolute, `home` may be empty.

    `allow_local` lets clients name any file for `cookies` and any program for
    `ffmpeg_location`; destinations follow the same rules with it and without.
    """

    download_dir: str
    roots: tuple[str, ...] = ()
    home: str = ""
    forbidden: tuple[str, ...] = ()
    windows: bool = False
    allow_local: bool = False


SYSTEM: Final = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/lost+found"),
    *("/proc", "/run", "/sbin", "/snap", "/sys", "/usr", "/var"),
    *("/Applications", "/Library", "/System", "/cores", "/private/etc", "/private/var"),  # macOS
    *("/apex", "/system", "/vendor"),  # Android
)
# Removable drives, homes of immutable systems, and where tests and sandboxes live.
OPEN_IN_SYSTEM: Final = (
    *("/run/media", "/run/user", "/var/home", "/var/mnt", "/var/media", "/var/tmp"),  # noqa: S108
    *("/var/folders", "/private/var/folders", "/private/var/tmp"),
)
WINDOWS_SYSTEM: Final = (
    *("windows", "program files", "program files (x86)", "programdata", "perflogs", "recovery"),
    *("system volume information", "boot", "efi"),
)


def split(path: str, rules: PathRules) -> Parts:
    """Return the parts of a path, a drive being one; empty ones and `.` are left out."""
    slashed = path.replace("\\", "/") if rules.windows else path
    return tuple(part for part in slashed.split("/") if part not in ("", "."))


def absolute(parts: Parts, rules: PathRules) -> str:
    """Return the path that `parts` of an absolute one spell."""
    if not rules.windows:
        return "/" + "/".join(parts)
    return "\\".join(parts) + ("\\" if len(parts) == 1 else "")


def below(parts: Parts, base: Parts) -> bool:
    """Say whether `parts` is `base` or lies in it."""
    return parts[: len(base)] == base


def inside(path: str, base: str, rules: PathRules) -> bool:
    """Say whether `path` is `base` or lies in it, as far as the text tells."""
    return below(_key(path, rules), _key(base, rules))


def refusal(path: str, rules: PathRules) -> str | None:
    """Return why nothing may be written at `path` (absolute); None when it may.

    Meant for the real path too, right before a file is put there.
    """
    parts = _key(path, rules)
    named = [_key(place, rules) for place in (rules.download_dir, *rules.roots)]
    if rules.roots and not any(below(parts, place) for place in named):
        return "lies outside the allowed folders"
    for zone, openings, why in _zones_of(parts, rules):
        opened = (place for place in (*named, *openings) if below(place, zone))
        if not any(below(parts, place) for place in opened):
            return why
    return _own(parts, rules, named)


def _key(path: str, rules: PathRules) -> Parts:
    """Return what two spellings of one path have in common."""
    parts = split(path, rules)
    return tuple(part.casefold().rstrip(" .") for part in parts) if rules.windows else parts


def _loose(parts: Parts) -> Parts:
    """Return `parts` as a file system that ignores case sees them: refuse rather too much."""
    return tuple(part.casefold() for part in parts)


def _zones_of(parts: Parts, rules: PathRules) -> Iterator[tuple[Parts, list[Parts], str]]:
    """Yield the zones that `parts` lies in: where, what is open in it, why it is closed."""
    if rules.windows:
        yield from _windows_zones(parts)
    else:
        if not parts:
            yield (), [], "is the root folder"
        for folder in SYSTEM:
            if below(parts, zone := _key(folder, rules)):
                openings = [_key(place, rules) for place in OPEN_IN_SYSTEM]
                yield zone, openings, "belongs to the system"
    yield from _home_zones(parts, rules)


def _windows_zones(parts: Parts) -> Iterator[tuple[Parts, list[Parts], str]]:
    if parts == ("c:",):
        yield parts, [], "is the root folder"
    if parts[1:2] and parts[1] in WINDOWS_SYSTEM:
        yield parts[:2], [], "belongs to the system"


def _home_zones(parts: Parts, rules: PathRules) -> Iterator[tuple[Parts, list[Parts], str]]:
    home = _key(rules.home, rules)
    if not home or len(parts) <= len(home) or not below(_loose(parts), _loose(home)):
        return
    zone, name = parts[: len(home) + 1], parts[len(home)].casefold()
    if name.startswith("."):
        yield zone, [], "is a hidden folder of the home"
    elif rules.windows and name == "appdata":
        yield zone, [(*zone, "local", "temp")], "holds the settings of programs"
    elif name == "library" and home[0] == "Users":  # macOS
        openings = [(*zone, place) for place in ("CloudStorage", "Containers", "Mobile Documents")]
        yield zone, openings, "holds the settings of programs"


def _own(parts: Parts, rules: PathRules, named: list[Parts]) -> str | None:
    """Return why `parts` is ours alone. A root that *is* the data folder opens nothing."""
    for folder in rules.forbidden:
        zone = _loose(_key(folder, rules))
        opened = (p for p in named if len(p) > len(zone) and below(_loose(p), zone))
        if zone and below(_loose(parts), zone) and not any(below(parts, p) for p in opened):
            return "belongs to this server"
    return None
