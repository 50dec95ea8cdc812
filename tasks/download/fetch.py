"""Native files fetched from where `medbench.tasks.download.sources` says: of one commit, checked and recorded.

huggingface_hub fetches from the Hub and pooch from elsewhere, into a hidden folder. What arrived is compared with the
checksum that the Hub (which huggingface_hub does not compare) or the declaration promises, and only then gets its
name. `download.json` beside the files says what is there. What an interruption keeps: docs/data.md.
"""

import errno
import hashlib
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from huggingface_hub import HfApi, errors, hf_hub_download
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils.sha import git_hash
from pydantic import ConfigDict, TypeAdapter, with_config

from medbench.tasks.download.archives import extract, readable_size, require_space
from medbench.tasks.download.sources import COMMIT, HubSource, WebFile, WebSource, check_revision
from medbench.tasks.foundation.console import say, warn
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.tasks.foundation.files import canonical_json, inside, write_atomically
from medbench.tasks.validation import parse_json_file

_RECORD_NAME, _LOCK_NAME, _STAGING = "download.json", ".download.lock", ".fetching"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|git:[0-9a-f]{40}")
_BRANCH = "main"
_ANSWER_SECONDS = 30.0
_FORBIDDEN, _NOT_FOUND, _UNAUTHORISED = 403, 404, 401
_AGAIN = "run the same command again; finished files are kept."


class DownloadError(MedbenchError):
    """A dataset cannot be fetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A fetched file."""

    revision: str  # Commit or record.
    size: int
    digest: str  # `sha256:`, `md5:` or `git:` (a blob id) with the digits.


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What an archive became."""

    digest: str  # Of the archive.
    names: tuple[str, ...]  # Top-level entries in the folder.


@dataclass(slots=True, kw_only=True)
class Record:
    """The content of `download.json`: whose files of which commit, by path in the folder."""

    source: str
    revision: str
    licence: str
    files: dict[str, Fetched] = field(default_factory=dict)
    unpacked: dict[str, Unpacked] = field(default_factory=dict)

    def has(self, path: str, folder: Path) -> bool:
        """Return whether a fetched file is still there; an archive that was unpacked may be gone."""
        fetched, target = self.files.get(path), inside(folder, path)
        if fetched is None:
            return False
        return (target.is_file() and target.stat().st_size == fetched.size) or self.has_unpacked(path, folder)

    def has_unpacked(self, path: str, folder: Path) -> bool:
        """Return whether everything that an archive became is there."""
        unpacked, fetched = self.unpacked.get(path), self.files.get(path)
        same = unpacked is not None and fetched is not None and unpacked.digest == fetched.digest
        return unpacked is not None and same and all((folder / name).exists() for name in unpacked.names)


for _record in (Fetched, Unpacked, Record):
    with_config(ConfigDict(extra="forbid", strict=True))(_record)


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

    What is there is kept. `revision` is a commit to fetch instead of the recorded or pinned one; `refresh` forgets the
    recorded one and checks every file again; `endpoint` is the Hub's address.

    Raises UsageError if `revision` is no commit or has no effect, or more than `max_bytes` are to be fetched;
    DownloadError if a file cannot be fetched, or is not the one that was promised; DataError if something else is in
    the way in `folder`, or an archive is refused; RunError if `folder` cannot be written to or has too little space.
    """
    if revision is not None:
        check_revision(source, revision)
    if instead := next((name for name in source.instead if (folder / name).exists()), ""):
        say(f"{folder / instead} is there; nothing is fetched.")
        return
    with _alone(folder):
        record = read_record(folder) or Record(source=source.home, revision="", licence=source.licence)
        if record.source != source.home:
            problem = f"{folder} holds files of {record.source}, not of {source.home}."
            raise DataError(problem, f"Choose another folder with --source, or move {folder} away.")
        commit, files = _promised(source, record, HfApi(endpoint=endpoint, library_name="medbench"), revision, refresh)
        missing = [file for file in files if not _is_there(file, record, folder, check=refresh)]
        needed = sum(file.size for file in missing)
        if max_bytes is not None and needed > max_bytes:
            allowed = f"--max-gb {max_bytes / 10**9:g}"
            problem = f"{source.family} would fetch {readable_size(needed)}, more than {allowed} allows."
            raise UsageError(problem, f"If that is what you want, add --max-gb {needed // 10**9 + 1}.")
        require_space(folder, needed, f"downloading {source.family}")
        whole = not missing and all(record.has_unpacked(path, folder) for path in source.unpack)
        record.revision = commit
        for file in files:
            if file in missing:
                _fetch(source, file, commit, folder, endpoint)
            target = inside(folder, file.path)
            size = target.stat().st_size if target.is_file() else file.size
            record.files[file.path] = Fetched(revision=commit, size=size, digest=file.digest)
            _save(folder, record)
        if whole:
            say(f"{folder} is complete: {record.source} at {record.revision}.")
        _unpack_all(source, record, folder)


