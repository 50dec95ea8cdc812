"""A run as it may be shown to anybody: without paths, servers and secrets, with texts as each task's terms allow."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import httpx2
import yaml
from huggingface_hub import errors as hub_errors
from pydantic import TypeAdapter

from medbench.harness.results import Results, read_results
from medbench.harness.rundir import read_run
from medbench.leaderboard.numbers import make_board
from medbench.leaderboard.pages import board_as_markdown
from medbench.leaderboard.render import WORDING, render_markdown
from medbench.leaderboard.runs import NOT_OK, picked, terms_of
from medbench.leaderboard.samples import ScoreRecord, as_frame, read_score_table
from medbench.tasks.foundation.confidential import KEYS, SECRET, SECRET_NAME, holds_key, secrets_of
from medbench.tasks.foundation.errors import RunError, UsageError
from medbench.tasks.foundation.files import (
    JsonObject,
    canonical_json,
    finite,
    json_lines,
    read_json_object,
    replaced_when_whole,
    write_atomically,
)  # fmt: skip
from medbench.tasks.protocols import PROTOCOLS
from medbench.tasks.terms import Terms

PATH = "[path]"
SERVER = "[server]"
# Hosts that everybody knows; the name of any other says something about who ran the model.
_PUBLIC_HOSTS = frozenset({
    "api.anthropic.com", "api.deepseek.com", "api.mistral.ai", "api.openai.com", "api.together.xyz", "arxiv.org",
    "doi.org", "generativelanguage.googleapis.com", "github.com", "huggingface.co", "openrouter.ai", "physionet.org",
    "router.huggingface.co", "zenodo.org",
})  # fmt: skip
# A scheme is short: looked for without a bound, `a.a.a.` would be read anew from each of its letters.
_URL = r"(?P<url>\b[a-z][a-z0-9+.-]{0,40}://[^\s'\"<>|]*)"
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
        return KEYS.sub(SECRET, text)

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
                self.text(str(name)): SECRET if SECRET_NAME.fullmatch(str(name)) and one else self.tree(one)
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
        found = [root for root in self.roots if root in text and re.search(rf"{re.escape(root)}(?![\w-])", text)]
        return (*found, *(SECRET for secret in self.secrets if secret in text), *([SECRET] if holds_key(text) else []))


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
    return Scrubber(
        roots=tuple(sorted((p for p in places if len(p) >= _SHORTEST_ROOT), key=lambda place: (-len(place), place))),
        secrets=secrets_of(variables),
    )


_ROW_GROUP = 10_000
_RESULTS = TypeAdapter(Results)
_PLACES = ("data_dir", "output_dir", "checkpoint", "checkpoint_for")
_REPEATED = ("run", "model", "suite", "task", "kind", "protocol", "metric", "state")
_BESIDE_PARQUET = ("value", "ci", "n", *NOT_OK, "answered", "among_answered", "bounds", "signature")
_OWN_NAMES = frozenset({"results.json", "leaderboard.md", "run.yaml", "env.json", "scores"})
_HEADER = "# The settings of a run as published: paths of the machine were left out.\n"
_FORBIDDEN = 403


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicRun:
    """A run with everything that is needed to publish it."""

    path: Path
    results: Results  # without paths, servers and secrets
    settings: Mapping[str, Any]  # run.yaml as it lies there
    terms: Mapping[str, Terms]  # by task
    scrubber: Scrubber  # what is known of the machine

    def shows_texts(self, task: str) -> bool:
        """Return whether answers, labels and questions of a task may be passed on."""
        return self.terms[task].openness == "open"


def read_public(path: Path, environment: Mapping[str, str] | None = None) -> PublicRun:
    """Return a finished run as it may be shown.

    `environment` are variables of the shell, whose secrets are kept back; this process's own by default. Raises
    RunError if the folder is no finished run, or its results are another's; DataError if its results are malformed.
    """
    results, document = read_results(path), read_run(path)
    # The name of a run becomes a name of files.
    if results.run != document["identity"]:
        raise RunError(f"The results in {path} are those of another run.", f"Score it again: medbench score {path}")
    settings = document.get("settings", {})
    of_tasks = settings.get("checkpoint_for")
    named = [*map(settings.get, _PLACES[:-1]), *(of_tasks.values() if isinstance(of_tasks, dict) else ())]
    named.append(str(settings.get("model", "")).partition(":")[2])
    places = [Path(place) for place in named if isinstance(place, str) and Path(place).is_absolute()]
    scrubber = machine_scrubber([path, path.absolute().parent, *places], environment)
    return PublicRun(
        path=path, results=_public_results(results, scrubber), settings=document, scrubber=scrubber,
        terms={task: terms_of(results, task) for task in results.tasks},
    )  # fmt: skip


def _public_results(results: Results, scrubber: Scrubber) -> Results:
    """Return results without paths of the machine, servers and secrets; every number stays as it is."""
    document = _RESULTS.dump_python(results)
    parts: list[tuple[dict[str, Any], tuple[str, ...]]] = [(document["model"], ("weights", "device"))]
    for task in document["tasks"].values():
        metrics = (metric for protocol in PROTOCOLS for metric in task[protocol].values())
        parts += [(task, ("title", "licence")), *((metric, ("signature",)) for metric in metrics)]
    for part, names in parts:
        part |= {name: scrubber.text(part[name]) for name in names}
    document["model"] |= {name: scrubber.model(document["model"][name]) for name in ("name", "title")}
    document["metrics"] = {scrubber.model(name): scrubber.tree(given) for name, given in results.metrics.items()}
    document["notices"] = [scrubber.text(notice) for notice in results.notices]
    return _RESULTS.validate_python(document)


def results_text(results: Results, indent: int | None = 2) -> str:
    """Return results as `results.json` holds them, on one line without an indent."""
    return canonical_json(_RESULTS.dump_python(results, mode="json"), indent=indent) + "\n"


def public_records(run: PublicRun, task: str) -> list[ScoreRecord]:
    """Return the scores of a task by sample, as far as its terms go; raises like `read_score_table`."""
    return as_public(run, task, read_score_table(run.path, run.results, task).records)


def as_public(run: PublicRun, task: str, records: Sequence[ScoreRecord]) -> list[ScoreRecord]:
    """Return what the terms of a task leave of its records.

    Where texts stay here, answers, boxes and labels are empty. Where even names are under an agreement, samples and
    clusters have running numbers. Every field is named: what a record may hold one day does not leave by itself.
    """
    known, texts, closed = run.scrubber.known, run.shows_texts(task), run.terms[task].openness == "closed"
    clusters = {group: number for number, group in enumerate(dict.fromkeys(record.group for record in records), 1)}
    return [
        ScoreRecord(
            sample_id=f"{task}/{number:06d}" if closed else known(record.sample_id),
            group=f"{task}/cluster-{clusters[record.group]:06d}" if closed else known(record.group),
            prediction=known(record.prediction) if texts else "",
            labels={name: known(label) for name, label in record.labels.items()} if texts else {},
            box=record.box if texts else None, state=record.state, paper=record.paper, strict=record.strict,
        )
        for number, record in enumerate(records, 1)
    ]  # fmt: skip


def write_files(folder: Path, files: Mapping[str, str]) -> tuple[Path, ...]:
    """Write files below a folder and return them; raises like `write_atomically`."""
    for name, text in files.items():
        write_atomically(folder / name, text)
    return tuple(folder / name for name in files)


def write_parquet(path: Path, run: PublicRun) -> int:
    """Write the scores of a run by sample as a Parquet file; return the number of rows.

    Row groups end with a task, and after so many samples: more at once would take gigabytes.

    Its rows are those of `medbench.leaderboard.samples.read`, without texts that stay here. Raises UsageError if
    pyarrow is not installed; RunError if the file cannot be written; and like `read_score_table`.
    """
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        way_out = "Run pip install 'medbench[parquet]'."
        raise UsageError("Parquet needs pyarrow, which is not installed.", way_out) from error
    text, numbers = arrow.string(), arrow.float64()
    schema = arrow.schema([
        *((name, arrow.dictionary(arrow.int32(), text)) for name in _REPEATED),
        ("sample_id", text), ("cluster", text), ("score", numbers), ("statistics", arrow.list_(numbers)),
        ("prediction", text), ("labels", arrow.map_(text, text)),
    ]).with_metadata({"medbench": canonical_json(parquet_metadata(run))})  # fmt: skip
    rows = 0
    with replaced_when_whole(path) as partial, parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
        for task in run.results.tasks:
            records = public_records(run, task)
            for start in range(0, len(records), _ROW_GROUP):
                frame = as_frame(run.results, task, records[start : start + _ROW_GROUP])[schema.names]
                frame["labels"] = [sorted(labels.items()) for labels in frame["labels"]]
                if not run.shows_texts(task):
                    frame["prediction"] = frame["labels"] = None
                writer.write_table(arrow.Table.from_pandas(frame, schema=schema, preserve_index=False))
                rows += len(frame)
    return rows


def parquet_metadata(run: PublicRun) -> dict[str, Any]:
    """Return what must stand beside the rows: notices, numbers of the whole tasks, and what was left out."""
    results = run.results
    return {
        **picked(results, ("run", "suite", "limit")), "notices": list(results.notices),
        "model": picked(results.model, ("name", "title", "weights")),
        "left_out": {task: terms.reason for task, terms in run.terms.items() if terms.reason},
        "numbers": {
            task: {
                protocol: {name: picked(one, _BESIDE_PARQUET) for name, one in found.metrics(protocol).items()}
                for protocol in PROTOCOLS
            }
            for task, found in results.tasks.items()
        },
    }  # fmt: skip


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


class PublicCopy(NamedTuple):
    """The files that may leave, content by path below a folder of the run's name, and what stays here."""

    files: Mapping[str, str]
    left_out: tuple[LeftOut, ...]


