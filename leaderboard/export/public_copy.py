"""The public copy of a run: what may leave this machine as files, and the way of these files to the Hub.

Nothing is chosen by what a file is called or looks like: every file that goes is made anew here from what was read.
Images, generations as the model wrote them, reports and the data never go.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import httpx2
import yaml
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from medbench.leaderboard.export.public import PATH, PublicRun, public_records, results_text, write_files
from medbench.leaderboard.numbers import make_board
from medbench.leaderboard.pages import board_as_markdown
from medbench.leaderboard.render import WORDING, markdown_text, notes
from medbench.tasks.foundation.errors import RunError
from medbench.tasks.foundation.files import JsonObject, canonical_json, json_lines, read_json
from medbench.tasks.protocols import PROTOCOLS

_PLACES = ("data_dir", "output_dir", "checkpoint", "checkpoint_for")
_OWN_NAMES = frozenset({"results.json", "leaderboard.md", "run.yaml", "env.json", "scores"})
_HEADER = "# The settings of a run as published: paths of the machine were left out.\n"
_FORBIDDEN = 403


class Hub(Protocol):
    """What is used of `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> object:
        """Make a repository, unless it is there."""

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str, repo_type: str) -> object:
        """Add the files of a folder in one commit."""


class LeftOut(NamedTuple):
    """Something of a run that does not go, and why."""

    what: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicCopy:
    """The files that may leave, content by path below a folder of the run's name, and what stays here."""

    files: Mapping[str, str]
    left_out: tuple[LeftOut, ...]


def public_copy(run: PublicRun) -> PublicCopy:
    """Return what of a run may leave this machine, and what does not.

    Raises RunError if scores are missing, or something of this machine would go along; DataError if a file of the run
    is malformed.
    """
    folder = run.scrubber.known(run.path.resolve().name)
    named = {
        "README.md": _readme(run), "results.json": results_text(run.results),
        "leaderboard.md": board_as_markdown(make_board([run.results])), "run.yaml": _settings(run),
        "env.json": canonical_json(_environment(run), indent=2) + "\n",
        **{f"scores/{task}.jsonl": _scores(run, task) for task in run.results.tasks},
    }  # fmt: skip
    files = {f"{folder}/{name}": text for name, text in sorted(named.items())}
    # Each file was cleaned when it was made; this is a last look at what is about to leave.
    for name, text in files.items():
        if run.scrubber.leaks(text):
            raise RunError(
                f"{name} would carry a path or a secret of this machine.", "Report this; nothing was uploaded."
            )
    return PublicCopy(files=files, left_out=_left_out(run))


def _settings(run: PublicRun) -> str:
    given: Mapping[str, Any] = run.settings.get("settings", {})
    kept = {name: value for name, value in given.items() if name not in _PLACES}
    document = run.scrubber.tree({**run.settings, "settings": kept})
    for part in (document["settings"], document.get("identity_of", {})):
        if "model" in part:
            part["model"] = run.results.model.name
    return _HEADER + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _environment(run: PublicRun) -> JsonObject:
    document: JsonObject = run.scrubber.tree(read_json(run.path / "env.json"))
    server = document.get("engine", {}).get("server") if isinstance(document.get("engine"), dict) else None
    if isinstance(server, dict):
        server.pop("host", None)
    return document


def _scores(run: PublicRun, task: str) -> str:
    lines = []
    for record in public_records(run, task):
        texts = {"prediction": record.prediction, "labels": record.labels}
        line: JsonObject = {"sample_id": record.sample_id, "cluster": record.group, "state": record.state}
        line |= {"box": record.box} | (texts if run.shows_texts(task) else dict.fromkeys(texts))
        for protocol in PROTOCOLS:
            line[protocol] = {
                name: {"value": item.value, "statistics": item.statistics}
                for name, item in record.scores(protocol).items()
            }
        lines.append(line)
    return json_lines(lines)


def _readme(run: PublicRun) -> str:
    title = f"# {markdown_text(run.results.model.title)}: medbench run {run.results.run}"
    held_back = "\n".join(f"- {markdown_text(what)}: {markdown_text(why)}" for what, why in _held_back(run))
    parts = [
        title,
        *notes(run.results.notices),
        WORDING["public_files"],
        *(["Not here:", held_back] if held_back else []),
    ]
    return "\n\n".join(parts) + "\n"


def _held_back(run: PublicRun) -> list[LeftOut]:
    what = {"closed": "answers, labels and the names of samples", "no texts": "answers and labels"}
    return [
        LeftOut(f"{what[terms.openness]} in scores/{task}.jsonl", terms.reason)
        for task, terms in run.terms.items()
        if terms.openness in what
    ]


def _left_out(run: PublicRun) -> tuple[LeftOut, ...]:
    given = run.settings.get("settings", {})
    places = [name for name in _PLACES if given.get(name)]
    found = [LeftOut(f"{', '.join(places)} in run.yaml", "paths of this machine")] if places else []
    if PATH in _settings(run):
        found.append(LeftOut("other paths in run.yaml", "paths of this machine"))
    found += _held_back(run)
    found += [
        LeftOut(file.name, WORDING["stays_here"].get(file.name, "not one of the files that are published"))
        for file in sorted(run.path.iterdir())
        if file.name not in _OWN_NAMES
    ]
    return tuple(LeftOut(run.scrubber.known(what), why) for what, why in found)


def upload(copy: PublicCopy, repo: str, hub: Hub, *, private: bool) -> None:
    """Upload a public copy in one commit to a dataset repository `owner/name`, making it if there is none.

    One that is there stays as private as it is. The login is that of the Hub's own command. A RunError says why the Hub
    cannot be reached or refuses.
    """
    try:
        with TemporaryDirectory() as folder:
            write_files(Path(folder), copy.files)
            hub.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
            hub.upload_folder(
                repo_id=repo, folder_path=Path(folder), commit_message="Results of medbench", repo_type="dataset"
            )
    except (
        LocalTokenNotFoundError, HFValidationError, OfflineModeIsEnabled, HfHubHTTPError, httpx2.HTTPError,
    ) as error:  # fmt: skip
        raise RunError(*_explained(error, repo)) from error


def _explained(error: Exception, repo: str) -> tuple[str, str]:
    kept = "Nothing of the run on this machine was changed."
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    told = (error.server_message or "") if isinstance(error, HfHubHTTPError) else ""
    if isinstance(error, LocalTokenNotFoundError) or status == httpx2.codes.UNAUTHORIZED:
        return f"The Hub does not know who you are, so {repo} cannot be written to.", f"Log in: hf auth login. {kept}"
    if status == _FORBIDDEN:
        return (
            f"The Hub does not let you write to {repo}. {told}".strip(),
            f"Use a token with write access to {repo.partition('/')[0]}, or another --repo. {kept}",
        )
    if status == httpx2.codes.NOT_FOUND:
        return f"The Hub has no {repo} that you may see. {told}".strip(), f"Check --repo and your login. {kept}"
    if isinstance(error, OfflineModeIsEnabled):
        return "The Hub is switched off by HF_HUB_OFFLINE.", f"Unset it, then push again. {kept}"
    if status:
        return f"The Hub answered {status} for {repo}. {told}".strip(), f"Try again later. {kept}"
    return f"The Hub cannot be reached: {type(error).__name__}: {error}", f"Check the network, then try again. {kept}"
