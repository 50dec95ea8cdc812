"""Digests of image files: the text that holds them, the files behind them, and what changes are noticed."""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_helpers import slake_prepared

from medbench.tasks import prepared as prepared_tasks
from medbench.tasks.foundation.errors import DataError, SampleError
from medbench.tasks.foundation.files import file_sha256
from medbench.tasks.prepared import HashedFile, changed_images, hash_images, hash_lines, parse_hash_lines

DIGEST = "0" * 64
ODD_NAMES = (
    "a b.jpg",
    "back\\slash.jpg",
    "line\nbreak.jpg",
    "\\n.jpg",
    "é\u2028ü.jpg",
    " .jpg",
    "sub/d.jpg",
)


def write_files(folder: Path, count: int) -> list[str]:
    names = [f"{number:04d}.jpg" for number in range(count)]
    for name in names:
        (folder / name).write_bytes(name.encode())
    return names


@given(names=st.sets(st.text(min_size=1).filter(lambda name: "\0" not in name), max_size=10))
def test_every_path_survives_writing_and_reading(names: set[str]) -> None:
    digests = {name: f"{place:064x}" for place, name in enumerate(sorted(names))}
    text = hash_lines(digests)
    assert list(parse_hash_lines(text, "x").items()) == list(digests.items())
    assert text.count("\n") == len(names)


def test_the_text_is_what_sha256sum_reads_and_writes(tmp_path: Path) -> None:
    command = shutil.which("sha256sum")
    if command is None:
        pytest.skip("there is no sha256sum")
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    for name in ODD_NAMES:
        (source / name).write_bytes(name.encode())
    listed = tmp_path / "images.sha256"
    listed.write_text(hash_lines(hash_images(source, ODD_NAMES, "images")), encoding="utf-8", newline="")
    checked = subprocess.run([command, "--check", "--strict", "--quiet", listed], cwd=source, check=False, timeout=60)
    assert checked.returncode == 0
    written = subprocess.run([command, *ODD_NAMES], cwd=source, check=True, capture_output=True, timeout=60).stdout
    assert parse_hash_lines(written.decode(), "x") == hash_images(source, ODD_NAMES, "images")


@pytest.mark.parametrize(
    "line", ["", "x", f"{DIGEST} a", f"{DIGEST}  ", f"{DIGEST[1:]}  a", f"{'A' * 64}  a", f" {DIGEST}  a"]
)
def test_a_line_of_another_form_is_named(line: str) -> None:
    with pytest.raises(DataError, match="images, line 2"):
        parse_hash_lines(f"{DIGEST}  a.jpg\n{line}\n", "images")


def test_an_empty_text_has_no_images() -> None:
    assert hash_lines({}) == ""
    assert parse_hash_lines("", "x") == {}


def test_every_file_is_hashed_once_with_few_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = write_files(tmp_path, 600)
    lock, opened, at_once, most = threading.Lock(), list[str](), 0, 0

    def counted(path: Path) -> str:
        nonlocal at_once, most
        with lock:
            opened.append(path.name)
            at_once += 1
            most = max(most, at_once)
        try:
            return file_sha256(path)
        finally:
            with lock:
                at_once -= 1

    monkeypatch.setattr(prepared_tasks, "file_sha256", counted)
    found = hash_images(tmp_path, names, "images")
    assert sorted(opened) == names == list(found)
    assert most <= prepared_tasks._WORKERS
    assert found["0007.jpg"] == file_sha256(tmp_path / "0007.jpg")


def test_many_files_show_progress_and_few_do_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_files(tmp_path, prepared_tasks._SHOWN_FROM)
    hash_images(tmp_path, names[:-1], "slake images")
    assert capsys.readouterr().err == ""
    hash_images(tmp_path, names, "slake images")
    assert f"slake images: {len(names)}/{len(names)}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda _: None, "missing"),
        (lambda path: path.mkdir(), "unreadable"),
        (lambda path: path.symlink_to(path), "unreadable"),
        (lambda path: path.parent.joinpath("gone").mkdir() or path.symlink_to("gone/x"), "missing"),
    ],
)
def test_a_file_that_cannot_be_hashed_stops_the_preparation(
    tmp_path: Path, spoil: Callable[[Path], object], problem: str
) -> None:
    spoil(tmp_path / "b.jpg")
    (tmp_path / "a.jpg").write_bytes(b"a")
    with pytest.raises(DataError, match=rf"b\.jpg is {problem}") as caught:
        hash_images(tmp_path, ["a.jpg", "b.jpg"], "images")
    assert "--image-hashes none" in caught.value.hint


def test_changes_are_named_file_by_file(tmp_path: Path) -> None:
    names = write_files(tmp_path, 5)
    expected = hash_images(tmp_path, names, "images")
    assert changed_images(tmp_path, expected, "images") == ()
    (tmp_path / names[1]).write_bytes(b"other")
    (tmp_path / names[3]).unlink()
    changed = file_sha256(tmp_path / names[1])
    assert changed_images(tmp_path, expected, "images") == (
        HashedFile(names[1], changed, "changed"),
        HashedFile(names[3], "", "missing"),
    )


def test_a_source_folder_that_is_gone_loses_every_image(tmp_path: Path) -> None:
    assert [item.problem for item in changed_images(tmp_path / "gone", {"a.jpg": DIGEST}, "images")] == ["missing"]


def test_a_path_out_of_the_source_is_not_hashed(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    with pytest.raises(SampleError, match="not opened"):
        changed_images(tmp_path / "source", {"../secret": DIGEST}, "images")


def test_a_stop_does_not_wait_for_the_files_that_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = write_files(tmp_path, 200)
    hashed: list[str] = []

    def stopped(path: Path) -> str:
        hashed.append(path.name)
        time.sleep(0.02)
        raise KeyboardInterrupt

    monkeypatch.setattr(prepared_tasks, "file_sha256", stopped)
    with pytest.raises(KeyboardInterrupt):
        hash_images(tmp_path, names, "images")
    assert len(hashed) < len(names)


def test_hashes_that_were_edited_are_refused(tmp_path: Path) -> None:
    prepared = slake_prepared(tmp_path)
    path = prepared.folder / "images.sha256"
    path.write_text(path.read_text().replace("imgs/xmlab1", "imgs/xmlab2", 1))
    with pytest.raises(DataError, match="changed after it was prepared"):
        prepared.image_hashes()
    path.unlink()
    with pytest.raises(DataError, match=r"images\.sha256 cannot be read"):
        prepared.image_hashes()
