"""From what a client wrote to the one folder and template of a job.

1. The folder is `paths.home`, else its aliases `paths.output` and
   `paths.download`; relative ones lie in the download folder. An absolute
   `output` brings its own folder, as with yt-dlp.
2. Nothing is expanded: `~`, `$` and `%NAME%` would mean another place to the one
   who expands them than to the one who checks.
3. Of yt-dlp's other path types those inside the folder become sub-folders of it.
   One elsewhere is checked and then has no effect: its files stay with the rest.
   `temp` has none either: each job works in a folder of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from vidra_trio.core import zones
from vidra_trio.core.errors import InvalidRequest, OptionNotAllowed
from vidra_trio.core.readers import NOT_MAPPING, BadValue, plain
from vidra_trio.core.templates import DEFAULT_TEMPLATE, output, with_extension
from vidra_trio.core.zones import PathRules, refusal

if TYPE_CHECKING:
    from vidra_trio.core.errors import Detail
    from vidra_trio.core.readers import Reader

__all__ = [
    "PathRules",
    "Placement",
    "locate",
    "locate_file",
    "locate_program",
    "place",
    "read_paths",
    "refusal",
]

HOME_KEYS: Final = ("home", "output", "download")
SUBFOLDER_KEYS: Final = (
    *("chapter", "subtitle", "thumbnail", "description", "annotation", "infojson", "link"),
    *("pl_video", "pl_thumbnail", "pl_description", "pl_infojson"),
)
PATHS_LIMIT: Final = 64
WORK_PREFIX: Final = ".vidra-"
"""How the work folders of jobs begin; nothing else may be called so."""

_DRIVE: Final = re.compile(r"[A-Za-z]:")
_VARIABLE: Final = re.compile(r"%[A-Za-z_]\w*%")
_FIELD: Final = re.compile(r"%\([^()]*\)")
_DOTS_FROM_FIELD: Final = re.compile(r"[|&>]\s*\.+\s*[|)]")
_PROGRAM: Final = re.compile(r"\.(?:exe|so|[0-9]+(?:[-_+][\w+-]*)?)\Z", re.IGNORECASE)
_DEVICE: Final = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a job's files go: an absolute folder, and a template relative to it.

    `template` and the values of `subfolders` (yt-dlp's path type -> folder) use `/`.
    """

    directory: str
    template: str
    subfolders: Mapping[str, str] = field(default_factory=dict)


