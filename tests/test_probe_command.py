"""`medbench probe`: from a model's name to the page, stopped anywhere, and what users get wrong."""

import csv
import json
from pathlib import Path
from typing import Any

import llava_med_fixtures
import pytest
import tiny_vlms
from command_line import medbench

from medbench.harness.probing.reading import StateReader

FEW = ("--train-samples", 100, "--limit", 30, "--refits", 2, "--batch-size", 30)
TARGETS = ("organsmnist", "slake-vqa:modality")


def probe(output: Path, *more: object, model: str = "uni-med", tasks: str = ",".join(TARGETS)) -> Any:  # noqa: ANN401
    return medbench("probe", "--model", model, "--tasks", tasks, "--output", output, *FEW, *more)


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundled weights probed on a few samples, against predictions of somebody's network."""
    output = tmp_path_factory.mktemp("probed")
    reference = output / "mine.json"
    reference.write_text(json.dumps({"organsmnist": 0.9, "slake-vqa:modality": 0.8}))
    told = probe(output, "--reference", reference)
    assert told.returncode == 0, told.stderr
    assert "Cannot be tested: the reference has a score and no predictions." in told.stderr
    return output


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "uni-med" / "probing.json").read_text())
    return found


def test_the_whole_way_ends_with_a_page(probed: Path) -> None:
    found = document(probed)
    first, second = found["targets"]
    assert (first["name"], second["name"]) == TARGETS
    assert (first["test"], first["classes"]) == (30, ["malignant", "normal or benign"])
    assert len(first["places"]) == 16
    assert all(one["random"] is not None and abs(one["permuted"]) < 0.7 for one in first["places"])
    assert next(one["verdict"] for one in first["modes"]) == "cannot be tested"
    assert first["references"][0]["score"] == {"value": pytest.approx(0.8), "low": None, "high": None}
    assert first["answers"]["failed"] == 0
    assert second["answers"] is None
    assert found["title"] == "Uni-Med (mini)"
    page = (probed / "probing.html").read_text()
    assert "Uni-Med (mini)" in page
    assert "MINI WEIGHTS" in page
    with (probed / "curves.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 32


def test_the_answers_run_knows_what_was_found(probed: Path) -> None:
    [run] = (probed / "uni-med" / "runs").glob("*/results.json")
    told = medbench("leaderboard", run.parent, "--json")
    assert told.returncode == 0, told.stderr
    [rows] = json.loads(told.stdout)["probing"].values()
    assert {row["target"] for row in rows} == set(TARGETS)


@pytest.mark.slow
@pytest.mark.parametrize("read", [1, 2, 6, 11])
def test_a_stop_costs_nothing(probed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: int) -> None:
    reading, left = StateReader.read, [read]

    def stopping(self: StateReader, samples: Any) -> Any:  # noqa: ANN401
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return reading(self, samples)

    monkeypatch.setattr(StateReader, "read", stopping)
    stopped = probe(tmp_path, "--reference", probed / "mine.json")
    assert stopped.returncode == 130
    assert "the same command continues" in stopped.stderr
    left[0] = 100
    assert probe(tmp_path, "--reference", probed / "mine.json").returncode == 0
    assert document(tmp_path) == document(probed)
    batches = sum(-(-len(json.loads(file.read_text())["digests"]) // 30) for file in tmp_path.glob("*/states/*.json"))
    assert 100 - left[0] == batches - read


@pytest.mark.slow
def test_the_answers_of_a_run_are_taken_if_they_are_of_these_weights(probed: Path, tmp_path: Path) -> None:
    [run] = (path.parent for path in (probed / "uni-med" / "runs").glob("*/results.json"))
    told = probe(tmp_path, "--no-random", "--run", run, tasks="organsmnist")
    assert told.returncode == 0, told.stderr
    assert not (tmp_path / "uni-med" / "runs").exists()
    assert document(tmp_path)["targets"][0]["answers"] == document(probed)["targets"][0]["answers"]
    checkpoint = llava_med_fixtures.make_v15(tmp_path / "v15")
    others = ("--run", run, "--checkpoint", checkpoint)
    refused = probe(tmp_path / "others", *others, model="llava-med", tasks="organsmnist")
    assert refused.returncode == 2
    assert "has the answers of other weights" in refused.stderr


def test_other_weights_in_the_same_folder_are_refused(probed: Path) -> None:
    told = probe(probed, "--seed", 1)
    assert told.returncode == 1
    assert "holds states of other weights, samples or settings" in told.stderr


@pytest.mark.slow
def test_models_stand_side_by_side(probed: Path, tmp_path: Path) -> None:
    folder = tiny_vlms.llava(tmp_path / "tiny-llava")
    told = probe(probed, "--no-random", model=f"hf:{folder}", tasks="organsmnist")
    assert told.returncode == 0, told.stderr
    page = (probed / "probing.html").read_text()
    assert "tiny-llava" in page
    assert "Uni-Med (mini)" in page


@pytest.mark.slow
def test_a_model_that_is_not_asked_shows_its_states_alone(tmp_path: Path) -> None:
    checkpoint = llava_med_fixtures.make_v15(tmp_path / "v15")
    told = probe(tmp_path / "out", "--checkpoint", checkpoint, "--no-random", model="llava-med", tasks="organsmnist")
    assert told.returncode == 0, told.stderr
    assert "llava-med does not answer organsmnist: its states are probed alone." in told.stderr
    [target] = json.loads((tmp_path / "out" / "llava-med-v15" / "probing.json").read_text())["targets"]
    assert target["answers"] is None


def test_a_dry_run_tells_what_it_takes(tmp_path: Path) -> None:
    told = medbench("probe", "--model", "uni-med", "--tasks", "organsmnist", "--dry-run", "--limit", 20)
    assert told.returncode == 0, told.stderr
    assert "3,136" in told.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model", "uni-med", "--tasks", "organsmnist"), "There is no --output"),
        (("--model", "mock:oracle", "--tasks", "organsmnist", "--output", "OUT"), "shows nothing but its answers"),
        (("--model", "uni-med", "--tasks", "slake-vqa:age", "--output", "OUT"), "has a label 'age'"),
        (("--model", "uni-med", "--tasks", "mimic-cxr", "--output", "OUT"), "no closed answers"),
        (("--model", "uni-med", "--tasks", "nothing", "--output", "OUT"), "nothing"),
        (("--model", "uni-med", "--model", "radfm", "--label", "a", "--tasks", "cls", "--output", "OUT"), "one model"),
        (("--model", "uni-med", "--tasks", "organsmnist", "--reference", "none.csv", "--output", "OUT"), "none.csv"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    told = medbench("probe", *(str(tmp_path) if word == "OUT" else word for word in words))
    assert told.returncode in {1, 2}
    assert says in told.stderr
    assert "Traceback" not in told.stderr
