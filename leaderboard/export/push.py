"""A run's results in a dataset repository on the Hub: what would go there, and the way there.

Nothing is chosen by what a file is called or looks like: every file that goes is made anew here from what was read.
Images, generations as the model wrote them, reports and the data never go.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import httpx2
import yaml
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from medbench.leaderboard.board import make_board
from medbench.leaderboard.export.public import PublicRun, PublicScore, read_public_scores, results_text
from medbench.leaderboard.export.scrub import PATH
from medbench.leaderboard.markdown import markdown_text, render_markdown
from medbench.tasks.foundation.errors import RunError
from medbench.tasks.foundation.files import JsonObject, canonical_json, json_lines, read_json
from medbench.tasks.protocols import PROTOCOLS

_PLACES = ("data_dir", "output_dir", "checkpoint", "checkpoint_for")
_OWN_NAMES = frozenset({"results.json", "leaderboard.md", "run.yaml", "env.json", "scores"})
_REASONS = {
    "generations": "texts as the model wrote them; scores/ has the answers that may be shown",
    "report.html": "may hold images and texts of the data; `medbench site` makes pages to be shown",
    "calls.jsonl": "traffic with a server",
    "audit": "may quote the data",
    "done": "says that the run on this machine is finished",
    "budget.json": "what this machine's memory held",
    "weights.json": "names folders of this machine",
}
_HEADER = "# The settings of a run as published: paths of the machine were left out.\n"
_FORBIDDEN = 403


class Hub(Protocol):
    """What is used of `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> object:
        """Make a repository, unless it is there."""

    def create_commit(
        self, repo_id: str, operations: Sequence[CommitOperationAdd], *, commit_message: str, repo_type: str
    ) -> object:
        """Add files in one commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Something of a run that does not go, and why."""

    what: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would be uploaded.

    Attributes:
        files: Content by path in the repository.
        left_out: What stays here.
    """

    files: Mapping[str, str]
    left_out: tuple[LeftOut, ...]


def plan_push(run: PublicRun) -> Plan:
    """Return what of a run goes to the Hub, and what does not.

    Raises:
        RunError: If scores are missing, or something of this machine would go along.
        DataError: If a file of the run is malformed.
    """
    folder = run.path.resolve().name
    named = {
        "README.md": _readme(run),
        "results.json": results_text(run.results),
        "leaderboard.md": render_markdown(make_board([run.results])),
        "run.yaml": _settings(run),
        "env.json": canonical_json(_environment(run), indent=2) + "\n",
        **{f"scores/{task}.jsonl": _scores(run, task) for task in run.results.tasks},
    }
    files = {f"{run.scrubber.known(folder)}/{name}": text for name, text in sorted(named.items())}
    _refuse_leaks(run, files)
    return Plan(files=files, left_out=_left_out(run))


def _refuse_leaks(run: PublicRun, files: Mapping[str, str]) -> None:
    """Look once more at what is about to leave: each file was cleaned when it was made."""
    for name, text in files.items():
        if run.scrubber.leaks(text):
            raise RunError(
                f"{name} would carry a path or a secret of this machine.", "Report this; nothing was uploaded."
            )


def _settings(run: PublicRun) -> str:
    document = dict(run.settings)
    given: Mapping[str, Any] = document.get("settings", {})
    document["settings"] = {name: value for name, value in given.items() if name not in _PLACES}
    document = run.scrubber.tree(document)
    for part in (document["settings"], document.get("identity_of", {})):
        if "model" in part:
            part["model"] = run.results.model.name
    return _HEADER + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _environment(run: PublicRun) -> JsonObject:
    document = run.scrubber.tree(read_json(run.path / "env.json"))
    server = document.get("engine", {}).get("server") if isinstance(document.get("engine"), dict) else None
    if isinstance(server, dict):
        server.pop("host", None)
    result: JsonObject = document
    return result


def _scores(run: PublicRun, task: str) -> str:
    return json_lines(_score_line(score) for score in read_public_scores(run, task))


def _score_line(score: PublicScore) -> JsonObject:
    line: JsonObject = {"sample_id": score.sample_id, "cluster": score.cluster, "state": score.state}
    line |= {"prediction": score.prediction, "box": score.box, "labels": score.labels}
    for protocol in PROTOCOLS:
        line[protocol] = {
            name: {"value": item.value, "statistics": item.statistics} for name, item in score.scores(protocol).items()
        }
    return line


def _readme(run: PublicRun) -> str:
    results = run.results
    lines = [f"# {markdown_text(results.model.title)}: medbench run {results.run}"]
    lines += [f"> **{markdown_text(notice)}**" for notice in results.notices]
    lines.append(
        "`results.json`: the numbers, fractions with 95 % intervals; `leaderboard.md`: the same as a table; `scores/`: "
        "scores by sample; `run.yaml` and `env.json`: what was run, on what. Protocols `paper` and `strict` are never "
        "compared with each other."
    )
    held_back = [f"- {markdown_text(item.what)}: {markdown_text(item.why)}" for item in _held_back(run)]
    if held_back:
        lines.append("Not here:\n\n" + "\n".join(held_back))
    return "\n\n".join(lines) + "\n"


def _held_back(run: PublicRun) -> list[LeftOut]:
    found = []
    for task, terms in run.terms.items():
        if terms.openness == "closed":
            what = f"answers, labels and the names of samples in scores/{task}.jsonl"
            found.append(LeftOut(what=what, why=terms.reason))
        elif terms.openness == "no texts":
            found.append(LeftOut(what=f"answers and labels in scores/{task}.jsonl", why=terms.reason))
    return found


def _left_out(run: PublicRun) -> tuple[LeftOut, ...]:
    given = run.settings.get("settings", {})
    places = [name for name in _PLACES if given.get(name)]
    found = [LeftOut(what=f"{', '.join(places)} in run.yaml", why="paths of this machine")] if places else []
    if PATH in _settings(run):
        found.append(LeftOut(what="other paths in run.yaml", why="paths of this machine"))
    found += _held_back(run)
    for file in sorted(run.path.iterdir()):
        if file.name not in _OWN_NAMES:
            found.append(
                LeftOut(what=file.name, why=_REASONS.get(file.name, "not one of the files that are published"))
            )
    return tuple(replace(item, what=run.scrubber.known(item.what)) for item in found)


def push(plan: Plan, repo: str, hub: Hub, *, private: bool) -> None:
    """Upload a plan in one commit, making the repository if there is none.

    Args:
        plan: What goes.
        repo: `owner/name` of a dataset repository.
        hub: The Hub, with the login of its own command.
        private: Whether a repository that is made now is private; one that is there stays as it is.

    Raises:
        RunError: If the Hub cannot be reached or refuses.
    """
    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=text.encode()) for name, text in plan.files.items()
    ]
    try:
        hub.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        hub.create_commit(repo, operations, commit_message="Results of medbench", repo_type="dataset")
    except (
        LocalTokenNotFoundError,
        HFValidationError,
        OfflineModeIsEnabled,
        HfHubHTTPError,
        httpx2.HTTPError,
    ) as error:
        raise RunError(*_explained(error, repo)) from error


def _explained(error: Exception, repo: str) -> tuple[str, str]:
    kept = "Nothing of the run on this machine was changed."
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    said = (error.server_message or "") if isinstance(error, HfHubHTTPError) else ""
    if isinstance(error, LocalTokenNotFoundError) or status == httpx2.codes.UNAUTHORIZED:
        return f"The Hub does not know who you are, so {repo} cannot be written to.", f"Log in: hf auth login. {kept}"
    if status == _FORBIDDEN:
        return (
            f"The Hub does not let you write to {repo}. {said}".strip(),
            f"Use a token with write access to {repo.partition('/')[0]}, or another --repo. {kept}",
        )
    if status == httpx2.codes.NOT_FOUND:
        return f"The Hub has no {repo} that you may see. {said}".strip(), f"Check --repo and your login. {kept}"
    if isinstance(error, OfflineModeIsEnabled):
        return "The Hub is switched off by HF_HUB_OFFLINE.", f"Unset it, then push again. {kept}"
    if status:
        return f"The Hub answered {status} for {repo}. {said}".strip(), f"Try again later. {kept}"
    return f"The Hub cannot be reached: {type(error).__name__}: {error}", f"Check the network, then try again. {kept}"
