"""Where a job's files go, and where they never do."""

from __future__ import annotations

import dataclasses
import ntpath
import posixpath
from typing import Any

import pytest
import yt_dlp
from hypothesis import example, given
from hypothesis import strategies as st

from vidra_trio.core import templates, zones
from vidra_trio.core.errors import InvalidRequest, OptionNotAllowed
from vidra_trio.core.paths import (
    PathRules,
    Placement,
    locate,
    locate_file,
    locate_program,
    place,
    refusal,
)

DATA, CACHE = "/home/u/.local/share/vidra", "/home/u/.cache/vidra"
OPEN = PathRules("/home/u/Downloads", home="/home/u", forbidden=(DATA, CACHE))
ROOTED = dataclasses.replace(OPEN, download_dir="/srv/media/new", roots=("/srv/media", "/mnt/b"))
MAC = PathRules(
    "/Users/u/Downloads",
    home="/Users/u",
    forbidden=("/Users/u/Library/Application Support/vidra",),
)
WINDOWS = PathRules(
    r"C:\Users\u\Downloads",
    home=r"C:\Users\u",
    forbidden=(r"C:\Users\u\AppData\Roaming\vidra",),
    windows=True,
)
ANDROID = PathRules(
    "/data/user/0/app/files/backend/downloads",
    home="/data",
    forbidden=("/data/user/0/app/files/backend", "/data/user/0/app/cache"),
)


def home(folder: str, rules: PathRules = OPEN) -> str:
    """Return the folder of a job whose `paths.home` is `folder`."""
    return place({"paths": {"home": folder}}, rules).directory


# ------------------------------------------------------------------ the folder


def test_says_nothing() -> None:
    """A job without any path goes to the download folder, under a name that never collides."""
    assert place({}, OPEN) == Placement("/home/u/Downloads", "%(title)s [%(id)s].%(ext)s")
    assert place({"paths": {}, "output": ""}, WINDOWS).directory == r"C:\Users\u\Downloads"


@pytest.mark.parametrize(
    ("paths", "directory"),
    [
        ({"home": "/mnt/disk/films"}, "/mnt/disk/films"),
        ({"home": " //mnt//disk/./films/ "}, "/mnt/disk/films"),
        ({"home": "films/new"}, "/home/u/Downloads/films/new"),
        ({"home": "."}, "/home/u/Downloads"),
        ({"output": "/mnt/a"}, "/mnt/a"),
        ({"download": "b"}, "/home/u/Downloads/b"),
        ({"output": "/mnt/a", "download": "/mnt/b"}, "/mnt/a"),
        ({"home": "/mnt/h", "output": "/etc"}, "/mnt/h"),
        ({"home": "/mnt/h", "temp": "/etc", "video": "/etc"}, "/mnt/h"),
        ({"temp": "/tmp/x"}, "/home/u/Downloads"),
    ],
)
def test_home(paths: dict[str, str], directory: str) -> None:
    """`paths.home` or its aliases name the folder; `temp` has no say."""
    assert place({"paths": paths}, OPEN).directory == directory


@pytest.mark.parametrize(
    ("folder", "rules"),
    [
        ("/home/u", OPEN),
        ("/home/u/Videos", OPEN),
        ("/home/u/a/.hidden", OPEN),
        ("/tmp/x/.y", OPEN),
        ("/var/tmp/x", OPEN),
        ("/run/media/u/stick", OPEN),
        ("/etcetera", OPEN),
        ("/media/stick", OPEN),
        ("/opt/films", OPEN),
        ("/library", OPEN),
        ("/home/u/Library", OPEN),
        ("/srv/media", ROOTED),
        ("/mnt/b/c", ROOTED),
        ("/Users/u/Library/Mobile Documents/x", MAC),
        ("/Volumes/stick", MAC),
        ("/private/var/folders/ab/cd", MAC),
        ("/storage/emulated/0/Download", ANDROID),
        ("/data/user/0/app/files/other", ANDROID),
        ("/data/user/0/app/files/backend/downloads/x", ANDROID),
        (r"D:\Films", WINDOWS),
        ("D:/", WINDOWS),
        (r"C:\Users\u\AppData\Local\Temp\x", WINDOWS),
        (r"C:\Windowsill", WINDOWS),
    ],
)
def test_open_places(folder: str, rules: PathRules) -> None:
    """Any folder that a user picks for media is fine."""
    assert refusal(home(folder, rules), rules) is None


