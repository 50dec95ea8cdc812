"""Archives of strangers, unpacked safely: looked at whole, unpacked aside, moved into place at the end.

Read are `.zip`, `.tar.gz`, `.tgz` and single files as `.gz`. Refused before anything is written: members that
are absolute, climb out with `..`, hold a drive letter, a backslash or a control character, are links, devices
or encrypted, or are named twice; and archives that hold more than `Limits` allows (zip bombs). What unpacks is
written with the user's own permissions; those in the archive are ignored.

Volumes of a split zip (`.z01`, `.z02`, ..., `.zip`) cannot be read by Python; the error names the tools.
"""

import gzip
import lzma
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from medbench.tasks.foundation.console import meter
from medbench.tasks.foundation.errors import DataError, RunError

_CHUNK = 2**20
_FIRST_PRINTABLE = " "
_DRIVE = re.compile(r"[A-Za-z]:")
_VOLUME = re.compile(r"\.z\d\d+$", re.IGNORECASE)
_ENCRYPTED = 0x1
_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_SHOWN_AS_1000 = 999.5

# What zipfile, tarfile, gzip and the decompressors raise on damaged or hostile bytes.
_MALFORMED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much an archive may hold before it is taken for a bomb.

    Attributes:
        max_bytes: Total size of the unpacked files, in bytes.
        max_ratio: The same total divided by the size of the archive.
        max_members: Number of files and folders.
    """

    max_bytes: int = 64 * 2**30
    max_ratio: float = 200.0
    max_members: int = 2_000_000


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class _Member:
    """A file or folder of an archive, as the archive tells it.

    Attributes:
        name: As it is in the archive, unchecked.
        size: Bytes when unpacked.
        folder: Whether it is a folder.
        oddity: What it is, if neither file nor folder.
        open: Opens its content.
    """

    name: str
    size: int
    folder: bool
    oddity: str
    open: Callable[[], IO[bytes] | None]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What will be written: checked paths, and the total size in bytes."""

    folders: tuple[PurePosixPath, ...]
    files: tuple[tuple[PurePosixPath, _Member], ...]
    total: int

    @property
    def top_names(self) -> tuple[str, ...]:
        paths = (*self.folders, *(path for path, _ in self.files))
        return tuple(sorted({path.parts[0] for path in paths}))