def read_record(folder: Path) -> Record | None:
    """Return what `download.json` says, or None if there is none. Raises DataError if it is broken."""
    path = folder / _RECORD_NAME
    return parse_json_file(Record, path) if path.exists() else None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / _LOCK_NAME, timeout=0, fallback_to_soft=False)
    with _explained(f"The folder {folder}", ""):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise DataError(f"Another download into {folder} is running.", "Wait for its end.") from error
    try:
        yield
    finally:
        shutil.rmtree(folder / _STAGING, ignore_errors=True)
        lock.release()


def _promised(
    source: HubSource | WebSource, record: Record, hub: HfApi, revision: str | None, refresh: bool
) -> tuple[str, list[WebFile]]:
    """Return commit, sizes and checksums: as declared, as recorded, or else as the Hub tells them."""
    if isinstance(source, WebSource):
        return source.revision, list(source.files)
    recorded = "" if refresh else record.revision
    commit = revision or recorded or source.revision
    known = {path: one for path, one in record.files.items() if one.revision == commit and not refresh}
    if commit and known.keys() >= set(source.paths):
        found = ((path, known[path]) for path in source.paths)
        return commit, [WebFile(path=path, url="", size=one.size, digest=one.digest) for path, one in found]
    if commit == recorded and source.revision not in {None, recorded}:
        say(f"Staying at the recorded commit {recorded}; --refresh goes to {source.revision}.")
    return _asked(source, hub, commit)


def _asked(source: HubSource, hub: HfApi, commit: str | None) -> tuple[str, list[WebFile]]:
    page, asked = f"{hub.endpoint}/datasets/{source.repo}", commit or _BRANCH
    with _explained(f"The dataset {source.repo} at {asked}", page):
        try:
            info = hub.dataset_info(source.repo, revision=asked, files_metadata=True, timeout=_ANSWER_SECONDS)
        # What huggingface_hub raises on an answer that is not the Hub's, such as a login page of a network.
        except (ValueError, KeyError, TypeError) as error:
            hint = "Check HF_ENDPOINT, and whether your network asks you to log in first."
            raise DownloadError(f"{page} gives an answer that is not the Hub's.", hint) from error
    found = str(info.sha)
    if not COMMIT.fullmatch(found) or found != (commit or found):
        problem = f"{page} answers with commit {found!r} to the question for {asked}."
        raise DownloadError(problem, "This is not the Hub, or it is out of order; check HF_ENDPOINT.")
    if commit is None:
        warn(
            f"medbench pins no commit of {source.repo}: the newest one of {_BRANCH}, {found}, is fetched and "
            f"recorded. To get the same files elsewhere: --revision {found}"
        )
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    return found, [_wanted(source.repo, found, path, siblings.get(path)) for path in source.paths]


def _wanted(repo: str, commit: str, path: str, sibling: RepoSibling | None) -> WebFile:
    """Return what the Hub promises: the digest of the content for a large file, else the git blob id."""
    problem, digest, size = "has no file", "", 0
    if sibling is not None:
        large = sibling.lfs
        digest = f"sha256:{large.sha256}" if large else f"git:{sibling.blob_id}"
        size = (large.size if large else sibling.size) or 0
        problem = "" if _DIGEST.fullmatch(digest) and size > 0 else "tells no checksum or size for"
    if problem:
        problem = f"{repo} at {commit} {problem} {path!r}."
        raise DownloadError(problem, "Choose another commit with --revision, and tell the authors of medbench.")
    return WebFile(path=path, url="", size=size, digest=digest)


def _is_there(file: WebFile, record: Record, folder: Path, *, check: bool) -> bool:
    """Return whether a file need not be fetched; a DataError if another one is there that no download put there."""
    target, fetched = inside(folder, file.path), record.files.get(file.path)
    if fetched is not None and not (check and target.is_file()):
        return fetched.digest == file.digest and record.has(file.path, folder)
    if not target.exists():
        return False
    same = target.is_file() and _digest(target, file.digest) == file.digest
    if not same and fetched is None:
        problem = f"{target} is already there, and it is not the file that is to be fetched ({file.digest})."
        raise DataError(problem, "Move it away, and run the same command again.")
    return same


