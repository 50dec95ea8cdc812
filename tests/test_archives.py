"""Archives of strangers: what is honest unpacks whole, what is hostile or damaged changes nothing."""

import io
import shutil
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medbench.tasks.download.archives import extract, readable_size, require_space
from medbench.tasks.foundation.errors import DataError, MedbenchError, RunError

FILES = {"imgs/xmlab1/source.jpg": b"picture" * 50, "imgs/xmlab1/question.json": b"[]", "README": b""}


def write_zip(path: Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: Mapping[str, bytes], *odd: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in odd:
            archive.addfile(info)
    return path


def tar_oddity(kind: bytes, name: str = "odd", target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def found(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


WRITERS: dict[str, Callable[[Path, Mapping[str, bytes]], Path]] = {
    "a.zip": write_zip,
    "a.tar.gz": write_tar,
    "a.tgz": write_tar,
}


@pytest.mark.parametrize("name", WRITERS)
def test_honest_archives_unpack_whole(tmp_path: Path, name: str) -> None:
    archive = WRITERS[name](tmp_path / name, FILES)
    assert extract(archive, tmp_path / "new" / "out") == ("README", "imgs")
    assert found(tmp_path / "new" / "out") == FILES


def test_redundant_dots_lead_nowhere(tmp_path: Path) -> None:
    folders = [tar_oddity(tarfile.DIRTYPE, name) for name in ("./", "./empty", "imgs")]
    archive = write_tar(tmp_path / "a.tgz", {"./imgs//one": b"1"}, *folders)
    assert extract(archive, tmp_path / "out") == ("imgs",)
    assert found(tmp_path / "out") == {"imgs/one": b"1"}


def test_members_that_are_not_asked_for_are_ignored(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {**FILES, "imgs\\odd": b"1", "imgs/xmlab2/source.jpg": b"2"})
    assert extract(archive, tmp_path / "out", only=["imgs/xmlab2/", "README"]) == ("README", "imgs")
    assert found(tmp_path / "out") == {"README": b"", "imgs/xmlab2/source.jpg": b"2"}
    with pytest.raises(DataError, match="holds none of the files"):
        extract(archive, tmp_path / "none", only=["nowhere/"])


def test_permissions_of_the_archive_are_ignored(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("run.sh")
    info.external_attr = (stat.S_IFREG | stat.S_ISUID | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "#!/bin/sh")
    extract(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out" / "run.sh").stat().st_mode & (stat.S_IXUSR | stat.S_ISUID)


@pytest.mark.parametrize("write", [write_zip, write_tar])
@pytest.mark.parametrize(
    "name", ["/up", "../up", "a/../../up", "a/..", "..", "..\\up", "a\\..\\..\\up", "C:/up", "c:up", "a\nb"]
)
def test_one_hostile_member_stops_everything(
    tmp_path: Path, write: Callable[[Path, Mapping[str, bytes]], Path], name: str
) -> None:
    archive = write(tmp_path / ("a.zip" if write is write_zip else "a.tgz"), {"good": b"1", name: b"2"})
    with pytest.raises(DataError, match="is refused: its member") as error:
        extract(archive, tmp_path / "in" / "out")
    assert repr(name) in error.value.problem
    assert sorted(path.name for path in tmp_path.iterdir()) == [archive.name]


PIECES = st.sampled_from(["..", ".", "", "a", "b", "C:", "\\", "..\\", "\0", "é", " "])
NAMES = st.lists(PIECES, min_size=1, max_size=5).map("/".join) | st.text(max_size=8)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES, min_size=1, max_size=3), as_zip=st.booleans())
def test_nothing_is_ever_written_outside_the_folder(tmp_path: Path, names: list[str], *, as_zip: bool) -> None:
    shutil.rmtree(tmp_path / "room", ignore_errors=True)
    folder = tmp_path / "room" / "deep" / "out"
    folder.mkdir(parents=True)
    archive = tmp_path / ("x.zip" if as_zip else "x.tgz")
    try:
        (write_zip if as_zip else write_tar)(archive, dict.fromkeys(names, b"content"))
    except (ValueError, IndexError):
        # The writer itself refuses the name.
        return
    try:
        tops = extract(archive, folder)
    except MedbenchError:
        tops = ()
    outside = [path for path in (tmp_path / "room").rglob("*") if path.is_file() and folder not in path.parents]
    assert outside == []
    assert sorted(path.name for path in folder.iterdir()) == sorted(tops)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_tars_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = write_tar(tmp_path / "a.tar.gz", {"good": b"1"}, tar_oddity(kind))
    with pytest.raises(DataError, match="'odd' is"):
        extract(archive, tmp_path / "out")
    assert found(tmp_path / "out") == {}


def test_a_link_in_a_zip_becomes_a_file(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("odd")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    extract(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out" / "odd").is_symlink()
    assert found(tmp_path / "out") == {"odd": b"/etc/passwd"}


def test_a_name_that_zipfile_would_cut_is_judged_as_it_was_written(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"good_txt": b"1"})
    archive.write_bytes(archive.read_bytes().replace(b"good_txt", b"good\0txt"))
    with pytest.raises(DataError, match="is no text"):
        extract(archive, tmp_path / "out")


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"secret": b"1"})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match="is encrypted"):
        extract(archive, tmp_path / "out")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [["a", "a"], ["a", "./a"], ["a/b", "a"], ["a", "a/b/c"]])