@pytest.mark.parametrize(
    ("folder", "rules"),
    [
        *((f"{folder}/x", OPEN) for folder in zones.SYSTEM),
        *((folder, OPEN) for folder in zones.SYSTEM),
        *((f"D:/{folder}/x", WINDOWS) for folder in zones.WINDOWS_SYSTEM),
        ("/", OPEN),
        ("//", OPEN),
        ("/var/lib/x", OPEN),
        ("/var/tmpfoo", OPEN),
        (DATA, OPEN),
        (f"{DATA}/jobs", OPEN),
        (DATA.upper(), OPEN),
        (CACHE, OPEN),
        ("/home/u/.ssh", OPEN),
        ("/home/u/.config/autostart", OPEN),
        ("/HOME/U/.ssh", OPEN),
        ("/mnt/c", ROOTED),
        ("/srv/mediaplus", ROOTED),
        ("/srv", ROOTED),
        ("/SRV/MEDIA", ROOTED),
        ("/Users/u/Library/LaunchAgents", MAC),
        ("/Users/u/library/LaunchAgents", MAC),
        ("/Users/u/Library/Application Support/vidra", MAC),
        ("/data/user/0/app/files/backend", ANDROID),
        ("/data/user/0/app/files/backend/job_options", ANDROID),
        ("/data/user/0/app/cache/x", ANDROID),
        ("/system/bin", ANDROID),
        ("C:/", WINDOWS),
        (r"c:\WINDOWS\System32", WINDOWS),
        (r"C:\Users\u\AppData\Roaming\Microsoft", WINDOWS),
        (r"C:\Users\u\.ssh", WINDOWS),
        (r"C:\Users\u\AppData\Roaming\vidra\x", WINDOWS),
    ],
)
def test_closed_places(folder: str, rules: PathRules) -> None:
    """System folders, our own, and where programs keep their settings are refused."""
    with pytest.raises(OptionNotAllowed, match=r"options\.paths\.home"):
        home(folder, rules)


@pytest.mark.parametrize(
    "folder",
    [
        *("..", "a/../b", "/mnt/..", "../../etc", "a\\..\\b", "~", "~/x", "~root/x", "a/~b"),
        *("$HOME", "/mnt/$X", "/mnt/a$b", "file:///mnt/x", "content://media/x"),
        *(r"C:\Users", "C:/Users", r"\\server\share", "/mnt/.vidra-1"),
    ],
)
def test_ambiguous_paths(folder: str) -> None:
    """What would be another place to whoever expands it is refused."""
    with pytest.raises(OptionNotAllowed):
        home(folder)


@pytest.mark.parametrize(
    "folder",
    [
        *("C:x", "C:", r"\x", "/x", r"\\server\share", "//server/share", r"\\?\C:\x", r"\\.\C:"),
        *(r"C:\PROGRA~1", "C:/a:b", "a:b", "%USERPROFILE%", "C:/%TEMP%/x", "C:/Windows./x"),
        *("C:/Windows /x", "nul", "C:/con", "lpt1.txt", r"..\x", r"a\..\..", r"C:\a\.."),
    ],
)
def test_ambiguous_paths_on_windows(folder: str) -> None:
    """Windows has more ways to say another place; all are refused."""
    with pytest.raises(OptionNotAllowed):
        home(folder, WINDOWS)


def test_windows_paths() -> None:
    """Both separators are taken; a path comes back as Windows writes it."""
    assert home("D:/Films\\new", WINDOWS) == r"D:\Films\new"
    assert home("Films/new", WINDOWS) == r"C:\Users\u\Downloads\Films\new"
    assert home("d:\\", WINDOWS) == "d:\\"


def test_a_root_that_is_the_data_folder_opens_nothing() -> None:
    """Naming DATA itself as a root does not open it; a folder in it does."""
    rules = dataclasses.replace(OPEN, roots=(DATA, f"{DATA}/shared"))
    assert refusal(f"{DATA}/jobs", rules) == "belongs to this server"
    assert refusal(f"{DATA}/shared/x", rules) is None


def test_a_named_root_opens_its_zone_only_for_itself() -> None:
    """The operator may offer a system folder or a hidden one, and only that one."""
    rules = dataclasses.replace(OPEN, roots=("/var/media2", "/home/u/.films", "/"))
    assert refusal("/var/media2/x", rules) is None
    assert refusal("/home/u/.films", rules) is None
    assert refusal("/home/u/.ssh", rules) == "is a hidden folder of the home"
    assert refusal("/var/lib", rules) == "belongs to the system"
    assert refusal("/", rules) is None