def extract(
    archive: Path,
    folder: Path,
    *,
    only: Sequence[str] = (),
    limits: Limits = DEFAULT_LIMITS,
    replace: Collection[str] = (),
) -> tuple[str, ...]:
    """Unpack an archive into a folder; each of its top-level entries appears whole or not at all.

    Args:
        archive: A `.zip`, `.tar.gz`, `.tgz` or `.gz` file.
        folder: Where its top-level entries go; made if it is missing.
        only: Unpack only members whose names start with one of these, and ignore all others; none means all.
        limits: How much it may hold.
        replace: Entries of `folder` that may be replaced by those of the same name in the archive.

    Returns:
        The names of the top-level entries, sorted.

    Raises:
        DataError: If the archive is of another kind, damaged, hostile or too large, or one of its entries is
            already in `folder`; nothing was changed then.
        RunError: If `folder` cannot be written to or has too little space.
    """
    with _explaining(archive, folder), _reader(archive)(archive, limits) as members:
        plan = _plan(archive, _chosen(members, only), limits)
        _refuse_taken(archive, folder, plan, replace)
        require_space(folder, plan.total, f"unpacking {archive.name}")
        staging = folder / f".{archive.name}.unpacking"
        # What a killed extraction left is worth nothing.
        shutil.rmtree(staging, ignore_errors=True)
        try:
            _write(archive, plan, staging / "new")
            _move(plan.top_names, staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return plan.top_names


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Check that the disk of `folder`, which need not exist yet, has `needed` bytes free.

    Raises:
        RunError: If it has not.
    """
    existing = next((path for path in (folder, *folder.parents) if path.exists()), Path())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise RunError(
            f"{folder} has too little space for {purpose}: {readable_size(needed)} needed, {readable_size(free)} free.",
            "Free some space or choose a folder on another disk, and run the same command again.",
        )


def readable_size(size: int) -> str:
    """Return a number of bytes as people say it: `213 MB`."""
    amount, unit = float(size), 0
    while amount >= _SHOWN_AS_1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.3g} {_UNITS[unit]}"


def name_problem(name: str) -> str:
    """Return why the name of a member is refused, or nothing if it stays inside any folder it is put in."""
    parts = name.split("/")
    if not name or any(character < _FIRST_PRINTABLE for character in name):
        return "is empty or holds a control character"
    if name.encode(errors="replace").decode() != name:
        return "is not valid Unicode"
    if "\\" in name:
        return "holds a backslash"
    if any(_DRIVE.match(part) for part in parts):
        return "holds a drive letter"
    if name.startswith("/"):
        return "is absolute"
    return "climbs out of its folder" if ".." in parts else ""


_Reader = Callable[[Path, Limits], AbstractContextManager[Iterable[_Member]]]


def _reader(archive: Path) -> _Reader:
    name = archive.name.lower()
    first_volume = archive.with_suffix(".z01")
    if _VOLUME.search(name) or (name.endswith(".zip") and first_volume.exists()):
        raise DataError(
            f"{archive} is one volume of a split zip archive, which Python cannot read.",
            joining_steps(archive.with_suffix(".zip")),
        )
    reader = next((reader for suffix, reader in _READERS.items() if name.endswith(suffix)), None)
    if reader is None:
        raise DataError(f"{archive} is no archive that can be unpacked.", f"Allowed: {', '.join(_READERS)}.")
    return reader


def joining_steps(last_volume: Path) -> str:
    """Return how to join and unpack a split zip archive, as a sentence with commands.

    Args:
        last_volume: The volume that ends in `.zip`.
    """
    joined = last_volume.with_name(f"{last_volume.stem}-joined.zip")
    return (
        f"Join its volumes with Info-ZIP: zip -s 0 '{last_volume}' --out '{joined}', then unzip '{joined}'; "
        f"or unpack them at once: 7z x '{last_volume}'"
    )


@contextmanager
def _zip_members(archive: Path, _limits: Limits) -> Iterator[Iterable[_Member]]:
    with zipfile.ZipFile(archive) as opened:
        yield [_zip_member(opened, info) for info in opened.infolist()]


def _zip_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    # `filename` is already cut at a NUL; the name as it was written is the one to judge.
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    oddity = ""
    if info.flag_bits & _ENCRYPTED:
        oddity = "encrypted"
    elif kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        oddity = "a symbolic link" if kind == stat.S_IFLNK else "a device or another special file"
    return _Member(name, info.file_size, name.endswith("/"), oddity, lambda: opened.open(info))


@contextmanager
def _tar_members(archive: Path, limits: Limits) -> Iterator[Iterable[_Member]]:
    # tarfile stops without a word at some damage, and would unpack a bomb to see its end.
    _unpacked_size(archive, limits)
    with tarfile.open(archive, "r:gz") as opened:
        yield [_tar_member(opened, info) for info in opened]


def _tar_member(opened: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    oddity = ""
    if info.issym() or info.islnk():
        oddity = "a link"
    elif not (info.isreg() or info.isdir()) or info.issparse():
        oddity = "a device or another special file"
    return _Member(info.name, info.size, info.isdir(), oddity, lambda: opened.extractfile(info))


@contextmanager
def _gz_members(archive: Path, limits: Limits) -> Iterator[Iterable[_Member]]:
    size = _unpacked_size(archive, limits)
    yield [_Member(archive.name[: -len(".gz")], size, folder=False, oddity="", open=lambda: _open_gz(archive))]


def _open_gz(archive: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(archive))


_READERS: dict[str, _Reader] = {
    ".zip": _zip_members,
    ".tar.gz": _tar_members,
    ".tgz": _tar_members,
    ".gz": _gz_members,
}


def _unpacked_size(archive: Path, limits: Limits) -> int:
    """Decompress a whole `.gz` file to nowhere; this also checks its checksum."""
    total = 0
    if not archive.stat().st_size:
        # To the gzip module that is a file of no bytes.
        raise _damaged(archive, "it is empty")
    with gzip.open(archive) as stream:
        while chunk := stream.read(_CHUNK):
            total += len(chunk)
            _refuse_bomb(archive, total, limits)
    return total


def _refuse_bomb(archive: Path, total: int, limits: Limits) -> None:
    packed = archive.stat().st_size
    # A tiny archive may hold a few repetitive files without being a bomb.
    allowed = min(limits.max_bytes, max(_CHUNK, int(packed * limits.max_ratio)))
    if total > allowed:
        raise DataError(
            f"{archive} ({readable_size(packed)}) unpacks to {readable_size(total)} or more, which is refused.",
            f"At most {readable_size(limits.max_bytes)} and {limits.max_ratio:.0f} times its own size are "
            "unpacked. If you trust it, unpack it by hand.",
        )


def _chosen(members: Iterable[_Member], only: Sequence[str]) -> Iterator[_Member]:
    return (member for member in members if not only or member.name.startswith(tuple(only)))


def _plan(archive: Path, members: Iterable[_Member], limits: Limits) -> _Plan:
    folders: dict[PurePosixPath, None] = {}
    files: dict[PurePosixPath, _Member] = {}
    total = 0
    for number, member in enumerate(members, start=1):
        path = _checked_path(archive, member)
        total += member.size
        _refuse_bomb(archive, total, limits)
        if number > limits.max_members:
            raise _refused(archive, member.name, f"is more than the {limits.max_members} members allowed")
        if path in files:
            raise _refused(archive, member.name, "is named twice")
        if not member.folder:
            files[path] = member
        elif path.parts:
            folders[path] = None
    _refuse_files_as_folders(archive, folders, files)
    if not files:
        raise DataError(f"{archive} holds none of the files that are looked for.", "Download it again.")
    return _Plan(tuple(folders), tuple(files.items()), total)


def _checked_path(archive: Path, member: _Member) -> PurePosixPath:
    problem = name_problem(member.name) or (f"is {member.oddity}" if member.oddity else "")
    path = PurePosixPath(member.name)
    if not problem and not path.parts and not member.folder:
        problem = "names no file"
    if problem:
        raise _refused(archive, member.name, problem)
    return path


def _refuse_files_as_folders(
    archive: Path, folders: Collection[PurePosixPath], files: Collection[PurePosixPath]
) -> None:
    needed = {*folders, *(parent for path in (*folders, *files) for parent in path.parents)}
    clash = next((path for path in files if path in needed), None)
    if clash is not None:
        raise _refused(archive, str(clash), "is a file and a folder")


def _refused(archive: Path, name: str, problem: str) -> DataError:
    return DataError(
        f"{archive} is refused: its member {name!r} {problem}.",
        "Nothing was unpacked. Download the archive again from its authors; if it is the same, tell them.",
    )


def _refuse_taken(archive: Path, folder: Path, plan: _Plan, replace: Collection[str]) -> None:
    taken = [name for name in plan.top_names if (folder / name).exists() and name not in replace]
    if taken:
        raise DataError(
            f"{archive.name} holds {taken[0]!r}, and {folder / taken[0]} is already there.",
            "Move it away or remove it, and run the same command again.",
        )


def _write(archive: Path, plan: _Plan, staging: Path) -> None:
    staging.mkdir(parents=True)
    for path in plan.folders:
        (staging / path).mkdir(parents=True, exist_ok=True)
    with meter(f"unpack {archive.name}", len(plan.files)) as progress:
        for path, member in plan.files:
            target = staging / path
            target.parent.mkdir(parents=True, exist_ok=True)
            _write_file(archive, member, target)
            progress.advance()


def _write_file(archive: Path, member: _Member, target: Path) -> None:
    written = 0
    source = member.open()
    if source is None:
        raise _refused(archive, member.name, "has no content")
    with source, target.open("xb") as stream:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > member.size:
                break
            stream.write(chunk)
    if written != member.size:
        raise _damaged(archive, f"{member.name!r} has not the {member.size} bytes that were promised")


def _move(names: Sequence[str], staging: Path, folder: Path) -> None:
    retired = staging / "old"
    retired.mkdir()
    for name in names:
        if (folder / name).exists():
            (folder / name).rename(retired / name)
        (staging / "new" / name).rename(folder / name)


@contextmanager
def _explaining(archive: Path, folder: Path) -> Iterator[None]:
    try:
        yield
    except _MALFORMED as error:
        raise _damaged(archive, str(error) or type(error).__name__) from error
    except FileNotFoundError as error:
        raise DataError(f"{archive} is missing.", "Check the path, or download it again.") from error
    except OSError as error:
        # Decompressors report damage as an OSError without a number.
        if error.errno is None:
            raise _damaged(archive, str(error)) from error
        raise RunError(
            f"{archive} cannot be unpacked into {folder}: {error.strerror or error}.",
            "Choose a folder that you may write to, or free some space, and run the same command again.",
        ) from error


def _damaged(archive: Path, reason: str) -> DataError:
    return DataError(
        f"{archive} is damaged or incomplete: {' '.join(reason.split())}.",
        "Nothing was unpacked. Delete the archive and download it again; a volume of a split zip archive "
        "(.z01, .z02, ...) must be joined with the others first: zip -s 0 LAST.zip --out JOINED.zip",
    )