def test_members_that_collide_are_refused(tmp_path: Path, names: list[str]) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    with pytest.raises(MedbenchError, match=r"named twice|cannot be unpacked"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    assert found(tmp_path / "out") == {}


@pytest.mark.parametrize("name", WRITERS)
def test_bombs_are_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    archive = WRITERS[name](tmp_path / name, {"z": bytes(5_000_000)})
    with pytest.raises(DataError, match="unpacks to more than 1 MB"):
        extract(archive, tmp_path / "out", max_bytes=1_000_000)
    assert not (tmp_path / "out").exists()


def test_a_member_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"big": bytes(1000)}, zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = (10).to_bytes(4, "little")
    archive.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        extract(archive, tmp_path / "out")
    assert found(tmp_path / "out") == {}


def test_a_flipped_bit_is_noticed_and_nothing_stays(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"one": b"1", "two": b"content"}, zipfile.ZIP_STORED)
    archive.write_bytes(archive.read_bytes().replace(b"content", b"c0ntent"))
    with pytest.raises(DataError, match=r"a\.zip is damaged.*CRC") as error:
        extract(archive, tmp_path / "out")
    assert "download it again" in error.value.hint
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", WRITERS)
def test_truncated_archives_are_noticed(tmp_path: Path, name: str) -> None:
    archive = WRITERS[name](tmp_path / name, FILES)
    whole = archive.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 3):
        archive.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"damaged or incomplete|holds none of the files"):
            extract(archive, tmp_path / "out")
        assert found(tmp_path / "out") == {}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_of_any_kind_is_a_data_error(tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(WRITERS)))
    archive = WRITERS[name](tmp_path / name, FILES)
    content = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    archive.write_bytes(content)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    try:
        extract(archive, tmp_path / "out")
    except MedbenchError:
        assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_what_is_already_there_is_not_touched_unless_it_may_be(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", FILES)
    mine = tmp_path / "out" / "imgs"
    mine.mkdir(parents=True)
    (mine / "mine").write_text("mine")
    with pytest.raises(DataError, match="already there"):
        extract(archive, tmp_path / "out")
    assert found(tmp_path / "out") == {"imgs/mine": b"mine"}
    extract(archive, tmp_path / "out", replace=["imgs"])
    assert found(tmp_path / "out") == FILES


def test_an_interrupted_extraction_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_zip(tmp_path / "a.zip", FILES)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(zipfile.ZipFile, "extract", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.undo()
    # What a kill leaves instead is swept away by the next call.
    leftover = tmp_path / "out" / ".a.zip.unpacking" / "new" / "imgs"
    leftover.mkdir(parents=True)
    (leftover / "half").touch()
    extract(archive, tmp_path / "out")
    assert found(tmp_path / "out") == FILES


@pytest.mark.parametrize("name", ["SA-Med2D-16M.z01", "SA-Med2D-16M.z10", "SA-Med2D-16M.zip"])
def test_volumes_of_a_split_zip_name_the_tools(tmp_path: Path, name: str) -> None:
    for volume in ("z01", "z10", "zip"):
        (tmp_path / f"SA-Med2D-16M.{volume}").write_bytes(b"PK")
    with pytest.raises(DataError, match="volume of a split zip") as error:
        extract(tmp_path / name, tmp_path / "out")
    assert "zip -s 0" in error.value.hint
    assert "SA-Med2D-16M.zip' --out" in error.value.hint
    assert "7z x" in error.value.hint


@pytest.mark.skipif(shutil.which("zip") is None, reason="Info-ZIP is not installed")
def test_the_last_volume_alone_is_explained(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(range(256)) * 1000)
    subprocess.run(["zip", "-q", "-0", "-s", "64k", "a.zip", "big"], cwd=tmp_path, check=True)
    for volume in tmp_path.glob("a.z0*"):
        volume.unlink()
    with pytest.raises(DataError, match="damaged") as error:
        extract(tmp_path / "a.zip", tmp_path / "out")
    assert "zip -s 0" in error.value.hint


def test_other_mistakes_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    with pytest.raises(DataError, match="no archive") as error:
        extract(tmp_path / "a.rar", tmp_path)
    assert ".tar.gz" in error.value.hint
    with pytest.raises(DataError, match="is missing"):
        extract(tmp_path / "nowhere.zip", tmp_path)
    archive = write_zip(tmp_path / "a.zip", FILES)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be unpacked"):
        extract(archive, tmp_path / "file" / "out")
    with pytest.raises(DataError, match="holds none of the files"):
        extract(write_zip(tmp_path / "empty.zip", {}), tmp_path / "out")
    monkeypatch.setattr(
        "medbench.tasks.download.archives.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 5)
    )
    with pytest.raises(RunError, match=r"too little space for unpacking a\.zip: 352 bytes needed, 5 bytes free"):
        extract(archive, tmp_path / "out")


def test_space_is_asked_of_the_disk_where_the_folder_will_be(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "yet" / "there", 1, "a test")
    with pytest.raises(RunError, match="too little space for a test"):
        require_space(tmp_path / "not" / "yet" / "there", 10**18, "a test")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (999_600, "1 MB"),
        (212_300_000, "212 MB"),
        (10**16, "1e+04 TB"),
    ],
)
def test_sizes_are_readable(size: int, text: str) -> None:
    assert readable_size(size) == text