def _fetch(source: HubSource | WebSource, file: WebFile, commit: str, folder: Path, endpoint: str | None) -> None:
    """Fetch one file into the hidden folder, and give it its name if it is the one that was promised."""
    target, staging = inside(folder, file.path), folder / _STAGING
    page = f"https://{'huggingface.co/datasets/' if isinstance(source, HubSource) else ''}{source.home}"
    with _explained(f"{file.path} of {page}", page):
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, HubSource):
            where: dict[str, Any] = {"repo_type": "dataset", "local_dir": staging, "endpoint": endpoint}
            found = Path(hf_hub_download(source.repo, file.path, revision=commit, library_name="medbench", **where))
        else:
            found = _from_web(file, staging)
        digest = _digest(found, file.digest)
        if digest == file.digest:
            found.replace(target)
    if digest != file.digest:
        raise DownloadError(
            f"{file.path} arrived with the checksum {digest}, not {file.digest}; it was thrown away.",
            "Run the same command again. If it ends in the same way, the file was changed where it comes from.",
        )
    say(f"{file.path}: {readable_size(file.size)}, checksum right")


def _from_web(file: WebFile, folder: Path) -> Path:
    import pooch  # It brings an HTTP client of its own, which what comes from the Hub does not need.

    pooch.get_logger().setLevel(logging.WARNING)
    fetcher = pooch.HTTPDownloader(progressbar=True, timeout=_ANSWER_SECONDS)
    return Path(pooch.retrieve(file.url, None, fname=Path(file.path).name, path=folder, downloader=fetcher))


def _digest(path: Path, like: str) -> str:
    """Return the digest of a file in the form of another: `sha256:...`, `md5:...` or `git:...`."""
    kind = like.partition(":")[0]
    if kind == "git":
        # Only small files are no large ones.
        return f"git:{git_hash(path.read_bytes())}"
    with path.open("rb") as stream:
        return f"{kind}:{hashlib.file_digest(stream, kind).hexdigest()}"


def _unpack_all(source: HubSource | WebSource, record: Record, folder: Path) -> None:
    for path, only in source.unpack.items():
        if record.has_unpacked(path, folder):
            continue
        # What an earlier call unpacked from it may be replaced, and nothing else.
        ours = record.unpacked[path].names if path in record.unpacked else ()
        names = extract(inside(folder, path), folder, only=only, replace=ours)
        record.unpacked[path] = Unpacked(digest=record.files[path].digest, names=names)
        _save(folder, record)
        say(f"{path} is unpacked to {', '.join(names)} in {folder}; the archive itself is no longer needed.")


def _save(folder: Path, record: Record) -> None:
    text = canonical_json(TypeAdapter(Record).dump_python(record, mode="json"), indent=2)
    write_atomically(folder / _RECORD_NAME, f"{text}\n")


@contextmanager
def _explained(what: str, page: str) -> Iterator[None]:
    """Tell what both clients and the disk raise (all are HTTPError or OSError) as a problem with a next step."""
    try:
        yield
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]  # imported there, not listed
        problem, hint = _problem_and_hint(error, page)
        raise DownloadError(f"{what} {problem}.", hint) from error


def _problem_and_hint(error: Exception, page: str) -> tuple[str, str]:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return _refusal(error, status, page)
    if isinstance(error, errors.OfflineModeIsEnabled):
        problem = "cannot be fetched: HF_HUB_OFFLINE is set"
        return problem, "Unset it, or download on another machine and copy the folder, download.json included."
    if not isinstance(error, OSError) or error.errno is None:
        return f"cannot be reached: {str(error) or type(error).__name__}", f"Check your connection and {_AGAIN}"
    hint = "Free some space" if error.errno == errno.ENOSPC else "Choose a folder that you may write to with --source"
    return f"cannot be written: {error.strerror or error}", f"{hint}, and {_AGAIN}"


def _refusal(error: Exception, status: int, page: str) -> tuple[str, str]:
    if isinstance(error, errors.RevisionNotFoundError):
        return "does not exist: there is no such commit", f"Look at {page}/commits/main."
    if isinstance(error, errors.GatedRepoError) or status == _FORBIDDEN:
        problem = f"is open only to those who accepted its conditions (HTTP status {status})"
        return problem, f"Accept them at {page}, log in (for the Hub: `hf auth login`), and {_AGAIN}"
    if status in {_UNAUTHORISED, _NOT_FOUND}:
        problem = f"is not there, or not without logging in (HTTP status {status})"
        return problem, f"Look at {page}. If it was moved, get the files by hand and use `medbench data prepare`."
    return f"cannot be fetched: the server answers with HTTP status {status}", f"Wait, and {_AGAIN}"
