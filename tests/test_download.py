"""Datasets from the Hub and elsewhere, fetched for real from a small server on this machine that plays both."""

import hashlib
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE, CompletedProcess, Popen
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result
from command_line import COMMAND, medbench_process
from hub_server import Handler, Hub, Wish, zipped
from native_data import NATIVE, slake

from medbench.tasks.cli import download_command
from medbench.tasks.download.fetch import DownloadError, download, read_record
from medbench.tasks.download.sources import SOURCES, HubSource, WebFile, WebSource
from medbench.tasks.foundation.errors import DataError, RunError, UsageError
from medbench.tasks.prepared import load_prepared

OLD, NEW = "a" * 40, "b" * 40
TOKEN = "hf_not_a_real_token"
REPO = "somebody/some-data"
SLAKE_JSON = {"train.json": b"[]", "validation.json": b"[]", "test.json": b"[]"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    served = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": served}))
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    yield served
    served.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


def hub_source(**fields: Any) -> HubSource:
    defaults: dict[str, Any] = {
        "family": "some",
        "licence": "CC0",
        "repo": REPO,
        "revision": OLD,
        "paths": ("rows.json", "imgs.zip"),
        "unpack": {"imgs.zip": ()},
        "size": 1,
    }
    return HubSource(**{**defaults, **fields})


def files(word: bytes) -> dict[str, bytes]:
    return {"rows.json": b'["%s"]' % word, "imgs.zip": zipped({"imgs/1.txt": word, "imgs/2.txt": b""})}


@pytest.fixture
def two_commits(hub: Hub) -> Hub:
    hub.add(REPO, OLD, files(b"old"))
    hub.add(REPO, NEW, files(b"new"))
    return hub


def web_source(hub: Hub, content: bytes = b"the file", digest: str = "") -> WebSource:
    hub.web["rows.json"] = content
    digest = digest or f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}"
    file = WebFile(path="rows.json", url=f"{hub.url}/web/rows.json", size=len(content), digest=digest)
    return WebSource(family="web", licence="MIT", home="somewhere.org/7", revision="7", files=(file,))


def environment(hub: Hub, tmp_path: Path, **more: str) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "COLUMNS": "200", **more}


def slake_archive(tmp_path: Path) -> bytes:
    native = slake(tmp_path / "slake-native")
    paths = [path for path in sorted((native / "imgs").rglob("*")) if path.is_file()]
    return zipped({path.relative_to(native).as_posix(): path.read_bytes() for path in paths})


# The table of sources.


# Which commit.


def test_the_pinned_commit_is_fetched_and_recorded(two_commits: Hub, tmp_path: Path) -> None:
    download(hub_source(), tmp_path, endpoint=two_commits.url)
    assert (tmp_path / "rows.json").read_bytes() == b'["old"]'
    assert (tmp_path / "imgs" / "1.txt").read_bytes() == b"old"
    record = read_record(tmp_path)
    assert record is not None
    assert (record.source, record.revision, record.licence) == (REPO, OLD, "CC0")
    assert record.unpacked["imgs.zip"].names == ("imgs",)
    hidden = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert hidden == [".download.lock"]


