"""What we rely on in yt-dlp beyond its documented interface, fact by fact.

A release that changes one of these breaks here, with the fact's name, and not in
a download.
"""

from __future__ import annotations

import inspect
import io
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import yt_dlp
from yt_dlp.downloader import get_suitable_downloader
from yt_dlp.downloader.common import FileDownloader
from yt_dlp.downloader.fragment import FragmentFD
from yt_dlp.downloader.http import HttpFD
from yt_dlp.extractor import gen_extractor_classes
from yt_dlp.networking import Request, Response
from yt_dlp.networking.exceptions import HTTPError
from yt_dlp.postprocessor import get_postprocessor
from yt_dlp.postprocessor.embedthumbnail import EmbedThumbnailPP
from yt_dlp.postprocessor.ffmpeg import FFmpegMetadataPP, FFmpegPostProcessor
from yt_dlp.utils import DownloadCancelled, PlaylistEntries, ReExtractInfo
from yt_dlp.utils.networking import HTTPHeaderDict

from vidra_trio.engine import ytdlp
from vidra_trio.engine.errors import ItemFailed
from vidra_trio.engine.ytdlp.driver import ItemYDL
from vidra_trio.engine.ytdlp.endings import ENOUGH
from vidra_trio.engine.ytdlp.item import HOLE
from vidra_trio.engine.ytdlp.repairs import best_block_size
from vidra_trio.engine.ytdlp.requesting import transfer_of
from vidra_trio.engine.ytdlp.steps import ESSENTIAL

YDL = yt_dlp.YoutubeDL


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (YDL._match_entry, ["self", "info_dict", "incomplete", "silent"]),
        (YDL._write_subtitles, ["self", "info_dict", "filename"]),
        (YDL._delete_downloaded_files, ["self", "files_to_delete", "info", "msg"]),
        (YDL.existing_file, ["self", "filepaths", "default_overwrite"]),
        (YDL.get_output_path, ["self", "dir_type", "filename"]),
        (YDL.prepare_filename, ["self", "info_dict", "dir_type", "outtmpl", "warn"]),
        (YDL.process_info, ["self", "info_dict"]),
        (YDL.in_download_archive, ["self", "info_dict"]),
        (YDL.dl, ["self", "name", "info", "subtitle", "test"]),
        (YDL.run_pp, ["self", "pp", "infodict"]),
        (YDL.urlopen, ["self", "req"]),
        (YDL.process_ie_result, ["self", "ie_result", "download", "extra_info"]),
        (YDL.add_default_info_extractors, ["self"]),
        (YDL.trouble, ["self", "message", "tb", "is_error"]),
        (
            FileDownloader.report_retry,
            ["self", "err", "count", "retries", "frag_index", "fatal"],
        ),
        (FragmentFD._prepare_frag_download, ["self", "ctx"]),
        (FragmentFD._read_ytdl_file, ["self", "ctx"]),
        (FragmentFD._write_ytdl_file, ["self", "ctx"]),
        (FragmentFD._append_fragment, ["self", "ctx", "frag_content"]),
        (PlaylistEntries.__init__, ["self", "ydl", "info_dict"]),
    ],
)
def test_what_we_override_or_call_has_these_parameters(
    method: object, parameters: list[str]
) -> None:
    """An overridden method that gains a parameter would be called with it."""
    assert callable(method)
    if parameters[0] == "self":
        assert list(inspect.signature(method).parameters) == parameters


def test_the_repairs_are_in_the_places_that_are_called() -> None:
    """A renamed method upstream would leave ours unused, and resumed files broken."""
    source = inspect.getsource(inspect.getmodule(FragmentFD) or FragmentFD)
    assert source.count("self._write_ytdl_file(ctx)") >= 3
    assert "self._append_fragment(ctx, " in source
    assert "ctx['fragment_filename_sanitized']" in source
    assert "'%s-Frag%d' % (ctx['tmpfilename'], ctx['fragment_index'])" in source
    assert "self.best_block_size(" in inspect.getsource(HttpFD)
    original = FileDownloader.best_block_size
    with ytdlp.installed(own_groups=True), ytdlp.installed(own_groups=True):
        assert FileDownloader.best_block_size is not original
    assert FileDownloader.best_block_size is original


def test_a_request_shares_the_headers_it_is_made_with() -> None:
    """Why a refused Range has to be taken out by us; when this changes, nobody needs to."""
    headers = HTTPHeaderDict({"Range": "bytes=5-"})
    assert Request("http://x", None, headers).headers is headers


