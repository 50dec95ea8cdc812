"""A small server on this machine that plays the Hugging Face Hub, and another host behind it."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from threading import Event
from typing import Any
from urllib.parse import unquote, urlsplit


def zipped(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass
class Wish:
    """How the server is to behave.

    Attributes:
        status: Answer every question for the dataset with this status.
        error: The `X-Error-Code` of that answer.
        corrupt: Files whose content is not the one that was promised.
        stall_at: Stop sending any file after so many bytes, until `go_on` is set.
        no_checksums: Tell no checksums.
        answer: Answer questions for the dataset with this text.
        sha: Name this commit, whatever was asked for.
        sha256: Promise this content.
    """

    status: int = 0
    error: str = ""
    corrupt: tuple[str, ...] = ()
    stall_at: int = 0
    no_checksums: bool = False
    answer: str = ""
    sha: str = ""
    sha256: str = ""


@dataclass
class Hub:
    """A Hub with some repositories of some commits, which sends large files from another host, and files in /web/."""

    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    main: dict[str, str] = field(default_factory=dict)
    web: dict[str, bytes] = field(default_factory=dict)
    wish: Wish = field(default_factory=Wish)
    url: str = ""
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    stalled: Event = field(default_factory=Event)
    go_on: Event = field(default_factory=Event)

    def add(self, repo: str, commit: str, files: dict[str, bytes]) -> None:
        self.commits.setdefault(repo, {})[commit] = files
        self.main[repo] = commit

    def info(self, repo: str, commit: str) -> dict[str, Any]:
        files = self.commits[repo][commit]
        siblings = [self._sibling(name, content) for name, content in files.items()]
        return {"id": repo, "sha": self.wish.sha or commit, "siblings": siblings}

    def _sibling(self, name: str, content: bytes) -> dict[str, Any]:
        sibling: dict[str, Any] = {"rfilename": name, "size": len(content)}
        if self.wish.no_checksums:
            return sibling
        sibling["blobId"] = blob_id(content)
        if not name.endswith(".json"):
            digest = self.wish.sha256 or hashlib.sha256(content).hexdigest()
            lfs = {"size": len(content), "sha256": digest, "pointerSize": 130}
            sibling = {**sibling, "blobId": blob_id(b"pointer"), "lfs": lfs}
        return sibling

    def fetched(self) -> list[str]:
        """The names of the files that were asked for."""
        found = [path.rpartition("/")[2] for _, path, _ in self.seen if path.startswith("/datasets/")]
        return sorted(set(found))


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        del format, arguments

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.seen.append((self.command, path, {name.lower(): value for name, value in self.headers.items()}))
        parts = path.strip("/").split("/")
        if parts[0] == "web":
            self.send_file(parts[-1], self.hub.web.get(parts[-1]), "", with_body=with_body)
            return
        if self.hub.wish.status or "datasets" not in parts:
            self.refuse(self.hub.wish.status or 404, self.hub.wish.error)
            return
        place = parts.index("datasets") + 1
        repo, commit = "/".join(parts[place : place + 2]), parts[place + 3]
        commit = self.hub.main.get(repo, "") if commit == "main" else commit
        if repo not in self.hub.commits:
            self.refuse(404, "RepoNotFound")
        elif commit not in self.hub.commits[repo]:
            self.refuse(404, "RevisionNotFound")
        elif parts[0] == "api":
            self.send_whole((self.hub.wish.answer or json.dumps(self.hub.info(repo, commit))).encode(), {})
        elif parts[0] == "datasets" and not path.endswith(".json"):
            content = self.hub.commits[repo][commit].get(path.partition(f"/resolve/{commit}/")[2], b"")
            self.redirect(f"http://localhost:{urlsplit(self.hub.url).port}/cdn{path}?signature=secret", commit, content)
        else:
            name = path.partition(f"/resolve/{commit}/")[2]
            self.send_file(name, self.hub.commits[repo][commit].get(name), commit, with_body=with_body)

    def send_file(self, name: str, content: bytes | None, commit: str, *, with_body: bool) -> None:
        if content is None:
            self.refuse(404, "EntryNotFound")
            return
        if name in self.hub.wish.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"ETag": f'"{blob_id(content)}"', "X-Repo-Commit": commit}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send_whole(content[start:], headers, status=206 if start else 200, with_body=with_body)

    def send_whole(
        self, content: bytes, headers: Mapping[str, str], *, status: int = 200, with_body: bool = True
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        stall_at = self.hub.wish.stall_at
        if with_body and stall_at and len(content) > stall_at:
            self.wfile.write(content[:stall_at])
            self.wfile.flush()
            self.hub.stalled.set()
            self.hub.go_on.wait(60)
            self.close_connection = True
        elif with_body:
            self.wfile.write(content)

    def redirect(self, address: str, commit: str, content: bytes) -> None:
        self.send_response(302)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Linked-ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Location", address)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
