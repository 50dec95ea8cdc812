"""`medbench push`: nothing goes without --yes, all that was listed goes with it, and refusals are explained."""

import json
from pathlib import Path

import httpx2
import pytest
import yaml
from command_line import medbench, medbench_process
from export_runs import TOKEN, Planted, invented, write_run
from hub_writer import WritableHub, writable_hub
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

from medbench.harness.results import read_results_file
from medbench.leaderboard.export.public import Hub, PublicCopy, public_copy, read_public, upload
from medbench.tasks.foundation.errors import RunError

VALUES = {"mimic-cxr": 0.21, "slake-vqa": 0.4333}


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    results = invented(VALUES, title="Model", model=Planted().model, notices=["MINI: say so"])
    path = write_run(tmp_path / "runs", results, Planted())
    (path / "report.html").write_text("<img src='data:image/png;base64,AAAA'>", encoding="utf-8")
    (path / "audit").mkdir()
    (path / "notes of mine.txt").write_text("private", encoding="utf-8")
    return path


@pytest.fixture
def plan(run_folder: Path) -> PublicCopy:
    return public_copy(read_public(run_folder, {}))


def test_only_files_that_were_made_to_be_shown_go(run_folder: Path, plan: PublicCopy) -> None:
    names = ["README.md", "env.json", "leaderboard.md", "results.json", "run.yaml"]
    names += ["scores/mimic-cxr.jsonl", "scores/slake-vqa.jsonl"]
    assert list(plan.files) == [f"{run_folder.name}/{name}" for name in names]


def test_what_stays_is_listed_with_its_reason(plan: PublicCopy) -> None:
    left = {item.what: item.why for item in plan.left_out}
    assert left["generations"].startswith("texts as the model wrote them")
    assert "images" in left["report.html"]
    assert left["notes of mine.txt"] == "not one of the files that are published"
    assert {"audit", "done", "data_dir, output_dir in run.yaml", "other paths in run.yaml"} <= set(left)
    closed = next(what for what in left if "mimic-cxr" in what)
    assert "names of samples" in closed
    assert "signed agreement" in left[closed]
    assert not [what for what in left if "slake" in what]


def test_numbers_stay_as_they_are_and_settings_lose_only_places(
    run_folder: Path, plan: PublicCopy, tmp_path: Path
) -> None:
    file = tmp_path / "results.json"
    file.write_text(plan.files[f"{run_folder.name}/results.json"], encoding="utf-8")
    assert read_results_file(file).tasks == read_results_file(run_folder / "results.json").tasks
    settings = yaml.safe_load(plan.files[f"{run_folder.name}/run.yaml"])["settings"]
    assert settings == {
        "model": "hf:My-VLM", "tasks": ["all"], "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0,
        "model_args": {"config": "[path]", "api_key": "[secret]"},
    }  # fmt: skip
    environment = json.loads(plan.files[f"{run_folder.name}/env.json"])
    assert environment["engine"] == {"server": {"models": ["[path]"], "requests": 3}}
    assert environment["phases"]["counts"] == {"output tokens": 12}


def test_notices_stand_on_the_first_page_and_on_the_board(run_folder: Path, plan: PublicCopy) -> None:
    for name in ("README.md", "leaderboard.md", "results.json"):
        assert "MINI: say so" in plan.files[f"{run_folder.name}/{name}"]


def test_the_plan_is_the_same_bytes_every_time(run_folder: Path, plan: PublicCopy) -> None:
    assert public_copy(read_public(run_folder, {})) == plan


def test_the_same_files_can_be_written_to_a_folder(run_folder: Path, plan: PublicCopy, tmp_path: Path) -> None:
    done = medbench("export", run_folder, "--format", "folder", "--output", tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    written = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    assert {
        str(path.relative_to(tmp_path / "copy")): path.read_text(encoding="utf-8") for path in written
    } == plan.files
    assert "stays here" in done.stdout


def test_without_yes_the_hub_is_not_even_asked(run_folder: Path) -> None:
    with writable_hub() as hub:
        done = medbench_process(
            "push", run_folder, "--repo", "me/results", env={"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
        )
        assert hub.requests == []
    assert done.returncode == 0, done.stderr
    assert f"{run_folder.name}/scores/mimic-cxr.jsonl" in done.stdout
    assert "stays here" in done.stdout
    assert "Nothing was uploaded" in done.stderr
    assert "MINI: say so" in done.stderr
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.slow
def test_with_yes_exactly_what_was_listed_arrives(run_folder: Path, plan: PublicCopy) -> None:
    with writable_hub() as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
        done = medbench_process("push", run_folder, "--repo", "me/results", "--yes", env=environment)
        assert done.returncode == 0, done.stderr
        assert hub.files == {"me/results": dict(plan.files)}
        assert hub.tokens == {f"Bearer {TOKEN}"}
        made = hub.created[0]
    assert (made["type"], made["name"], made["organization"]) == ("dataset", "results", "me")
    assert made.get("private") is True or made.get("visibility") == "private"
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize(("status", "says"), [
    (401, "hf auth login"), (403, "write access to me"), (404, "Check --repo"), (500, "answered 500"),
])  # fmt: skip
def test_a_refusal_of_the_hub_is_explained(plan: PublicCopy, status: int, says: str) -> None:
    with writable_hub() as hub:
        hub.status = status
        with pytest.raises(RunError, match=says):
            upload(plan, "me/results", HfApi(endpoint=hub.url, token=TOKEN), private=True)
        assert hub.files == {}


class _Failing:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> object:
        del repo_id, repo_type, private, exist_ok
        raise self._error

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str, repo_type: str) -> object:
        del repo_id, folder_path, commit_message, repo_type
        raise self._error


@pytest.mark.parametrize(("error", "says"), [
    (LocalTokenNotFoundError("no token"), "hf auth login"),
    (OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE"),
    (httpx2.ConnectError("no route"), "cannot be reached"),
])  # fmt: skip
def test_what_goes_wrong_before_the_hub_answers_is_explained(plan: PublicCopy, error: Exception, says: str) -> None:
    hub: Hub = _Failing(error)
    with pytest.raises(RunError, match=says):
        upload(plan, "me/results", hub, private=True)


def test_a_public_repository_is_made_only_when_asked_for(plan: PublicCopy) -> None:
    with writable_hub() as hub:
        upload(plan, "me/results", HfApi(endpoint=hub.url, token=TOKEN), private=False)
        made = hub.created[0]
    assert made.get("private") is False or made.get("visibility") == "public"


def test_names_that_are_none_and_folders_that_are_no_runs_are_refused(run_folder: Path, tmp_path: Path) -> None:
    done = medbench("push", run_folder, "--repo", "results")
    assert (done.returncode, "OWNER/NAME" in done.stderr) == (2, True)
    done = medbench("push", tmp_path, "--repo", "me/results")
    assert (done.returncode, "is no run" in done.stderr) == (1, True)


def test_the_hub_of_the_tests_takes_what_the_real_client_sends() -> None:
    with writable_hub() as hub:
        assert isinstance(hub, WritableHub)
        api = HfApi(endpoint=hub.url, token=TOKEN)
        api.upload_file(path_or_fileobj=b"x", path_in_repo="a/b.txt", repo_id="me/x", repo_type="dataset")
        assert hub.files == {"me/x": {"a/b.txt": "x"}}