def test_a_direct_download_asks_as_its_watcher_expects() -> None:
    """How it continues, what it believes, and that an exception closes its file first."""
    source = inspect.getsource(HttpFD.real_download)
    for fact in (
        "ctx.open_mode = 'wb'\n        ctx.resume_len = 0",  # where starting over begins
        "ctx.data = self.ydl.urlopen(request)",
        "request.headers['Range'] = f'bytes={int(range_start)}-",
        "headers = HTTPHeaderDict({'Accept-Encoding': 'identity'}, info_dict.get('http_headers'))",
        "self.params.get('http_chunk_size')",
        "info_dict.get('downloader_options', {}).get('http_chunk_size')",
        "except:  # noqa: E722\n                close_stream()\n                raise",
    ):
        assert fact in source, fact
    with YDL({"quiet": True, "cachedir": False}) as ydl:
        assert HttpFD(ydl, {}).temp_name("/x/video.mp4") == "/x/video.mp4.part"


@pytest.mark.parametrize(
    ("protocol", "direct"), [("http", True), ("https", True), ("m3u8_native", False)]
)
def test_only_a_direct_download_is_watched(tmp_path: Path, protocol: str, direct: bool) -> None:
    """A fragment's Range is the format's own business."""
    info = {"url": "https://x/y", "protocol": protocol, "ext": "mp4"}
    with item_ydl(tmp_path, "x") as ydl:
        assert (get_suitable_downloader(info, ydl.params) is HttpFD) is direct
        watcher = transfer_of(str(tmp_path / "tmp" / "y"), info, ydl.params, tmp_path)
        assert (watcher is not None) is direct


def test_a_state_that_is_corrupt_starts_over() -> None:
    """What we say of a playlist of another length; and that yt-dlp counts its fragments so."""
    source = inspect.getsource(FragmentFD._prepare_frag_download)
    reading = source.index("self._read_ytdl_file(ctx)")
    corrupt = source.index("is_corrupt = ctx.get('ytdl_corrupt') is True", reading)
    assert "ctx['fragment_index'] = resume_len = 0" in source[corrupt:]
    assert "ctx['total_frags']" in source


def test_a_skipped_fragment_is_told_in_these_words() -> None:
    """The only sign that a file has a hole."""
    said: list[str] = []
    with YDL({"quiet": True, "cachedir": False}) as ydl, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ydl, "to_screen", lambda line, *_, **__: said.append(line))
        fd = FragmentFD(ydl, ydl.params)
        fd.report_skip_fragment(3, "fragment not found")
        fd.report_skip_fragment(12)
    assert all(HOLE.match(line) for line in said), said
    assert len(said) == 2


def test_errors_go_through_one_method() -> None:
    """Everything that ends an item and is not raised is reported there."""
    assert "self.trouble(" in inspect.getsource(YDL.report_error)
    assert "raise DownloadError(" in inspect.getsource(YDL.trouble)
    for limit in ENOUGH:
        assert issubclass(limit, DownloadCancelled)
    assert "wait_for_video" in inspect.getsource(YDL._wait_for_video)


def test_an_answer_has_what_is_read_of_it() -> None:
    """Also one that is an error."""
    answer = Response(io.BytesIO(b"x"), "http://x", {"ETag": "1"}, status=416)
    assert (answer.status, answer.headers.get("etag")) == (416, "1")
    error = HTTPError(answer)
    assert (error.status, error.response) == (416, answer)
    error.close()
    assert answer.closed


def test_the_attributes_that_we_touch_exist() -> None:
    """On objects made the way we make them."""
    with YDL({"quiet": True, "cachedir": False}) as ydl:
        assert ydl._request_director is not None
        assert FFmpegMetadataPP(ydl)._add_infojson == "if_exists"
        assert EmbedThumbnailPP(ydl)._already_have_thumbnail is False
        assert isinstance(FFmpegPostProcessor(ydl).probe_available, bool)
    assert FFmpegPostProcessor._ffmpeg_location.get() is None
    assert all(isinstance(one._ENABLED, (bool, type(None))) for one in gen_extractor_classes())
    assert issubclass(ReExtractInfo, Exception)
    assert issubclass(DownloadCancelled, Exception)


def test_essential_post_processors_are_named_so() -> None:
    """A renamed one would become decoration, and its failure a warning."""
    keys = (
        "FFmpegMerger",
        "FFmpegExtractAudio",
        "FFmpegVideoRemuxer",
        "FFmpegVideoConvertor",
        "FFmpegCopyStream",
        "MoveFilesAfterDownload",
    )
    assert {get_postprocessor(key).pp_key() for key in keys} == ESSENTIAL