def public_copy(run: PublicRun) -> PublicCopy:
    """Return what of a run may leave this machine as files, and what does not.

    Nothing is chosen by what a file is called or looks like: every file that goes is made anew here from what was read.
    Images, generations as the model wrote them, reports and the data never go. Raises RunError if scores are missing,
    or something of this machine would go along; DataError if a file of the run is malformed.
    """
    folder = run.scrubber.known(run.path.resolve().name)
    hidden = {"closed": "answers, labels and the names of samples", "no texts": "answers and labels"}
    held_back = [
        LeftOut(f"{hidden[terms.openness]} in scores/{task}.jsonl", terms.reason)
        for task, terms in run.terms.items()
        if terms.openness in hidden
    ]
    settings = _settings(run)
    named = {
        "README.md": render_markdown("public_copy.md", results=run.results, told=WORDING, held_back=held_back),
        "results.json": results_text(run.results), "leaderboard.md": board_as_markdown(make_board([run.results])),
        "run.yaml": settings, "env.json": canonical_json(finite(_environment(run)), indent=2) + "\n",
        **{f"scores/{task}.jsonl": _scores(run, task) for task in run.results.tasks},
    }  # fmt: skip
    files = {f"{folder}/{name}": text for name, text in sorted(named.items())}
    # Each file was cleaned when it was made; this is a last look at what is about to leave.
    if leaking := next((name for name, text in files.items() if run.scrubber.leaks(text)), None):
        problem = f"{leaking} would carry a path or a secret of this machine."
        raise RunError(problem, "Report this; nothing was uploaded.")
    given = run.settings.get("settings", {})
    places = ", ".join(name for name in _PLACES if given.get(name))
    left_out = [LeftOut(f"{places} in run.yaml", "paths of this machine")] if places else []
    if PATH in settings:
        left_out.append(LeftOut("other paths in run.yaml", "paths of this machine"))
    others = sorted(file.name for file in run.path.iterdir() if file.name not in _OWN_NAMES)
    stays = WORDING["stays_here"]
    left_out += [
        *held_back, *(LeftOut(name, stays.get(name, "not one of the files that are published")) for name in others),
    ]  # fmt: skip
    return PublicCopy(files=files, left_out=tuple(LeftOut(run.scrubber.known(what), why) for what, why in left_out))