def test_rules_without_home_or_own_folders() -> None:
    """Where the home is unknown nothing is hidden; an empty folder name forbids nothing."""
    rules = PathRules("/d", forbidden=("",))
    assert refusal("/home/u/.ssh", rules) is None


# ---------------------------------------------------------------- the template


@pytest.mark.parametrize(
    ("output", "template"),
    [
        ("%(title)s.%(ext)s", "%(title)s.%(ext)s"),
        ("%(title)s-%(artist)s[%(id)s].%(ext)s", "%(title)s-%(artist)s[%(id)s].%(ext)s"),
        ("a/./b//%(id)s.%(ext)s", "a/b/%(id)s.%(ext)s"),
        ("name", "name.%(ext)s"),
        ("name.", "name.%(ext)s"),
        ("name.mp4", "name.%(ext)s"),
        ("name.sh", "name.sh.%(ext)s"),
        ("%(title)s.%(ext)s.sh", "%(title)s.%(ext)s.sh.%(ext)s"),
        ("%(id)s.%(ext|sh)s", "%(id)s.%(ext|sh)s.%(ext)s"),
        ("-", "-.%(ext)s"),
        ("films/", "films/%(title)s [%(id)s].%(ext)s"),
        (".", "%(title)s [%(id)s].%(ext)s"),
        ("%(upload_date>%Y/%m)s.%(ext)s", "%(upload_date>%Y/%m)s.%(ext)s"),
        ("100%% %(id)s.%(ext)s", "100%% %(id)s.%(ext)s"),
        (["title", "-", "id", ".", "ext"], "%(title)s-%(id)s.%(ext)s"),
        (["%(title)s", " by ", "artist"], "%(title)s by %(artist)s.%(ext)s"),
        ([], "%(title)s [%(id)s].%(ext)s"),
    ],
)
def test_template(output: object, template: str) -> None:
    """A template stays what it is, relative, and ends with the extension."""
    placed = place({"output": output}, OPEN)
    assert placed == Placement("/home/u/Downloads", template)


@pytest.mark.parametrize(
    ("output", "rules", "placed"),
    [
        ("/mnt/a/%(id)s.%(ext)s", OPEN, Placement("/mnt/a", "%(id)s.%(ext)s")),
        ("/mnt/%(id)s/x/y", OPEN, Placement("/mnt", "%(id)s/x/y.%(ext)s")),
        ("/mnt/a/", OPEN, Placement("/mnt/a", "%(title)s [%(id)s].%(ext)s")),
        ("/srv/media/a/b.mp4", ROOTED, Placement("/srv/media/a", "b.%(ext)s")),
        (r"D:\a\%(id)s", WINDOWS, Placement(r"D:\a", "%(id)s.%(ext)s")),
        ("D:/%(id)s", WINDOWS, Placement("D:\\", "%(id)s.%(ext)s")),
        (r"a\%(id)s", WINDOWS, Placement(r"C:\Users\u\Downloads", "a/%(id)s.%(ext)s")),
        ("%(duration>%H:%M)s", WINDOWS,
         Placement(r"C:\Users\u\Downloads", "%(duration>%H:%M)s.%(ext)s")),
    ],
)  # fmt: skip
def test_absolute_template(output: str, rules: PathRules, placed: Placement) -> None:
    """An absolute template brings its own folder, as with yt-dlp, when that is allowed."""
    assert (
        place({"output": output, "paths": {"home": "ignored"}}, rules).template == placed.template
    )
    assert place({"output": output}, rules) == placed


@pytest.mark.parametrize(
    ("output", "rules"),
    [
        *((output, OPEN) for output in ("/%(id)s", "/etc/%(id)s", "/home/u/.ssh/x", "/x")),
        *((output, OPEN) for output in ("../%(id)s", "a/../b", "%(id)s/../x", "$HOME/x", "~/x")),
        *((output, OPEN) for output in ("%(x|..)s/a", "%(x&..|y)s/a", "%(x>..)s/a", "%(x|$A)s")),
        *((output, OPEN) for output in (".vidra-1/x", "C:/x/%(id)s", "a/.vidra-2")),
        *((output, ROOTED) for output in ("/mnt/c/x", "/srv/x")),
        *((output, WINDOWS) for output in ("C:x", "/x/y", r"\\s\x", "%(a)c:/x", "%TEMP%/%(id)s")),
        *((output, WINDOWS) for output in ("C:/%(id)s", "C:/Windows/x", r"a\..\b", "a~1/x")),
    ],
)
def test_refused_templates(output: str, rules: PathRules) -> None:
    """A template cannot leave what is allowed, nor say another place."""
    with pytest.raises(OptionNotAllowed, match=r"options\.output"):
        place({"output": output}, rules)