@pytest.mark.parametrize(
    ("elapsed", "size", "expected"),
    [
        (0.0, 1024, 2048),  # what had piled up says nothing about the line
        (0.05, 4096, 4096),
        (1.0, 4096, 1024),
        (0.001, 1 << 19, 1 << 19),
        (10.0, 1, 1024),
    ],
)
def test_blocks_follow_the_line(elapsed: float, size: int, expected: int) -> None:
    """A twentieth of a second each, at most twice the one before, within bounds."""
    assert best_block_size(elapsed, size) == expected


def item_ydl(tmp_path: Path, template: str, **params: object) -> ItemYDL:
    """Return a driver whose item is only as much as naming needs."""
    order = SimpleNamespace(work=str(tmp_path))
    item = SimpleNamespace(out=tmp_path / "out", tmp=tmp_path / "tmp", order=order)
    silent = SimpleNamespace(debug=print, info=print, warning=print, error=print)
    names = {"outtmpl": {"default": template}, "paths": {"home": "/x"}, "logger": silent}
    return ItemYDL({**names, "cachedir": False, **params}, item)  # type: ignore[arg-type]


@pytest.mark.parametrize("ours", [True, False])
def test_no_words_are_made_of_progress(tmp_path: Path, *, ours: bool) -> None:
    """Of our runs' hooks yt-dlp makes no text that nobody reads; of others' it does."""
    status = {"status": "downloading", "downloaded_bytes": 1, "total_bytes": 2}
    with ytdlp.installed(own_groups=True), ExitStack() as stack:
        silent = {"quiet": True, "noprogress": True, "cachedir": False}
        ydl = stack.enter_context(item_ydl(tmp_path, "x", **silent) if ours else YDL(silent))
        HttpFD(ydl, ydl.params)._hook_progress(status, {})
    assert status["downloaded_bytes"] == 1
    assert ("_percent_str" in status) is not ours


@pytest.mark.parametrize(
    ("template", "title", "expected"),
    [
        ("%(title)s.%(ext)s", "plain", "plain.mp4"),
        ("%(title)s.%(ext)s", "../../etc/passwd", None),
        ("%(title)s.%(ext)s", "/etc/passwd", None),
        ("%(title)s.%(ext)s", "-rf\u202e", "rf.mp4"),
        ("%(title)s/%(id)s.%(ext)s", "...", None),
        ("%(title)s/%(id)s.%(ext)s", "a/b", None),
        ("%(title)s.%(ext)s", "日本" * 300, None),
        ("%(title)s-%(artist)s[%(id)s].%(ext)s", "x" * 400, None),
    ],
)
@pytest.mark.parametrize("kind", ["", "temp", "infojson", "thumbnail"])
def test_no_title_leads_out_of_the_directory(
    tmp_path: Path, template: str, title: str, expected: str | None, kind: str
) -> None:
    """Whatever the metadata says, every kind of file is named inside, within 255 bytes."""
    info = {"id": "id1", "title": title, "ext": "mp4"}
    with item_ydl(tmp_path, template) as ydl:
        name = Path(ydl.prepare_filename(info, kind))
    root = tmp_path / ("tmp" if kind == "temp" else "out")
    inside = name.relative_to(root)
    assert ".." not in inside.parts
    assert all(len(part.encode()) <= 255 and part[0] not in "-." for part in inside.parts)
    if expected and kind in ("", "temp"):
        assert str(inside) == expected


@pytest.mark.parametrize(
    "template",
    [
        "../%(id)s.%(ext)s",
        "/tmp/%(id)s.%(ext)s",
        "a/../../%(id)s",
        "%(title)s/%(id)s.%(ext)s",
        "~/%(id)s",
        "-",
    ],
)
def test_a_name_that_leads_out_is_refused(tmp_path: Path, template: str) -> None:
    """Whether the template says so or a title; nor standard output: there is no file then."""
    with item_ydl(tmp_path, template) as ydl, pytest.raises(ItemFailed) as caught:
        ydl.prepare_filename({"id": "x", "title": "..", "ext": "mp4"})
    assert caught.value.fault == "path_not_allowed"


@pytest.mark.parametrize(
    ("chosen", "least"), [(None, 1000), (["all"], 1000), (["generic", "end"], 1)]
)
def test_extractors_are_chosen_as_upstream_does(
    tmp_path: Path, chosen: list[str] | None, least: int
) -> None:
    """The fast way gives the same list in the same order."""
    more = {} if chosen is None else {"allowed_extractors": chosen}
    with item_ydl(tmp_path, "%(id)s", **more) as ours, YDL({"quiet": True, **more}) as theirs:
        assert list(ours._ies) == list(theirs._ies)
        assert len(ours._ies) >= least


def test_prewarming_can_be_cut_short() -> None:
    """An order that came meanwhile does not wait for the rest."""
    asked = iter([False, True])
    ytdlp.prewarm(wanted=lambda: next(asked))
    assert list(asked) == []