def _settings(run: PublicRun) -> str:
    given: Mapping[str, Any] = run.settings.get("settings", {})
    kept = {name: value for name, value in given.items() if name not in _PLACES}
    document = run.scrubber.tree({**run.settings, "settings": kept})
    for part in (document["settings"], document.get("identity_of", {})):
        if "model" in part:
            part["model"] = run.results.model.name
    return _HEADER + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _environment(run: PublicRun) -> JsonObject:
    document: JsonObject = run.scrubber.tree(read_json_object(run.path / "env.json"))
    server = document.get("engine", {}).get("server") if isinstance(document.get("engine"), dict) else None
    if isinstance(server, dict):
        server.pop("host", None)
    return document


def _scores(run: PublicRun, task: str) -> str:
    lines = []
    for record in public_records(run, task):
        texts = picked(record, ("prediction", "labels"))
        line: JsonObject = {"sample_id": record.sample_id, "cluster": record.group, "state": record.state}
        line |= {"box": record.box} | (texts if run.shows_texts(task) else dict.fromkeys(texts))
        for protocol in PROTOCOLS:
            scores = record.scores(protocol).items()
            line[protocol] = {name: picked(item, ("value", "statistics")) for name, item in scores}
        lines.append(line)
    return "".join(json_lines(lines))