def test_static_folders_count() -> None:
    """A relative template cannot reach a closed place below an open one."""
    for output in (".ssh/x.%(ext)s", ".local/share/vidra/%(id)s", ".config/autostart/x"):
        with pytest.raises(OptionNotAllowed):
            place({"paths": {"home": "/home/u"}, "output": output}, OPEN)


@pytest.mark.parametrize(
    ("options", "detail"),
    [
        ({"output": 5}, {"output": ["Not a valid string."]}),
        ({"output": ["a", 5]}, {"output": ["Not a valid string."]}),
        ({"output": ["a"] * 300}, {"output": ["Longer than maximum length 4096."]}),
        ({"output": ["a" * 3000, "b" * 3000]}, {"output": ["Longer than maximum length 4096."]}),
        ({"output": "%(title"}, {"output": ["Not a valid output template."]}),
        ({"output": "%(title)"}, {"output": ["Not a valid output template."]}),
        ({"output": "a\0b"}, {"output": ["Control characters are not allowed."]}),
        ({"paths": "x"}, {"paths": ["Not a valid mapping type."]}),
        ({"paths": {"home": 5, "temp": None}}, {"paths": {"home": ["Not a valid string."]}}),
        ({"paths": {"home": "\ud800"}}, {"paths": {"home": ["Not a valid utf-8 string."]}}),
        ({"paths": {str(n): "x" for n in range(99)}},
         {"paths": ["Longer than maximum length 64."]}),
    ],
)  # fmt: skip
def test_wrong_types(options: dict[str, Any], detail: object) -> None:
    """What is no path at all is told by its key."""
    with pytest.raises(InvalidRequest) as caught:
        place(options, OPEN)
    assert caught.value.detail == {"options": detail}


# ------------------------------------------------------------- other path types


def test_subfolders() -> None:
    """Other path types inside the folder become sub-folders; elsewhere they have no effect."""
    paths = {
        "home": "/mnt/a",
        "subtitle": "subs/new",
        "thumbnail": "/mnt/a/covers/",
        "infojson": "/mnt/elsewhere",
        "description": ".",
        "chapter": "/mnt/a",
        "video": "/etc",
        "sponsor": "..",
    }
    placed = place({"paths": paths}, OPEN)
    assert placed.subfolders == {"subtitle": "subs/new", "thumbnail": "covers"}
    placed = place({"paths": {"home": r"D:\a", "subtitle": r"d:\A\s\t"}}, WINDOWS)
    assert placed.subfolders == {"subtitle": "s/t"}


@pytest.mark.parametrize("folder", ["/etc/x", "../x", "~/x", "/home/u/.ssh"])
def test_refused_subfolders(folder: str) -> None:
    """They follow the same rule as the folder itself."""
    with pytest.raises(OptionNotAllowed, match=r"options\.paths\.subtitle"):
        place({"paths": {"subtitle": folder}}, OPEN)


# ------------------------------------------------------------ files and programs


def test_files() -> None:
    """A file that an option names follows the rule, unless local files are allowed."""
    assert locate("download_archive", "done.txt", OPEN) == "/home/u/Downloads/done.txt"
    assert locate_file("cookies", "/mnt/c.txt", OPEN) == "/mnt/c.txt"
    with pytest.raises(OptionNotAllowed, match=r"options\.cookies: .* belongs to the system"):
        locate_file("cookies", "/etc/shadow", OPEN)
    local = dataclasses.replace(OPEN, allow_local=True)
    assert locate_file("cookies", "/home/u/.config/c.txt", local) == "/home/u/.config/c.txt"
    with pytest.raises(OptionNotAllowed):
        locate_file("cookies", "~/c.txt", local)
    with pytest.raises(OptionNotAllowed):
        locate("download_archive", "/home/u/.config/c.txt", local)


