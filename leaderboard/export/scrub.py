"""Takes paths of the machine, addresses of servers and secrets out of what is to be passed on."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit

PATH = "[path]"
SERVER = "[server]"
SECRET = "[secret]"
# Hosts that everybody knows; the name of any other says something about who ran the model.
_PUBLIC_HOSTS = frozenset(
    {
        "api.anthropic.com", "api.deepseek.com", "api.mistral.ai", "api.openai.com", "api.together.xyz", "arxiv.org",
        "doi.org", "generativelanguage.googleapis.com", "github.com", "huggingface.co", "openrouter.ai",
        "physionet.org", "router.huggingface.co", "zenodo.org",
    }
)  # fmt: skip
_URL = r"(?P<url>\b[a-z][a-z0-9+.-]*://[^\s'\"<>|]*)"
# From the root of a disk, the home, or a Windows drive; what stands before it may be `name:` or punctuation.
_ABSOLUTE = (
    r"(?P<path>(?<![\w.~/\\-])(?:file:)?(?:~|[A-Za-z]:(?=[\\/]))?(?:\\\\|[/\\])(?=[\w.~$%@-])[^\s'\"<>|,;()\[\]{}]*)"
)
_SOMEWHERE = re.compile(f"{_URL}|{_ABSOLUTE}", re.IGNORECASE)
_WHOLLY = re.compile(
    r"(?!(?!file:)[a-z][a-z0-9+.-]*://)(?P<before>(?:(?!file:)[\w-]{2,}:)?)"
    r"(?P<path>(?:file:)?(?:~(?=[/\\])|[A-Za-z]:(?=[\\/]))?[/\\][\w.~$%@\\/-].*)",
    re.DOTALL | re.IGNORECASE,
)
_KEYS = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16})\b")
_SECRET_NAME = re.compile(
    r"(?:.*[_\- ])?(?:token|secret|password|passwd|api[_-]?key|key|authorization|bearer)", re.IGNORECASE
)
_SHORTEST_SECRET = 8
_SHORTEST_ROOT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrubber:
    """What is known of this machine that nobody else needs: folders, the longest first, and secrets."""

    roots: tuple[str, ...]
    secrets: tuple[str, ...]

    def known(self, text: str) -> str:
        """Return a text of a model or a dataset without what is known of this machine; the rest is left as it is."""
        for secret in self.secrets:
            text = text.replace(secret, SECRET)
        for root in self.roots:
            text = re.sub(rf"{re.escape(root)}(?![\w-])[^\s'\"<>|,;]*", PATH, text)
        return _KEYS.sub(SECRET, text)

    def text(self, text: str) -> str:
        """Return a text of a setting or a notice without any absolute path, server or secret."""
        text = self.known(text)
        whole = _WHOLLY.fullmatch(text)
        if whole is not None:
            return whole["before"] + PATH
        return _SOMEWHERE.sub(_without_place, text)

    def tree(self, value: Any) -> Any:  # noqa: ANN401 - whatever JSON can hold
        """Return plain values without paths, servers and secrets; what a secret's name stands for is left out."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {
                self.text(str(name)): SECRET if _SECRET_NAME.fullmatch(str(name)) and one else self.tree(one)
                for name, one in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.tree(one) for one in value]
        return value

    def model(self, name: str) -> str:
        """Return the name of a model that was given as a path by the path's last part, and without its server."""
        model, mark, server = name.partition("@http")
        whole = _WHOLLY.fullmatch(model)
        if whole is not None:
            path = whole["path"].rstrip("/\\")
            last = PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name
            model = whole["before"] + (last or PATH)
        return self.text(f"{model}@http{server}" if mark else model)

    def leaks(self, text: str) -> tuple[str, ...]:
        """Return what of this machine is still in a text that is about to leave it."""
        found = [root for root in self.roots if re.search(rf"{re.escape(root)}(?![\w-])", text)]
        return (*found, *(SECRET for secret in self.secrets if secret in text), *(SECRET for _ in _KEYS.finditer(text)))


def _without_place(found: re.Match[str]) -> str:
    if found["url"] is None or found["url"].lower().startswith("file:"):
        return PATH
    try:
        host = (urlsplit(found["url"]).hostname or "").lower()
    except ValueError:
        return SERVER
    return found["url"].partition("?")[0] if host in _PUBLIC_HOSTS and "@" not in found["url"] else SERVER


def machine_scrubber(paths: Iterable[Path], environment: Mapping[str, str] | None = None) -> Scrubber:
    """Return what is known of this machine: a run's paths, home, working folder, secrets of the shell."""
    variables = os.environ if environment is None else environment
    places = {str(path.absolute()) for path in paths} | {str(Path.cwd()), str(Path.home())}
    places |= {str(Path(place).resolve()) for place in places}
    secrets = {value for name, value in variables.items() if _SECRET_NAME.fullmatch(name)}
    return Scrubber(
        roots=tuple(sorted((p for p in places if len(p) >= _SHORTEST_ROOT), key=lambda place: (-len(place), place))),
        secrets=tuple(sorted(secret for secret in secrets if len(secret) >= _SHORTEST_SECRET)),
    )