def upload(copy: PublicCopy, repo: str, hub: Hub, *, private: bool) -> None:
    """Upload a public copy in one commit to a dataset repository `owner/name`, made as private as wanted if it is new.

    The login is that of the Hub's own command. A RunError says why the Hub cannot be reached or refuses.
    """
    try:
        with TemporaryDirectory() as folder:
            write_files(Path(folder), copy.files)
            hub.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
            hub.upload_folder(
                repo_id=repo, folder_path=Path(folder), commit_message="Results of medbench", repo_type="dataset"
            )
    except (
        hub_errors.LocalTokenNotFoundError, hub_errors.HFValidationError, hub_errors.OfflineModeIsEnabled,
        hub_errors.HfHubHTTPError, httpx2.HTTPError,
    ) as error:  # fmt: skip
        problem, way_out = _explained(error, repo)
        raise RunError(problem, f"{way_out} Nothing of the run on this machine was changed.") from error


def _explained(error: Exception, repo: str) -> tuple[str, str]:
    answer = error if isinstance(error, hub_errors.HfHubHTTPError) else None
    status = answer.response.status_code if answer else 0
    told = (answer.server_message or "") if answer else ""
    if isinstance(error, hub_errors.LocalTokenNotFoundError) or status == httpx2.codes.UNAUTHORIZED:
        return f"The Hub does not know who you are, so {repo} cannot be written to.", "Log in: hf auth login."
    if status == _FORBIDDEN:
        way_out = f"Use a token with write access to {repo.partition('/')[0]}, or another --repo."
        return f"The Hub does not let you write to {repo}. {told}".strip(), way_out
    if status == httpx2.codes.NOT_FOUND:
        return f"The Hub has no {repo} that you may see. {told}".strip(), "Check --repo and your login."
    if isinstance(error, hub_errors.OfflineModeIsEnabled):
        return "The Hub is switched off by HF_HUB_OFFLINE.", "Unset it, then push again."
    if status:
        return f"The Hub answered {status} for {repo}. {told}".strip(), "Try again later."
    return f"The Hub cannot be reached: {type(error).__name__}: {error}", "Check the network, then try again."
