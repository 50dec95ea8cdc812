"""Native files fetched from where `tasks.download.sources` says: of one commit, each one checked, resumable, recorded.

A file grows under a hidden name that carries its checksum, is checked, and only then gets its own name. What
was fetched stands in `download.json` beside it, so that a second call needs no network and later calls stay at
the same commit.

Client, addresses, headers, retries and errors are those of huggingface_hub. Its `hf_hub_download` is not used:
it throws an interrupted file away, and it does not compare what arrived with the checksum that the Hub tells.
"""

import errno
import hashlib
import io
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is imported there, not listed
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import DatasetInfo, RepoSibling
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # exported when asked for
from pydantic import ConfigDict, TypeAdapter, with_config

from medbench.tasks.download.archives import extract, readable_size, require_space
from medbench.tasks.download.sources import HubSource, WebSource, substitute
from medbench.tasks.foundation.console import Meter, meter, say, warn
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.tasks.foundation.files import canonical_json, inside, write_atomically
from medbench.tasks.validation import parse_json_file

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

RECORD_NAME = "download.json"

_LIBRARY = "medbench"
_LOCK_NAME = ".download.lock"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|git:[0-9a-f]{40}")
_BRANCH = "main"
_ANSWER_SECONDS = 30.0
_CHUNK = 2**20
_MEGABYTE = 10**6
_FORBIDDEN, _NOT_FOUND, _UNAUTHORISED = 403, 404, 401

# What huggingface_hub raises on an answer that is not the Hub's, such as a login page of a network.
_UNINTELLIGIBLE = (ValueError, KeyError, TypeError)


class DownloadError(MedbenchError):
    """A dataset cannot be fetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A file that was fetched and checked.

    Attributes:
        revision: The commit (or record) it belongs to.
        size: Bytes.
        digest: `sha256:`, `md5:` or `git:` (a git blob id) and the hex digits.
    """

    revision: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What an archive became: its digest, and the names of its top-level entries in the folder."""

    digest: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The content of `download.json`.

    Attributes:
        source: The repository on the Hub, or whose files they are.
        revision: The commit (or record) that is there or was begun.
        licence: As the source declares it.
        files: What was fetched, by path in the folder.
        unpacked: What was unpacked, by path of the archive.
    """

    source: str
    revision: str
    licence: str
    files: Mapping[str, Fetched] = field(default_factory=dict)
    unpacked: Mapping[str, Unpacked] = field(default_factory=dict)


for _record in (Fetched, Unpacked, Record):
    with_config(ConfigDict(extra="forbid", strict=True))(_record)

_RECORD = TypeAdapter(Record)


@dataclass(frozen=True, slots=True)
class _Wanted:
    path: str
    url: str
    size: int
    digest: str

    def partial(self, folder: Path) -> Path:
        """Where the file grows; another content grows elsewhere."""
        target = inside(folder, self.path)
        return target.with_name(f".{target.name}.{self.digest.rpartition(':')[2][:12]}.partial")


@dataclass(frozen=True, slots=True)
class _Plan:
    revision: str
    files: tuple[_Wanted, ...]
    headers: Mapping[str, str]
    page: str


def download(
    source: HubSource | WebSource,
    folder: Path,
    *,
    revision: str | None = None,
    refresh: bool = False,
    max_bytes: int | None = None,
    endpoint: str | None = None,
) -> None:
    """Fetch the files of a source into a folder, unpack its archives, and record both.

    Files that are there already are kept, interrupted ones are continued.

    Args:
        source: Where from.
        folder: The folder of this dataset.
        revision: Commit to fetch instead of the recorded or pinned one; 40 hex digits, Hub only.
        refresh: Whether to forget the recorded commit and to check every file again.
        max_bytes: Refuse to fetch more than this.
        endpoint: Address of the Hub; huggingface_hub's own by default.

    Raises:
        UsageError: If `revision` is no commit or has no effect, or more than `max_bytes` are to be fetched.
        DownloadError: If a file cannot be fetched, or is not the one that was promised.
        DataError: If something else is in the way in `folder`, or an archive is refused.
        RunError: If `folder` cannot be written to or has too little space.
    """
    _check_revision(source, revision)
    stand_in = substitute(source, folder)
    if stand_in:
        say(f"{folder / stand_in} is there; nothing is fetched.")
        return
    with _alone(folder):
        record = _own_record(source, folder)
        if record is not None and not refresh and _is_whole(source, record, folder, revision):
            say(f"{folder} is complete: {record.source} at {record.revision}.")
            return
        plan = _plan(source, _chosen_revision(source, record, revision, refresh=refresh), endpoint)
        record = replace(record or _new_record(source), revision=plan.revision)
        missing = [file for file in plan.files if not _is_there(file, record, folder, check=refresh)]
        _refuse_too_much(source, missing, folder, max_bytes)
        _save(folder, record)
        record = _fetch_all(plan, missing, record, folder)
        _unpack_all(source, record, folder)