@pytest.mark.parametrize(
    ("path", "rules"),
    [
        ("/usr/bin/ffmpeg", OPEN),
        ("/home/u/.local/bin/ffmpeg", OPEN),
        ("/data/app/~~Xq3w==/org.x-1==/lib/arm64", ANDROID),
        ("/data/app/~~Xq3w==/org.x-1==/lib/arm64/libffmpeg.so", ANDROID),
        ("/opt/venv/imageio_ffmpeg/binaries/ffmpeg-linux-x86_64-v7.0.2", OPEN),
        ("/opt/ffmpeg-7.1-full_build", OPEN),
        (r"C:\Users\JOHND~1\ffmpeg.EXE", WINDOWS),
        ("/opt/ffmpeg", ROOTED),
        (r"C:\Program Files\Vidra\ffmpeg.exe", WINDOWS),
        ("/home/u/Downloads/ffmpeg", dataclasses.replace(OPEN, allow_local=True)),
    ],
)
def test_programs(path: str, rules: PathRules) -> None:
    """A program lies anywhere but where downloads land."""
    assert locate_program("ffmpeg_location", path, "/mnt/a", rules) == path


@pytest.mark.parametrize(
    ("path", "rules"),
    [
        ("ffmpeg", OPEN),
        ("/home/u/Downloads/ffmpeg", OPEN),
        ("/mnt/a/b/ffmpeg", OPEN),
        ("/mnt/a", OPEN),
        ("/srv/media/x/ffmpeg", ROOTED),
        ("/usr/bin/../x", OPEN),
        (r"c:\users\U\downloads\ffmpeg.exe", WINDOWS),
        (r"\ffmpeg.exe", WINDOWS),
        ("C:ffmpeg", WINDOWS),
        (r"C:\x\ffmpeg.mp4", WINDOWS),
        (r"C:\x\ffmpeg.mp4.", WINDOWS),
        (r"C:\x\ffmpeg.mp4::$DATA", WINDOWS),
        ("/mnt/b/ffmpeg.3gp", OPEN),
        ("/mnt/b/ffmpeg.mp4/.", OPEN),
        ("/", OPEN),
    ],
)
def test_refused_programs(path: str, rules: PathRules) -> None:
    """A client cannot have run what it has just downloaded."""
    with pytest.raises(OptionNotAllowed, match=r"options\.ffmpeg_location"):
        locate_program("ffmpeg_location", path, "/mnt/a", rules)


# ------------------------------------------------------------------- for anything

PIECES = st.sampled_from(
    [
        *(
            "..",
            ".",
            "/",
            "\\",
            "~",
            "$",
            "a",
            "b",
            "C:",
            "etc",
            "srv",
            "media",
            "%(id)s",
            "%(ext)s",
        ),
        *("%", "(", ")", "s", "|", "&", ">", " ", "mnt", "home", "u", ".ssh", "%(x|..)s", "%%"),
        *("Windows", "Users", "con", ":", "D:\\", "%TEMP%", "\0", "ünï", ".vidra-", "%(a/b)s"),
    ]
)
TEXT = st.lists(PIECES, max_size=8).map("".join) | st.text(max_size=20)
RULES = [OPEN, ROOTED, MAC, WINDOWS, ANDROID]


@given(TEXT, TEXT, TEXT, st.sampled_from(RULES))
@example("/srv/media", "/mnt/b/x", "a", ROOTED)
def test_nothing_escapes(folder: str, output: str, subtitle: str, rules: PathRules) -> None:
    """Whatever the text: refused, or an allowed folder and a template below it."""
    try:
        placed = place({"paths": {"home": folder, "subtitle": subtitle}, "output": output}, rules)
    except (OptionNotAllowed, InvalidRequest):
        return
    flavour = ntpath if rules.windows else posixpath
    assert flavour.isabs(placed.directory)
    assert flavour.normpath(placed.directory) == placed.directory
    assert refusal(placed.directory, rules) is None
    named = (*rules.roots, rules.download_dir)
    if rules.roots:
        assert any(flavour.commonpath([placed.directory, n]) == n for n in named)
    for relative in (placed.template, *placed.subfolders.values()):
        assert relative
        assert ".." not in relative.replace("\\", "/").split("/")
        assert not relative.startswith(("/", "~", "\\") if rules.windows else ("/", "~"))
        assert "$" not in relative
        assert not ntpath.splitdrive(relative)[0] or not rules.windows
    assert placed.template.endswith(".%(ext)s")


@given(TEXT)
def test_templates_are_what_ytdlp_takes(output: str) -> None:
    """A template that we let through is one for yt-dlp."""
    try:
        template = place({"output": output}, OPEN).template
    except (OptionNotAllowed, InvalidRequest):
        return
    assert yt_dlp.YoutubeDL.validate_outtmpl(template) is None


def test_field_names() -> None:
    """The names that a list of segments may use bare are plain words."""
    assert all(name.isidentifier() for name in templates.FIELDS)
