"""Archives (`.zip`, `.tar.gz`, `.tgz`) unpacked aside and moved into place whole, or refused with a reason."""

import lzma
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from medbench.tasks.foundation.errors import DataError, RunError

MAX_BYTES = 64 * 2**30  # More than this no archive may hold; the largest that is fetched has 0.2 GB.
_TARS = (".tar.gz", ".tgz")
_OUTSIDE = re.compile(r"/|[A-Za-z]:|.*\\|(.*/)?\.\.(/|$)", re.DOTALL)
_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_SHOWN_AS_1000 = 999.5
# What the readers and the decompressors raise on damaged bytes, and zipfile on what is encrypted.
_MALFORMED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, ValueError, LookupError, OverflowError, RuntimeError),
)


def extract(
    archive: Path, folder: Path, *, only: Sequence[str] = (), replace: Collection[str] = (), max_bytes: int = MAX_BYTES
) -> tuple[str, ...]:
    """Unpack an archive into a folder; each of its top-level entries appears whole or not at all.

    `only` unpacks members whose names start with one of these; `replace` are entries of the folder that may be replaced
    by those of the same name. Returns the names of the top-level entries, sorted. Raises DataError if the archive is of
    another kind, damaged, hostile or too large (`max_bytes`, against bombs), or one of its entries is already there;
    nothing was changed then. Raises RunError if `folder` cannot be written to or has too little space.
    """
    _refuse_other_kinds(archive)
    staging = folder / f".{archive.name}.unpacking"
    new, old = staging / "new", staging / "old"
    with _explained(archive, folder), _opened(archive) as opened:
        sizes = _sizes(opened, only)
        _check(archive, sizes, max_bytes)
        require_space(folder, sum(size for _, size in sizes), f"unpacking {archive.name}")
        # What a killed extraction left is worth nothing.
        shutil.rmtree(staging, ignore_errors=True)
        try:
            old.mkdir(parents=True)
            _unpack(opened, new, {name for name, _ in sizes})
            names = tuple(sorted(path.name for path in new.iterdir()))
            taken = next((name for name in names if name not in replace and (folder / name).exists()), None)
            if taken is not None:
                problem = f"{archive.name} holds {taken!r}, and {folder / taken} is already there."
                raise DataError(problem, "Move it away or remove it, and run the same command again.")
            for name in names:
                if (folder / name).exists():
                    (folder / name).rename(old / name)
                (new / name).rename(folder / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return names


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Check that the disk of `folder`, which need not exist yet, has `needed` bytes free; a RunError if it has not."""
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


def _refuse_other_kinds(archive: Path) -> None:
    name = archive.name.lower()
    if re.search(r"\.z\d\d+$", name) or (name.endswith(".zip") and archive.with_suffix(".z01").exists()):
        last = archive.with_suffix(".zip")
        joined = last.with_name(f"{last.stem}-joined.zip")
        raise DataError(
            f"{archive} is one volume of a split zip archive, which Python cannot read.",
            f"Join its volumes with Info-ZIP: zip -s 0 '{last}' --out '{joined}', then unzip '{joined}'; "
            f"or unpack them at once: 7z x '{last}'",
        )
    if not name.endswith((".zip", *_TARS)):
        raise DataError(f"{archive} is no archive that can be unpacked.", f"Allowed: .zip, {', '.join(_TARS)}.")


def _opened(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    return tarfile.open(archive, "r:gz") if archive.name.lower().endswith(_TARS) else zipfile.ZipFile(archive)


def _sizes(opened: zipfile.ZipFile | tarfile.TarFile, only: Sequence[str]) -> list[tuple[str, int]]:
    """Return name and size of every file that is wanted; zipfile and tarfile unpack no more than this size."""
    if isinstance(opened, zipfile.ZipFile):
        # `filename` is already cut at a NUL; the name as it was written is the one to judge.
        sizes = [(info.orig_filename, info.file_size) for info in opened.infolist() if not info.is_dir()]
    else:
        sizes = [(info.name, info.size) for info in opened.getmembers() if not info.isdir()]
    return [(name, size) for name, size in sizes if not only or name.startswith(tuple(only))]


def _check(archive: Path, sizes: Sequence[tuple[str, int]], max_bytes: int) -> None:
    """Refuse names that lead elsewhere, names that are there twice, and bombs."""
    paths: set[PurePosixPath] = set()
    for name, _ in sizes:
        path = PurePosixPath(name)
        problem = "leads out of its folder" if _OUTSIDE.match(name) else ""
        problem = problem or ("" if path.parts and min(name) >= " " else "is no text")
        if problem or path in paths:
            hint = "Nothing was unpacked. Download the archive again from its authors; if it is the same, tell them."
            raise DataError(f"{archive} is refused: its member {name!r} {problem or 'is named twice'}.", hint)
        paths.add(path)
    if sum(size for _, size in sizes) > max_bytes:
        problem = f"{archive} unpacks to more than {readable_size(max_bytes)}, which is refused."
        raise DataError(problem, "If you trust it, unpack it by hand.")
    if not sizes:
        raise DataError(f"{archive} holds none of the files that are looked for.", "Download it again.")


def _unpack(opened: zipfile.ZipFile | tarfile.TarFile, folder: Path, names: Collection[str]) -> None:
    if isinstance(opened, zipfile.ZipFile):
        for info in opened.infolist():
            if info.orig_filename in names:
                opened.extract(info, folder)
        return
    opened.extractall(folder, [info for info in opened.getmembers() if info.name in names], filter="data")
    # tarfile stops without a word at some damage; the checksum at the end of the file tells.
    while opened.fileobj.read(2**20):
        pass


@contextmanager
def _explained(archive: Path, folder: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{archive} is missing.", "Check the path, or download it again.") from error
    except (OSError, *_MALFORMED) as error:
        # Decompressors report damage as an OSError without a number.
        if isinstance(error, OSError) and error.errno is not None:
            hint = "Choose a folder that you may write to, or free some space, and run the same command again."
            raise RunError(f"{archive} cannot be unpacked into {folder}: {error.strerror or error}.", hint) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{archive} is damaged or incomplete: {reason}.",
            "Nothing was unpacked. Delete the archive and download it again; a volume of a split zip archive "
            "(.z01, .z02, ...) must be joined with the others first: zip -s 0 LAST.zip --out JOINED.zip",
        ) from error