def read_record(folder: Path) -> Record | None:
    """Return what `download.json` says, or None if there is none.

    Raises:
        DataError: If it is broken.
    """
    path = folder / RECORD_NAME
    return parse_json_file(_RECORD, path) if path.exists() else None


def source_name(source: HubSource | WebSource) -> str:
    """Return the repository on the Hub, or whose files they are."""
    return source.repo if isinstance(source, HubSource) else source.home


def _check_revision(source: HubSource | WebSource, revision: str | None) -> None:
    if revision is None:
        return
    if isinstance(source, WebSource):
        raise UsageError(
            f"--revision has no effect on {source.family}: it comes from {source.home}, not from the Hub.",
            "Leave it out; these files are pinned by their checksums.",
        )
    if not _COMMIT.fullmatch(revision):
        raise UsageError(
            f"--revision {revision!r} is no commit.",
            f"Give the 40 hex digits, as listed at https://huggingface.co/datasets/{source.repo}/commits/main.",
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with _explaining(f"The folder {folder}", ""):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK_NAME, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise DataError(f"Another download into {folder} is running.", "Wait for its end.") from error
    try:
        yield
    finally:
        lock.release()


def _own_record(source: HubSource | WebSource, folder: Path) -> Record | None:
    record = read_record(folder)
    if record is not None and record.source != source_name(source):
        raise DataError(
            f"{folder} holds files of {record.source}, not of {source_name(source)}.",
            f"Choose another folder with --source, or move {folder} away.",
        )
    return record


def _new_record(source: HubSource | WebSource) -> Record:
    return Record(source=source_name(source), revision="", licence=source.licence)


def _save(folder: Path, record: Record) -> None:
    text = canonical_json(_RECORD.dump_python(record, mode="json"), indent=2)
    write_atomically(folder / RECORD_NAME, f"{text}\n")


def _is_whole(source: HubSource | WebSource, record: Record, folder: Path, revision: str | None) -> bool:
    wanted = source.revision if isinstance(source, WebSource) else revision or record.revision
    paths = source.files if isinstance(source, HubSource) else tuple(file.path for file in source.files)
    current = (path in record.files and record.files[path].revision == wanted for path in paths)
    unpacked = all(_is_unpacked(path, record, folder) for path in _archives(source))
    return all(current) and unpacked and all(_is_kept(path, record, folder) for path in paths)


def _archives(source: HubSource | WebSource) -> Mapping[str, tuple[str, ...]]:
    return source.unpack if isinstance(source, HubSource) else {}


def _is_kept(path: str, record: Record, folder: Path) -> bool:
    """Whether a fetched file is still there; an archive that was unpacked may be gone."""
    target = inside(folder, path)
    return (target.is_file() and target.stat().st_size == record.files[path].size) or _is_unpacked(path, record, folder)


def _is_unpacked(path: str, record: Record, folder: Path) -> bool:
    unpacked, fetched = record.unpacked.get(path), record.files.get(path)
    if unpacked is None or fetched is None or unpacked.digest != fetched.digest:
        return False
    return all((folder / name).exists() for name in unpacked.names)


def _chosen_revision(
    source: HubSource | WebSource, record: Record | None, revision: str | None, *, refresh: bool
) -> str | None:
    if isinstance(source, WebSource) or revision is not None:
        return revision
    if record is None or refresh or not record.revision:
        return source.revision
    if source.revision not in {None, record.revision}:
        say(f"Staying at the recorded commit {record.revision}; --refresh goes to {source.revision}.")
    return record.revision


def _plan(source: HubSource | WebSource, revision: str | None, endpoint: str | None) -> _Plan:
    if isinstance(source, HubSource):
        return _hub_plan(source, revision, endpoint)
    files = tuple(_Wanted(file.path, file.url, file.size, file.digest) for file in source.files)
    return _Plan(source.revision, files, {}, f"https://{source.home}")


def _hub_plan(source: HubSource, revision: str | None, endpoint: str | None) -> _Plan:
    hub = HfApi(endpoint=endpoint, library_name=_LIBRARY)
    page = f"{hub.endpoint}/datasets/{source.repo}"
    info = _dataset_info(hub, source.repo, revision or _BRANCH, page)
    commit = str(info.sha)
    if not _COMMIT.fullmatch(commit) or commit != (revision or commit):
        raise DownloadError(
            f"{page} answers with commit {commit!r} to the question for {revision or _BRANCH}.",
            "This is not the Hub, or it is out of order; check HF_ENDPOINT.",
        )
    if revision is None:
        warn(
            f"medbench pins no commit of {source.repo}: the newest one of {_BRANCH}, {commit}, is fetched and "
            f"recorded. To get the same files elsewhere: --revision {commit}"
        )
    siblings = {str(sibling.rfilename): sibling for sibling in info.siblings or ()}
    files = tuple(_wanted(source, path, siblings.get(path), commit, hub.endpoint) for path in source.files)
    return _Plan(commit, files, build_hf_headers(library_name=_LIBRARY), page)


def _dataset_info(hub: HfApi, repo: str, revision: str, page: str) -> DatasetInfo:
    with _explaining(f"The dataset {repo} at {revision}", page):
        try:
            return hub.dataset_info(repo, revision=revision, files_metadata=True, timeout=_ANSWER_SECONDS)
        except _UNINTELLIGIBLE as error:
            raise DownloadError(
                f"{page} gives an answer that is not the Hub's.",
                "Check HF_ENDPOINT, and whether your network asks you to log in first.",
            ) from error


def _wanted(source: HubSource, path: str, sibling: RepoSibling | None, commit: str, endpoint: str) -> _Wanted:
    digest, size = _promised(sibling) if sibling is not None else ("", 0)
    if not digest:
        problem = "has no file" if sibling is None else "tells no checksum or size for"
        raise DownloadError(
            f"{source.repo} at {commit} {problem} {path!r}.",
            "Choose another commit with --revision, and tell the authors of medbench.",
        )
    url = hf_hub_url(source.repo, path, repo_type="dataset", revision=commit, endpoint=endpoint)
    return _Wanted(path, url, size, digest)


def _promised(sibling: RepoSibling) -> tuple[str, int]:
    """Return digest and size that the Hub tells: of the content for a large file, else the git blob id.

    Both are empty if one of them is not of its form: the digest becomes part of a file's name.
    """
    large = sibling.lfs
    digest = f"sha256:{large.sha256}" if large is not None else f"git:{sibling.blob_id}"
    size: object = large.size if large is not None else sibling.size
    if _DIGEST.fullmatch(digest) and isinstance(size, int) and size > 0:
        return digest, size
    return "", 0


def _is_there(file: _Wanted, record: Record, folder: Path, *, check: bool) -> bool:
    """Whether a file need not be fetched.

    Raises:
        DataError: If there is another file of this name that no download put there.
    """
    target, fetched = inside(folder, file.path), record.files.get(file.path)
    if fetched is not None and not (check and target.is_file()):
        return fetched.digest == file.digest and _is_kept(file.path, record, folder)
    if not target.exists():
        return False
    same = target.is_file() and _digest(target, file.digest) == file.digest
    if not same and fetched is None:
        raise DataError(
            f"{target} is already there, and it is not the file that is to be fetched ({file.digest}).",
            "Move it away, and run the same command again.",
        )
    return same


def _refuse_too_much(
    source: HubSource | WebSource, missing: Collection[_Wanted], folder: Path, max_bytes: int | None
) -> None:
    there = sum(partial.stat().st_size for file in missing if (partial := file.partial(folder)).exists())
    needed = max(0, sum(file.size for file in missing) - there)
    if max_bytes is not None and needed > max_bytes:
        raise UsageError(
            f"{source.family} would fetch {readable_size(needed)}, more than --max-gb {max_bytes / 10**9:g} allows.",
            f"If that is what you want, add --max-gb {needed // 10**9 + 1}.",
        )
    require_space(folder, needed, f"downloading {source.family}")


def _fetch_all(plan: _Plan, missing: Collection[_Wanted], record: Record, folder: Path) -> Record:
    for file in plan.files:
        if file in missing:
            _fetch(file, plan, folder)
        fetched = Fetched(revision=plan.revision, size=_size(file, folder), digest=file.digest)
        record = replace(record, files={**record.files, file.path: fetched})
        _save(folder, record)
    return record


def _size(file: _Wanted, folder: Path) -> int:
    target = inside(folder, file.path)
    return target.stat().st_size if target.is_file() else file.size


def _fetch(file: _Wanted, plan: _Plan, folder: Path) -> None:
    target, partial = inside(folder, file.path), file.partial(folder)
    with _explaining(f"{file.path} of {plan.page}", plan.page):
        target.parent.mkdir(parents=True, exist_ok=True)
        _stream(file, partial, plan.headers)
        found = _digest(partial, file.digest)
        if found != file.digest:
            partial.unlink()
            raise DownloadError(
                f"{file.path} arrived with the checksum {found}, not {file.digest}; it was thrown away.",
                "Run the same command again. If it ends in the same way, the file was changed where it comes from.",
            )
        partial.replace(target)
    say(f"{file.path}: {readable_size(file.size)}, checksum right")


def _stream(file: _Wanted, partial: Path, headers: Mapping[str, str]) -> None:
    done = partial.stat().st_size if partial.exists() else 0
    if done > file.size:
        partial.unlink()
        done = 0
    if done == file.size and done:
        return
    if done:
        say(f"{file.path}: {readable_size(done)} are there, going on")
    # A compressed answer has other offsets than the file.
    asked = {**headers, "Accept-Encoding": "identity"}
    total = file.size // _MEGABYTE
    with (
        meter(f"{file.path} (MB)", total, done=done // _MEGABYTE) as progress,
        _Metered(partial, progress) as stream,
    ):
        http_get(file.url, stream, resume_size=done, headers=asked)


class _Metered(io.BufferedWriter):
    """A file that is appended to and shows its length in megabytes."""

    def __init__(self, path: Path, progress: Meter) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._progress = progress
        self._shown = self.tell() // _MEGABYTE

    def write(self, buffer: "ReadableBuffer", /) -> int:
        """Append `buffer`."""
        written = super().write(buffer)
        length = self.tell() // _MEGABYTE
        if length != self._shown:
            self._progress.advance(length - self._shown)
            self._shown = length
        return written


def _digest(path: Path, like: str) -> str:
    """Return the digest of a file in the form of another: `sha256:...`, `md5:...` or `git:...`."""
    kind = like.partition(":")[0]
    digest = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
    if kind == "git":
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return f"{kind}:{digest.hexdigest()}"


def _unpack_all(source: HubSource | WebSource, record: Record, folder: Path) -> None:
    for path, only in _archives(source).items():
        if _is_unpacked(path, record, folder):
            continue
        ours = record.unpacked[path].names if path in record.unpacked else ()
        names = extract(inside(folder, path), folder, only=only, replace=ours)
        unpacked = Unpacked(digest=record.files[path].digest, names=names)
        record = replace(record, unpacked={**record.unpacked, path: unpacked})
        _save(folder, record)
        say(f"{path} is unpacked to {', '.join(names)} in {folder}; the archive itself is no longer needed.")


@contextmanager
def _explaining(what: str, page: str) -> Iterator[None]:
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise DownloadError(
            f"{what} cannot be fetched: HF_HUB_OFFLINE is set.",
            "Unset it, or download on another machine and copy the folder, download.json included.",
        ) from error
    except HfHubHTTPError as error:
        raise _refusal(what, page, error) from error
    except HTTPError as error:
        raise DownloadError(
            f"{what} cannot be reached: {str(error) or type(error).__name__}.",
            "Check your connection and run the same command again; it goes on where it stopped.",
        ) from error
    except OSError as error:
        raise _disk_error(what, error) from error


def _refusal(what: str, page: str, error: HfHubHTTPError) -> DownloadError:
    status = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return DownloadError(f"{what} does not exist: there is no such commit.", f"Look at {page}/commits/main.")
    if isinstance(error, GatedRepoError) or status == _FORBIDDEN:
        return DownloadError(
            f"{what} is open only to those who accepted its conditions (HTTP status {status}).",
            f"Accept them at {page}, log in (for the Hub: `hf auth login`), and run the same command again.",
        )
    if status in {_UNAUTHORISED, _NOT_FOUND}:
        return DownloadError(
            f"{what} is not there, or not without logging in (HTTP status {status}).",
            f"Look at {page}. If it was moved, get the files by hand and use `medbench data prepare`.",
        )
    return DownloadError(
        f"{what} cannot be fetched: the server answers with HTTP status {status}.",
        "Run the same command again later; it goes on where it stopped.",
    )


def _disk_error(what: str, error: OSError) -> DownloadError:
    if error.errno is None:
        return DownloadError(
            f"{what} did not arrive whole.", "Run the same command again; it goes on where it stopped."
        )
    hint = "Free some space" if error.errno == errno.ENOSPC else "Choose a folder that you may write to with --source"
    return DownloadError(
        f"{what} cannot be written: {error.strerror or error}.", f"{hint}, and run the same command again."
    )
