"""Answers a tab: what may stand at the end of a command line. Imports next to nothing, so that nobody waits."""

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from medbench.tasks.foundation.errors import MedbenchError
from medbench.tasks.foundation.files import read_json_object
from medbench.tasks.foundation.home import medbench_home

LINE, BREAKS = "_MEDBENCH_LINE", "_MEDBENCH_BREAKS"
"""Variables in which a shell says its command line up to the cursor, and where its words break beside spaces."""
FILES, FOLDERS = ":files", ":dirs"
"""Say that the shell knows better: names of files, or of folders."""
_PACKAGE = Path(__file__).resolve().parent.parent.parent
_ROOMS = ("tasks", "adapters", "harness", "leaderboard", "unimed")
_RUN_FILES = ("run.yaml", "results.json")
Answer = tuple[str, str]  # A word, and what it means.


def answer_tab() -> str:
    """Return a line for each word that may come next: the word, a tab, and what it means."""
    line, breaks = os.environ[LINE], os.environ.get(BREAKS, "")
    words, last = split_line(line)
    # Bash replaces what follows the last of its breaks.
    cut = max((last.rfind(mark) for mark in ":=" if mark in breaks), default=-1) + 1
    found = answers(index(), words[1:], last)
    kept = ((word if word in {FILES, FOLDERS} else word[cut:], " ".join(meaning.split())) for word, meaning in found)
    return "".join(f"{word}\t{meaning}\n" for word, meaning in kept)


def split_line(line: str) -> tuple[list[str], str]:
    """Return the words of a line that are complete, and the one that is not, empty if the line ends with a space."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError:
        # A quote is still open.
        words = line.split()
    return (words, "") if not words or line[-1:].isspace() else (words[:-1], words[-1])


def key() -> str:
    """Return what changes when commands, models or plugins may have: dates of our files, and of what was installed."""
    files = (file for room in _ROOMS for file in (_PACKAGE / room).rglob("*.py"))
    newest = max((file.stat().st_mtime_ns for file in files), default=0)
    places = [str(place.stat().st_mtime_ns) for place in map(Path, sys.path) if place.name.endswith("-packages")]
    return f"{newest} {' '.join(places)}"


def index_file() -> Path:
    """Return the file of this installation's index."""
    return medbench_home() / f"completion-{sha256(str(_PACKAGE).encode()).hexdigest()[:8]}.json"


def index() -> Mapping[str, Any]:
    """Return the index, made anew if it is none of these files and plugins."""
    with suppress(MedbenchError):
        found = read_json_object(index_file())
        if found.get("key") == key():
            return found
    made: Mapping[str, Any] = import_module("medbench.harness.completion.index").write_index()
    return made


def answers(known: Mapping[str, Any], words: Sequence[str], last: str) -> Iterator[Answer]:
    """Yield what may stand for the `last` word behind others, the name of the program left out."""
    path, rest = "", list(words)
    while rest and rest[0] in known["groups"].get(path, ()):
        path = f"{path} {rest.pop(0)}".strip()
    options = known["options"].get(path, {})
    pending, used = _read(options, rest)
    if pending is None and last.startswith("--") and "=" in last:
        name, _, value = last.partition("=")
        found = _values(known, options.get(name, {}).get("values"), value, words)
        yield from ((one if one in {FILES, FOLDERS} else f"{name}={one}", meaning) for one, meaning in found)
    elif pending is not None:
        yield from _values(known, options[pending]["values"], last, words)
    elif last.startswith("-"):
        left = ((name, one) for name, one in options.items() if one["multiple"] or one["name"] not in used)
        yield from _beginning(last, ((name, one["help"]) for name, one in left))
    elif path in known["groups"]:
        yield from _beginning(last, known["groups"][path].items())
    else:
        yield from _values(known, known["arguments"].get(path), last, words)


def _read(options: Mapping[str, Any], words: Sequence[str]) -> tuple[str | None, set[str]]:
    """Return the option whose value is to come, if one is, and the names of those that were given."""
    used, left = set[str](), list(words)
    while left:
        name, equals, _ = left.pop(0).partition("=")
        if name in options:
            used.add(options[name]["name"])
            takes = 0 if equals else options[name]["takes"]
            if takes > len(left):
                return name, used
            del left[:takes]
    return None, used


def _beginning(last: str, words: Iterable[Answer]) -> Iterator[Answer]:
    return ((word, meaning) for word, meaning in words if word.startswith(last))


def _values(known: Mapping[str, Any], kind: object, last: str, words: Sequence[str]) -> Iterator[Answer]:
    if isinstance(kind, list):
        return _beginning(last, ((word, "") for word in kind))
    if kind == "tasks":
        before, comma, _ = last.rpartition(",")
        others = ((word, told) for word, told in known["tasks"].items() if word not in before.split(","))
        return _beginning(last, ((f"{before}{comma}{word}", told) for word, told in others))
    if kind == "models":
        return _models(known["models"], last)
    if kind == "arguments":
        return _arguments(known["models"], last, words)
    if kind == "runs":
        return iter(_runs(last) or [(FOLDERS, "")])
    return iter([(str(kind), "")] if kind in {FILES, FOLDERS} else [])


def _models(models: Mapping[str, Any], last: str) -> Iterator[Answer]:
    fitting = [name for name in models if name.startswith(last.partition(":")[0])]
    for name in fitting:
        variants = models[name]["variants"]
        # Where every variant is allowed, a name or an address is to follow.
        alone = f"{name}:" if "*" in variants else name
        own = {f"{name}:{word}": told for word, told in variants.items() if word != "*"} if len(fitting) == 1 else {}
        yield from _beginning(last, {alone: models[name]["title"], **own}.items())


def _arguments(models: Mapping[str, Any], last: str, words: Sequence[str]) -> Iterator[Answer]:
    named = [word.partition("=")[2] or following for word, following in zip(words, [*words[1:], ""], strict=True)
             if word.partition("=")[0] in {"-m", "--model"}]  # fmt: skip
    name, equals, _ = last.partition("=")
    for model in dict.fromkeys(one.partition(":")[0] for one in named):
        arguments = models.get(model, {}).get("arguments", {})
        if equals:
            yield from _beginning(last, ((f"{name}={one}", "") for one in arguments.get(name, {}).get("allowed", ())))
        else:
            yield from _beginning(last, ((f"{word}=", one["help"]) for word, one in arguments.items()))


def _runs(last: str) -> list[Answer]:
    """Return the folders of runs that begin so, and those that hold some with their runs."""
    folder, slash, start = last.rpartition("/")
    found: list[Answer] = []
    for path in _folders(Path(folder + slash)):
        said = f"{folder}{slash}{path.name}"
        inside = [one.name for one in _folders(path) if _is_run(one)] if path.name.startswith(start) else []
        if path.name.startswith(start) and _is_run(path):
            found.append((said, "a run"))
        elif inside:
            found += [(said, f"{len(inside)} runs"), *((f"{said}/{name}", "a run") for name in inside)]
    return found


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def _is_run(path: Path) -> bool:
    return any((path / file).exists() for file in _RUN_FILES)