def read_paths(value: object) -> dict[str, str] | None:
    """Read `paths`: an object of texts; blank and null ones are left out."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise BadValue(NOT_MAPPING)
    if len(value) > PATHS_LIMIT:
        raise BadValue(f"Longer than maximum length {PATHS_LIMIT}.")
    folders: dict[str, str] = {}
    wrong: dict[str, Detail] = {}
    for key, item in value.items():
        try:
            folder = "" if item is None else plain(item)
        except BadValue as bad:
            wrong[str(key)] = bad.detail
        else:
            if folder:
                folders[str(key)] = folder
    if wrong:
        raise BadValue(wrong)
    return folders or None


def place(options: Mapping[str, Any], rules: PathRules) -> Placement:
    """Return the folder and template of a job.

    Raises:
        OptionNotAllowed: a path leaves what is allowed, or would mean another place to
            whoever expands it.
        InvalidRequest: `paths` or `output` has the wrong type.
    """
    folders: dict[str, str] = _read("paths", read_paths, options) or {}
    template: str = _read("output", output, options) or DEFAULT_TEMPLATE
    parts = _template_parts(template, rules)
    fixed = _fixed(parts)
    if _is_absolute(template, rules):
        directory = _admit("output", zones.absolute(fixed, rules), rules)
        parts = parts[len(fixed) :]
    else:
        directory = _home(folders, rules)
        _admit("output", zones.absolute(zones.split(directory, rules) + fixed, rules), rules)
    return Placement(directory, "/".join(parts), _subfolders(folders, directory, rules))


def _read(key: str, read: Reader, options: Mapping[str, Any]) -> Any:  # noqa: ANN401 - what `read` gives
    try:
        return read(options.get(key))
    except BadValue as bad:
        raise InvalidRequest({"options": {key: bad.detail}}) from None


def locate(key: str, path: str, rules: PathRules) -> str:
    """Return `path`, which option `key` names, as an absolute one that may be written to.

    Raises:
        OptionNotAllowed: it leaves what is allowed.
    """
    return _admit(key, _resolve(key, path, rules), rules)


def locate_file(key: str, path: str, rules: PathRules) -> str:
    """Do as `locate`; anywhere, when the settings let clients name local files."""
    resolved = _resolve(key, path, rules)
    return resolved if rules.allow_local else _admit(key, resolved, rules)


def locate_program(key: str, path: str, directory: str, rules: PathRules) -> str:
    """Return `path` of a program (or of its folder) that a job may run.

    Absolute, not where downloads land (`directory` is the job's own folder), and not
    named like anything that a download can be named: a client must not run what it
    has downloaded. Whether it exists and whom it belongs to only the disk can tell.

    Raises:
        OptionNotAllowed: it is none of these.
    """
    parts = zones.split(path, rules)
    whole = path[2:3] in ("/", "\\") if rules.windows else True  # not `C:ffmpeg`
    if not (whole and _is_absolute(path, rules)) or ".." in parts or _odd_program(parts[-1:]):
        raise OptionNotAllowed(key, "the absolute path of an ffmpeg or of its folder is needed")
    resolved = zones.absolute(parts, rules)
    if not rules.allow_local and refusal(resolved, rules) is None:
        destinations = (directory, rules.download_dir, *rules.roots)
        if any(zones.inside(resolved, base, rules) for base in destinations):
            raise OptionNotAllowed(key, "a program inside a download folder is never run")
    return resolved


def _odd_program(name: zones.Parts) -> bool:
    """Say whether a name has an extension that is no program's, no library's and no version.

    Nothing is expanded in it, so `~` and `$` mean themselves: Android keeps programs
    below folders like `/data/app/~~Xq3w==`.
    """
    return not name or ("." in name[0] and not _PROGRAM.search(name[0]))


def _home(folders: Mapping[str, str], rules: PathRules) -> str:
    for key in HOME_KEYS:
        if key in folders:
            return locate(f"paths.{key}", folders[key], rules)
    return zones.absolute(zones.split(rules.download_dir, rules), rules)


def _admit(key: str, path: str, rules: PathRules) -> str:
    why = refusal(path, rules)
    if why:
        raise OptionNotAllowed(key, f"{path[:200]!r} {why}")
    return path


def _resolve(key: str, path: str, rules: PathRules) -> str:
    parts = _checked_parts(key, path, rules)
    if not _is_absolute(path, rules):
        parts = (*zones.split(rules.download_dir, rules), *parts)
    return zones.absolute(parts, rules)


def _is_absolute(path: str, rules: PathRules) -> bool:
    return bool(_DRIVE.match(path)) if rules.windows else path.startswith("/")


def _checked_parts(key: str, path: str, rules: PathRules) -> zones.Parts:
    """Return the parts of a path in which every character means itself.

    Raises:
        OptionNotAllowed: one does not.
    """
    parts = zones.split(path, rules)
    # Fields of a template may hold colons and such: yt-dlp cleans what they become.
    bare = _FIELD.sub("(", path)
    odd = _odd_on_windows(bare) if rules.windows else _odd_elsewhere(bare)
    why = _ambiguous(path) or odd or next((w for part in parts if (w := _odd_part(part))), None)
    if why:
        raise OptionNotAllowed(key, why)
    return parts


def _ambiguous(path: str) -> str | None:
    if "\0" in path or "$" in path or "://" in path:
        return "NUL, $ and :// are not allowed in a path"
    return None


def _odd_elsewhere(path: str) -> str | None:
    if path.startswith("\\\\") or re.match(r"[A-Za-z]:[\\/]", path):
        return "this is a path of another system"
    return None


def _odd_on_windows(path: str) -> str | None:
    slashed = path.replace("\\", "/")
    drive, rest = (path[:2], slashed[2:]) if _DRIVE.match(path) else ("", slashed)
    if rest.startswith("/") != bool(drive):
        return "a drive letter and a whole path are needed"
    if "~" in rest or ":" in rest or _VARIABLE.search(rest):
        return "~, : and %NAME% are not allowed in a path"
    names = [part for part in rest.split("/") if part not in ("", ".", "..")]
    if any(part.endswith((".", " ")) for part in names):
        return "no part of a path may end in a dot or a space"
    if any(_DEVICE.match(part) for part in names):
        return "this is the name of a device"
    return None


def _odd_part(part: str) -> str | None:
    if ".." in part.split("\\"):
        return "`..` is not allowed in a path"
    if part.startswith("~"):
        return "`~` is not allowed in a path"
    if part.startswith(WORK_PREFIX):
        return "this name belongs to the server"
    return None


def _template_parts(template: str, rules: PathRules) -> zones.Parts:
    """Return the parts of a template, the last one with its extension."""
    parts = _checked_parts("output", template, rules)
    if _DOTS_FROM_FIELD.search(template):
        raise OptionNotAllowed("output", "a field may not become `..`")
    slashed = template.replace("\\", "/") if rules.windows else template
    if slashed.endswith("/") or not parts:
        return (*parts, DEFAULT_TEMPLATE)
    return (*parts[:-1], with_extension(parts[-1]))


def _fixed(parts: zones.Parts) -> zones.Parts:
    """Return the leading folders of a template that hold no field."""
    count = next((n for n, part in enumerate(parts) if "%" in part), len(parts))
    return parts[: min(count, len(parts) - 1)]


def _subfolders(folders: Mapping[str, str], directory: str, rules: PathRules) -> dict[str, str]:
    base = len(zones.split(directory, rules))
    found: dict[str, str] = {}
    for key in SUBFOLDER_KEYS:
        if key not in folders:
            continue
        name = f"paths.{key}"
        parts = _checked_parts(name, folders[key], rules)
        if not _is_absolute(folders[key], rules):
            parts = (*zones.split(directory, rules), *parts)
        path = _admit(name, zones.absolute(parts, rules), rules)
        if zones.inside(path, directory, rules) and len(parts) > base:
            found[key] = "/".join(parts[base:])
    return found