def test_without_a_pin_main_is_resolved_said_and_kept(
    two_commits: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = hub_source(revision=None)
    download(source, tmp_path, endpoint=two_commits.url)
    assert f"--revision {NEW}" in capsys.readouterr().err
    two_commits.add(REPO, "c" * 40, files(b"newest"))
    (tmp_path / "rows.json").unlink()
    download(source, tmp_path, endpoint=two_commits.url)
    assert (tmp_path / "rows.json").read_bytes() == b'["new"]'
    download(source, tmp_path, refresh=True, endpoint=two_commits.url)
    assert (tmp_path / "rows.json").read_bytes() == b'["newest"]'
    assert (tmp_path / "imgs" / "1.txt").read_bytes() == b"newest"


def test_the_user_may_choose_the_commit(two_commits: Hub, tmp_path: Path) -> None:
    download(hub_source(), tmp_path, revision=NEW, endpoint=two_commits.url)
    assert (tmp_path / "imgs" / "1.txt").read_bytes() == b"new"
    # The recorded commit stays, although another one is pinned.
    download(hub_source(), tmp_path, endpoint=two_commits.url)
    assert (tmp_path / "imgs" / "1.txt").read_bytes() == b"new"
    download(hub_source(), tmp_path, refresh=True, endpoint=two_commits.url)
    assert (tmp_path / "imgs" / "1.txt").read_bytes() == b"old"


@pytest.mark.parametrize("revision", ["main", "A" * 40, "a" * 39, ""])
def test_a_revision_is_forty_hex_digits(hub: Hub, tmp_path: Path, revision: str) -> None:
    with pytest.raises(UsageError, match="is no commit"):
        download(hub_source(), tmp_path, revision=revision, endpoint=hub.url)
    with pytest.raises(UsageError, match="no effect"):
        download(web_source(hub), tmp_path, revision=revision)


def test_a_server_that_names_another_commit_is_refused(two_commits: Hub, tmp_path: Path) -> None:
    for sha in (NEW, "main"):
        two_commits.wish = Wish(sha=sha)
        with pytest.raises(DownloadError, match="answers with commit"):
            download(hub_source(), tmp_path, endpoint=two_commits.url)


# Twice, in parts, at once.


def test_a_second_call_needs_no_network(two_commits: Hub, tmp_path: Path) -> None:
    download(hub_source(), tmp_path, endpoint=two_commits.url)
    questions = len(two_commits.seen)
    # The archive was unpacked and may go.
    (tmp_path / "imgs.zip").unlink()
    download(hub_source(), tmp_path, endpoint=two_commits.url)
    assert len(two_commits.seen) == questions


def test_only_what_is_missing_is_fetched(two_commits: Hub, tmp_path: Path) -> None:
    download(hub_source(), tmp_path, endpoint=two_commits.url)
    two_commits.seen.clear()
    (tmp_path / "rows.json").write_bytes(b"cut")
    download(hub_source(), tmp_path, endpoint=two_commits.url)
    assert two_commits.fetched() == ["rows.json"]


def test_refresh_notices_a_changed_file_of_the_same_size(two_commits: Hub, tmp_path: Path) -> None:
    download(hub_source(), tmp_path, endpoint=two_commits.url)
    (tmp_path / "rows.json").write_bytes(b'["odd"]')
    two_commits.seen.clear()
    download(hub_source(), tmp_path, refresh=True, endpoint=two_commits.url)
    assert two_commits.fetched() == ["rows.json"]
    assert (tmp_path / "rows.json").read_bytes() == b'["old"]'


def test_a_killed_download_keeps_what_is_finished_and_nothing_half(hub: Hub, tmp_path: Path) -> None:
    source = SOURCES["slake-vqa"]
    assert isinstance(source, HubSource)
    assert source.revision is not None
    archive = zipped({"imgs/filler.bin": bytes(range(256)) * 4096})
    hub.add(source.repo, source.revision, {"imgs.zip": zipped({"imgs/1.txt": b"1"}), **SLAKE_JSON})
    folder = tmp_path / "native" / "slake"
    download(replace(source, paths=("train.json", "test.json"), unpack={}), folder, endpoint=hub.url)
    hub.add(source.repo, source.revision, {"imgs.zip": archive, **SLAKE_JSON})
    hub.wish = Wish(stall_at=len(archive) // 2)
    command = [*COMMAND, "data", "download", "slake-vqa", "--source", str(tmp_path / "native")]
    process = Popen(command, stderr=PIPE, env={**os.environ, **environment(hub, tmp_path)})
    assert hub.stalled.wait(60)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert not (folder / "imgs.zip").exists()
    assert not (folder / ".fetching").exists()
    hub.wish = Wish()
    hub.go_on.set()
    hub.seen.clear()
    download(source, folder, endpoint=hub.url)
    assert hub.fetched() == ["imgs.zip", "validation.json"]
    assert (folder / "imgs.zip").read_bytes() == archive


def test_a_file_that_was_fetched_by_other_means_is_taken(hub: Hub, tmp_path: Path) -> None:
    source = web_source(hub, b"x" * 100)
    (tmp_path / "rows.json").write_bytes(b"x" * 100)
    download(source, tmp_path)
    assert hub.seen == []
    assert read_record(tmp_path) is not None


def test_two_downloads_into_one_folder_do_not_mix(two_commits: Hub, tmp_path: Path) -> None:
    from filelock import FileLock

    with (
        FileLock(tmp_path / ".download.lock"),
        pytest.raises(DataError, match="Another download"),
    ):
        download(hub_source(), tmp_path, endpoint=two_commits.url)


# What arrives is what was promised.


@pytest.mark.parametrize("name", ["rows.json", "imgs.zip"])
def test_a_file_with_another_checksum_is_thrown_away(two_commits: Hub, tmp_path: Path, name: str) -> None:
    two_commits.wish = Wish(corrupt=(name,))
    with pytest.raises(DownloadError, match=f"{name} arrived with the checksum"):
        download(hub_source(), tmp_path, endpoint=two_commits.url)
    assert not (tmp_path / name).exists()
    assert not (tmp_path / ".fetching").exists()
    two_commits.wish = Wish()
    download(hub_source(), tmp_path, endpoint=two_commits.url)
    assert (tmp_path / "imgs" / "1.txt").read_bytes() == b"old"


def test_files_outside_the_hub_are_checked_against_the_declaration(hub: Hub, tmp_path: Path) -> None:
    download(web_source(hub), tmp_path)
    assert (tmp_path / "rows.json").read_bytes() == b"the file"
    assert read_record(tmp_path) is not None
    with pytest.raises(DownloadError, match="sha256:"):
        download(web_source(hub, digest=f"sha256:{'0' * 64}"), tmp_path / "other")


def test_a_hub_that_tells_no_checksum_is_refused(two_commits: Hub, tmp_path: Path) -> None:
    for wish in (Wish(no_checksums=True), Wish(sha256="../../up"), Wish(sha256="0" * 63)):
        two_commits.wish = wish
        with pytest.raises(DownloadError, match="no checksum"):
            download(hub_source(), tmp_path, endpoint=two_commits.url)


def test_a_right_file_that_the_user_put_there_is_kept_and_a_wrong_one_is_not_touched(
    two_commits: Hub, tmp_path: Path
) -> None:
    (tmp_path / "rows.json").write_bytes(b'["old"]')
    download(hub_source(), tmp_path, endpoint=two_commits.url)
    assert two_commits.fetched() == ["imgs.zip"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "rows.json").write_bytes(b"mine")
    with pytest.raises(DataError, match="already there"):
        download(hub_source(), other, endpoint=two_commits.url)
    assert (other / "rows.json").read_bytes() == b"mine"


def test_a_folder_of_another_source_is_refused(two_commits: Hub, tmp_path: Path) -> None:
    download(web_source(two_commits), tmp_path)
    with pytest.raises(DataError, match="holds files of"):
        download(hub_source(), tmp_path, endpoint=two_commits.url)


def test_a_hostile_archive_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.add(REPO, OLD, {**files(b"old"), "imgs.zip": zipped({"../../up": b"1"})})
    with pytest.raises(DataError, match="leads out"):
        download(hub_source(), tmp_path / "a" / "b", endpoint=hub.url)
    assert sorted(path.name for path in tmp_path.rglob("up")) == []


def test_an_archive_cannot_replace_the_record(hub: Hub, tmp_path: Path) -> None:
    hub.add(REPO, OLD, {**files(b"old"), "imgs.zip": zipped({"download.json": b"{}"})})
    with pytest.raises(DataError, match="already there"):
        download(hub_source(), tmp_path, endpoint=hub.url)


# What goes wrong is explained.


@pytest.mark.parametrize(
    ("wish", "problem", "hint"),
    [
        (Wish(status=403, error="GatedRepo"), "accepted its conditions", "hf auth login"),
        (Wish(status=403), "accepted its conditions", "hf auth login"),
        (Wish(status=401), "not without logging in", "Look at"),
        (Wish(status=404, error="RepoNotFound"), "is not there", "by hand"),
        (Wish(status=429), "HTTP status 429", "run the same command again"),
        (Wish(status=500), "HTTP status 500", "run the same command again"),
        (Wish(answer="<html>Log in to the WiFi</html>"), "not the Hub's", "HF_ENDPOINT"),
        (Wish(answer="[]"), "not the Hub's", "HF_ENDPOINT"),
    ],
)
def test_refusals_have_a_next_step(two_commits: Hub, tmp_path: Path, wish: Wish, problem: str, hint: str) -> None:
    two_commits.wish = wish
    with pytest.raises(DownloadError, match=problem) as error:
        download(hub_source(), tmp_path, endpoint=two_commits.url)
    assert hint in error.value.hint


def test_missing_commits_and_files_are_explained(two_commits: Hub, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="no such commit"):
        download(hub_source(revision="d" * 40), tmp_path, endpoint=two_commits.url)
    with pytest.raises(DownloadError, match=r"has no file 'gone\.json'"):
        download(hub_source(paths=("gone.json",), unpack={}), tmp_path, endpoint=two_commits.url)
    source = web_source(two_commits)
    two_commits.web.clear()
    with pytest.raises(DownloadError, match="is not there"):
        download(source, tmp_path / "web")


def test_a_server_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(DownloadError, match="cannot be reached") as error:
        download(hub_source(), tmp_path, endpoint=f"http://127.0.0.1:{port}")
    assert "finished files are kept" in error.value.hint


def test_too_little_space_and_too_much_data_are_noticed_before(
    two_commits: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="more than --max-gb") as error:
        download(hub_source(), tmp_path, max_bytes=10, endpoint=two_commits.url)
    assert "--max-gb 1" in error.value.hint
    monkeypatch.setattr("medbench.tasks.download.archives.shutil.disk_usage", lambda _: type("Usage", (), {"free": 5}))
    with pytest.raises(RunError, match="too little space for downloading some"):
        download(hub_source(), tmp_path, endpoint=two_commits.url)
    assert two_commits.fetched() == []


def test_a_folder_that_cannot_be_written_is_explained(two_commits: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match="cannot be written") as error:
        download(hub_source(), tmp_path / "file" / "some", endpoint=two_commits.url)
    assert "--source" in error.value.hint


def test_a_broken_record_is_explained(two_commits: Hub, tmp_path: Path) -> None:
    (tmp_path / "download.json").write_text("{}")
    with pytest.raises(DataError, match=r"download\.json"):
        download(hub_source(), tmp_path, endpoint=two_commits.url)


# The command.


def run(*arguments: object) -> Result:
    return CliRunner().invoke(download_command, [str(argument) for argument in arguments])


def served_slake(hub: Hub, tmp_path: Path) -> HubSource:
    source = SOURCES["slake-vqa"]
    assert isinstance(source, HubSource)
    assert source.revision is not None
    hub.add(source.repo, source.revision, {"imgs.zip": slake_archive(tmp_path), **SLAKE_JSON})
    hub.add(source.repo, NEW, {})
    return source


def data_download(hub: Hub, tmp_path: Path, *words: object, **env: str) -> CompletedProcess[str]:
    return medbench_process("data", "download", *words, env=environment(hub, tmp_path, **env))


def test_from_the_hub_to_prepared_samples(hub: Hub, tmp_path: Path) -> None:
    source = served_slake(hub, tmp_path)
    words = ("slake-vqa", "slake-rec", "--source", tmp_path / "native")
    done = data_download(hub, tmp_path, *words, "--data-dir", tmp_path / "data", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    record = read_record(tmp_path / "native" / "slake")
    assert record is not None
    assert record.revision == source.revision
    prepared = load_prepared(tmp_path / "data", "slake-vqa")
    assert sum(prepared.manifest.counts.values()) == 3
    assert "not comparable" in done.stderr
    (tmp_path / "native" / "slake" / "train.txt").write_text("xmlab1 xmlab2")
    (tmp_path / "native" / "slake" / "test.txt").write_text("xmlab3")
    assert TOKEN not in done.stdout + done.stderr
    asked = [headers for _, path, headers in hub.seen if path.startswith(("/api/datasets/", "/datasets/"))]
    assert all(headers["authorization"] == f"Bearer {TOKEN}" for headers in asked)
    assert all("medbench" in headers["user-agent"] for headers in asked)
    # Large files come from elsewhere, which must not learn the token.
    elsewhere = [headers for _, path, headers in hub.seen if path.startswith("/cdn/")]
    assert [headers.get("authorization") for headers in elsewhere] == [None]
    # Everything is on disk now: the Hub is not needed, and may be switched off.
    hub.seen.clear()
    again = data_download(hub, tmp_path, *words, HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert "Next: medbench data prepare slake-vqa slake-rec" in again.stderr
    assert "not comparable" not in again.stderr
    assert hub.seen == []


def test_offline_is_an_error_with_a_next_step(hub: Hub, tmp_path: Path) -> None:
    failed = data_download(hub, tmp_path, "slake-vqa", "--source", tmp_path / "native", HF_HUB_OFFLINE="1")
    assert failed.returncode == 1
    assert "HF_HUB_OFFLINE is set" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_no_token_is_shown_when_a_gate_is_closed(hub: Hub, tmp_path: Path) -> None:
    hub.wish = Wish(status=403, error="GatedRepo")
    failed = data_download(hub, tmp_path, "slake-vqa", "--source", tmp_path / "native", HF_TOKEN=TOKEN)
    assert failed.returncode == 1
    assert "hf auth login" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert TOKEN not in failed.stdout + failed.stderr


def test_the_token_goes_to_the_hub_only(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    download(web_source(hub), tmp_path)
    assert all("authorization" not in headers for _, _, headers in hub.seen)


def test_volumes_that_python_cannot_read_are_left_to_the_user(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SOURCES["sa-med2d-rec"]
    assert isinstance(source, HubSource)
    hub.add(source.repo, NEW, {path: path.encode() for path in source.paths})
    monkeypatch.setattr("medbench.tasks.download.fetch.download", partial(download, endpoint=hub.url))
    words = ("sa-med2d-rec", "--source", tmp_path)
    told = run(*words)
    assert isinstance(told.exception, DataError)
    assert f"zip -s 0 {tmp_path}/sa-med2d/raw/SA-Med2D-16M.zip --out" in told.stdout
    assert "medbench data prepare sa-med2d-rec" in told.stdout
    NATIVE["sa-med2d-rec"](tmp_path / "sa-med2d" / "SAMed2Dv1")
    (tmp_path / "sa-med2d" / "raw" / "SA-Med2D-16M.z01").unlink()
    hub.seen.clear()
    assert run(*words).exception is None
    assert hub.seen == []
    assert run(*words, "--data-dir", tmp_path / "data").exception is None
    assert load_prepared(tmp_path / "data", "sa-med2d-rec").manifest.counts["test"] > 0
