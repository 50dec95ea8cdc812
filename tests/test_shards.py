"""Shards through the command line: whoever answered a run, its files are those of one process."""

import json
import operator
import shutil
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import llava_med_fixtures
import pytest
import yaml
from command_line import medbench
from fault_server import FaultServer, fault_server
from safetensors.torch import load_file, save_file
from shard_runs import contents, environment, folder_in, make_data, shard, words

from medbench.adapters import mock
from medbench.harness import run as running
from medbench.tasks.foundation.errors import EXIT_FAILED, EXIT_USAGE, SampleError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that one process made."""
    output = tmp_path_factory.mktemp("whole")
    assert medbench(*words(data, output)).returncode == 0
    return folder_in(output)


@pytest.fixture(scope="module")
def two_of_three(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with the first and the third of three shards; copy it."""
    output = tmp_path_factory.mktemp("parts")
    for which in ("1/3", "3/3"):
        shard(data, output, which)
    return output


@pytest.fixture
def parts(two_of_three: Path, tmp_path: Path) -> Path:
    """A copy of an output folder with the first and the third of three shards."""
    shutil.copytree(two_of_three, tmp_path / "parts")
    return tmp_path / "parts"


def recorded(run: Path) -> list[tuple[str, str]]:
    """Return task and sample of every record that a run's shards hold."""
    files = run.glob("shards/*/generations/*.jsonl")
    return [(file.stem, json.loads(line)["sample_id"]) for file in files for line in file.read_text().splitlines()]


@pytest.mark.parametrize("order", [(3, 1, 2), pytest.param((2, 3, 1), marks=pytest.mark.slow)])
def test_three_shards_in_any_order_are_one_process(
    order: tuple[int, ...], whole: Path, data: Path, tmp_path: Path
) -> None:
    for place, number in enumerate(order):
        done = shard(data, tmp_path, f"{number}/3")
        told = " ".join(done.stderr.split())
        if place < 2:
            waits = ", ".join(f"shard {one}/3" for one in sorted(order[place + 1 :]))
            assert f"Shard {number}/3 is done; " in told
            assert all(f"{one} (" in told for one in waits.split(", "))
            assert "The last one merges" in told
            assert not (folder_in(tmp_path) / "results.json").exists()
    assert contents(folder_in(tmp_path)) == contents(whole)
    assert not list(folder_in(tmp_path).glob("shards")), "the shards stay behind"
    assert "is complete; nothing to do" in shard(data, tmp_path, "2/3").stderr


def test_a_shard_answers_its_own_samples_alone_and_each_once(parts: Path, whole: Path) -> None:
    found = recorded(folder_in(parts))
    assert len(found) == len(set(found))
    all_of = [json.loads(line) for file in whole.glob("generations/*.jsonl") for line in file.read_text().splitlines()]
    assert 0 < len(found) < len(all_of)
    assert sorted(path.name for path in folder_in(parts).glob("shards/*")) == ["1-of-3", "3-of-3"]


def test_what_the_shards_took_adds_up_and_stands_beside(parts: Path, data: Path) -> None:
    before = [json.loads(file.read_text()) for file in sorted(folder_in(parts).glob("shards/*/env.json"))]
    shard(data, parts, "2/3")
    found = environment(folder_in(parts))
    assert sorted(found["shards"]) == ["1-of-3", "2-of-3", "3-of-3"]
    beside = found["shards"]["1-of-3"]
    assert beside == {name: before[0][name] for name in ("machine", "engine", "phases")}
    answer = [one["phases"]["seconds"]["answer"] for one in found["shards"].values()]  # type: ignore[index]
    assert found["phases"]["seconds"]["answer"] == pytest.approx(sum(answer), abs=0.002)  # type: ignore[index]


@pytest.mark.slow
def test_the_engines_notes_are_added(data: Path, tmp_path: Path) -> None:
    for which in ("1/2", "2/2"):
        shard(data, tmp_path, which, model="mock", tasks="slake-vqa")
    found = environment(folder_in(tmp_path))
    tests = [one["engine"]["self-test"] for one in found["shards"].values()]  # type: ignore[index]
    assert found["engine"]["self-test"]["of"] == sum(one["of"] for one in tests) > 0  # type: ignore[index]
    assert found["engine"]["batching"] == "continuous"
    counts = [one["phases"]["counts"]["output tokens"] for one in found["shards"].values()]  # type: ignore[index]
    assert found["phases"]["counts"]["output tokens"] == sum(counts)  # type: ignore[index]


def test_one_process_goes_on_with_what_shards_left(parts: Path, whole: Path, data: Path) -> None:
    left = len(recorded(folder_in(parts)))
    done = medbench(*words(data, parts))
    assert done.returncode == 0, done.stderr
    assert "What shards of this run answered is taken in." in done.stderr
    assert f"Continuing: {left} of " in done.stderr
    assert contents(folder_in(parts)) == contents(whole)


def test_shards_go_on_with_what_one_process_left(whole: Path, data: Path, tmp_path: Path) -> None:
    begun = tmp_path / whole.name
    for file in whole.glob("generations/*.jsonl"):
        lines = file.read_text().splitlines(keepends=True)
        (begun / "generations").mkdir(parents=True, exist_ok=True)
        (begun / "generations" / file.name).write_text("".join(lines[::-2]) + '{"run":"half a rec')
    shutil.copy(whole / "run.yaml", begun)
    done = [shard(data, tmp_path, which) for which in ("2/2", "1/2")]
    assert all("are already recorded" in one.stderr for one in done)
    assert contents(begun) == contents(whole)


def test_another_number_of_shards_counts_what_the_first_ones_recorded(parts: Path, whole: Path, data: Path) -> None:
    before = set(recorded(folder_in(parts)))
    shard(data, parts, "2/2")
    found = recorded(folder_in(parts))
    assert before < set(found)
    assert len(found) == len(set(found)), "a sample was asked twice"
    shard(data, parts, "1/2")
    assert contents(folder_in(parts)) == contents(whole)


@pytest.mark.slow
def test_more_shards_than_samples(data: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / "one", tmp_path / "many"]
    limits = ("--limit", 1)
    assert medbench(*words(data, outputs[0], *limits, tasks="dermamnist")).returncode == 0
    shard(data, outputs[1], "3/3", *limits, tasks="dermamnist")
    shard(data, outputs[1], "1/3", *limits, tasks="dermamnist")
    assert contents(folder_in(outputs[1])) == contents(folder_in(outputs[0]))


@pytest.mark.slow
def test_two_models_are_sharded_and_whoever_merges_the_last_writes_of_both(data: Path, tmp_path: Path) -> None:
    both = ("run", "-m", "blind", "-m", "mock:oracle", "--tasks", "dermamnist", "--data-dir", data)
    assert medbench(*both, "--output-dir", tmp_path / "one").returncode == 0
    first = medbench(*both, "--output-dir", tmp_path / "two", "--shard", "1/2")
    assert first.returncode == 0
    assert first.stderr.count("Shard 1/2 is done") == 2
    assert not (tmp_path / "two" / "leaderboard.md").exists()
    last = medbench(*both, "--output-dir", tmp_path / "two", "--shard", "2/2")
    assert last.returncode == 0
    pages = [(tmp_path / name / "leaderboard.md").read_text() for name in ("one", "two")]
    assert pages[0] == pages[1]


@pytest.mark.slow
def test_a_failed_sample_counts_as_recorded_and_is_tried_again_by_its_shard(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = [tmp_path / "one", tmp_path / "two"]
    failing = {"model": "mock:failing", "tasks": "dermamnist"}
    assert medbench(*words(data, outputs[0], **failing)).returncode == 0
    told = [" ".join(shard(data, outputs[1], which, **failing).stderr.split()) for which in ("1/2", "2/2")]
    assert any("They are samples of shard" in one and "The mock refuses" in one for one in told)
    assert "The commands of their shards try them again." in told[1]
    run = folder_in(outputs[1])
    assert contents(run) == contents(folder_in(outputs[0]))
    assert not (run / "done").exists()
    errors = run.joinpath("generations", "dermamnist.jsonl").read_text().count('"error":"The mock')
    monkeypatch.setitem(mock._SAYINGS, "failing", mock._SAYINGS["oracle"])
    again = [shard(data, outputs[1], which, **failing) for which in ("1/2", "2/2")]
    assert errors > 0
    assert any("Continuing:" in one.stderr for one in again)
    assert (
        "error" not in json.loads(run.joinpath("generations", "dermamnist.jsonl").read_text().splitlines()[0])["error"]
    )
    assert (run / "done").exists()
    states = json.loads((run / "results.json").read_text())["tasks"]["dermamnist"]["states"]
    assert states["error"] == 0


@pytest.mark.slow
def test_a_shard_that_answers_nothing_fails_as_such_a_run_does(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without the images, say; its samples have records, and are tried again."""

    def fail(*_: object) -> str:
        raise SampleError("The disk is not there.")

    given = words(data, tmp_path, "--shard", "1/2")
    with monkeypatch.context() as patch:
        patch.setitem(mock._SAYINGS, "oracle", fail)
        done = medbench(*given)
    assert (done.returncode, "No sample of this shard got an answer" in done.stderr) == (EXIT_FAILED, True)
    assert medbench(*given).returncode == 0
    shard(data, tmp_path, "2/2")
    assert contents(folder_in(tmp_path)) == contents(whole)


def test_no_scorer_is_started_for_a_shard_that_does_not_score(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[bool] = []
    monkeypatch.setattr(running, "start_meteor", lambda: started.append(True))
    for which in ("1/3", "2/3"):
        assert "have no record yet" in shard(small_data, tmp_path, which, tasks="mpx-single,dermamnist").stderr
    assert list(tmp_path.rglob("mpx-single.jsonl"))
    assert started == []


@pytest.mark.slow
def test_uni_med_in_shards_says_what_it_says_in_one_process(tmp_path: Path) -> None:
    given = ["run", "--model", "uni-med", "--tasks", "vqa,rec,reg,mpx-single,cls", "--limit", 9]
    assert medbench(*given, "--output-dir", tmp_path / "one").returncode == 0
    for which in ("2/3", "3/3", "1/3"):
        done = medbench(*given, "--output-dir", tmp_path / "three", "--shard", which)
        assert done.returncode == 0, done.stderr
    one, three = folder_in(tmp_path / "one"), folder_in(tmp_path / "three")
    assert contents(three) == contents(one)
    encoded = [environment(run)["phases"]["counts"]["images encoded"] for run in (one, three)]  # type: ignore[index]
    assert encoded[0] == encoded[1], "an image was encoded by two shards"
    engines = [environment(run)["engine"] for run in (one, three)]
    # What memory was free is told where all shards found the same.
    assert engines[0].keys() - {"budget"} == engines[1].keys() - {"budget"}
    # Each of three self-tests looks at an image or two again, so the means are not those of one process to the digit.
    shards = [one["engine"] for one in environment(three)["shards"].values()]  # type: ignore[index]
    for kind, means in engines[1]["routing"].items():  # type: ignore[attr-defined]
        images = [shard["routed images"].get(kind, 0) for shard in shards]
        assert engines[1]["routed images"][kind] == sum(images)  # type: ignore[index]
        parts = [shard["routing"].get(kind, [0.0] * len(means)) for shard in shards]
        expected = [sum(map(operator.mul, images, column)) / sum(images) for column in zip(*parts, strict=True)]
        assert means == pytest.approx(expected, abs=1e-4), kind
        assert means == pytest.approx(engines[0]["routing"][kind], abs=0.05), kind  # type: ignore[index]


@pytest.mark.slow
def test_weights_of_each_task_are_told_apart_in_shards(tmp_path: Path) -> None:
    plain, tuned = (llava_med_fixtures.make_v15(tmp_path / name) for name in ("plain", "tuned"))
    weights = min(tuned.glob("*.safetensors"))
    save_file({name: -one for name, one in load_file(weights).items()}, weights, metadata={"format": "pt"})
    given = ["run", "--model", "llava-med", "--limit", 6, "--model-arg", "trained_on=slake-vqa", "--tasks", "vqa"]
    given += ["--checkpoint-for", f"slake-vqa={tuned}", "--checkpoint", plain]
    assert medbench(*given, "--output-dir", tmp_path / "one").returncode == 0
    for which in ("1/2", "2/2"):
        done = medbench(*given, "--output-dir", tmp_path / "two", "--shard", which)
        assert done.returncode == 0, done.stderr
    runs = [folder_in(tmp_path / name) for name in ("one", "two")]
    assert contents(runs[0]) == contents(runs[1])
    assert "weights.json" in contents(runs[1])


# Merging by hand.


def merged(*given: object) -> str:
    """Merge, which must go well, and return what was said."""
    done = medbench("merge", *given)
    assert done.returncode == 0, done.stderr
    assert "Mock (oracle), paper protocol" in done.stdout
    return done.stderr


@pytest.fixture(scope="module")
def three_machines(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on three machines that see no folder of one another, each with a shard; copy it."""
    folder = tmp_path_factory.mktemp("machines")
    for number in (1, 2, 3):
        shard(data, folder / f"machine-{number}", f"{number}/3")
    return folder


@pytest.fixture
def machines(three_machines: Path, tmp_path: Path) -> list[Path]:
    """A copy of the run's folders on three machines, each with a shard."""
    shutil.copytree(three_machines, tmp_path / "machines")
    return [folder_in(output) for output in sorted((tmp_path / "machines").iterdir())]


def test_folders_of_three_machines_are_merged_into_the_first(machines: list[Path], whole: Path) -> None:
    others = [contents(path) for path in machines[1:]]
    told = merged(*machines)
    assert str(machines[0] / "leaderboard.md") in told
    assert contents(machines[0]) == contents(whole)
    assert [contents(path) for path in machines[1:]] == others
    assert "is complete; nothing to merge" in merged(*machines)


@pytest.mark.parametrize("order", list(permutations(range(3)))[3:5])
def test_folders_are_merged_into_another(
    order: tuple[int, ...], machines: list[Path], whole: Path, tmp_path: Path
) -> None:
    before = [contents(path) for path in machines]
    merged(*(machines[number] for number in order), "--output-dir", tmp_path / "new" / "runs")
    assert contents(tmp_path / "new" / "runs" / machines[0].name) == contents(whole)
    assert [contents(path) for path in machines] == before


def test_one_folder_is_merged_where_the_last_shard_could_not(parts: Path, whole: Path, machines: list[Path]) -> None:
    run = folder_in(parts)
    shutil.copytree(machines[1] / "shards" / "2-of-3", run / "shards" / "2-of-3")
    merged(run)
    assert contents(run) == contents(whole)


def test_the_model_is_not_needed(machines: list[Path], whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("medbench.harness.models.load_share", fail)
    merged(*machines)
    assert contents(machines[0]) == contents(whole)


def test_what_is_missing_is_told_by_shard_and_nothing_is_changed(machines: list[Path], tmp_path: Path) -> None:
    before = [contents(path) for path in machines]
    done = medbench("merge", machines[0], machines[2], "--output-dir", tmp_path / "new")
    assert done.returncode == EXIT_FAILED
    assert "samples have no record yet: shard 2/3 (" in " ".join(done.stderr.split())
    assert "nothing was changed" in done.stderr
    assert [contents(path) for path in machines] == before
    assert not [path for path in tmp_path.glob("new/*") if path.is_dir()]


def test_another_run_is_refused_with_what_differs(machines: list[Path], data: Path, tmp_path: Path) -> None:
    shard(data, tmp_path / "other", "2/3", "--seed", 7, "--limit", 2)
    done = medbench("merge", machines[0], folder_in(tmp_path / "other"), machines[2])
    told = " ".join(done.stderr.split())
    assert done.returncode == EXIT_FAILED
    assert "are other runs: they differ in" in told
    assert "limit (nothing and 2)" in told
    assert "seed (0 and 7)" in told


def test_of_answers_that_differ_the_first_is_kept_aloud(machines: list[Path], whole: Path) -> None:
    copy = machines[1] / "shards" / "1-of-3"
    shutil.copytree(machines[0] / "shards" / "1-of-3", copy)
    file = copy / "generations" / "slake-vqa.jsonl"
    first, *rest = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(f"{json.dumps(one)}\n" for one in ({**first, "text": "another"}, *rest)))
    told = " ".join(merged(*machines).split())
    assert f"1 samples have several answers, which differ; the first is kept: slake-vqa/{first['sample_id']}." in told
    assert contents(machines[0]) == contents(whole)
    assert sorted(environment(machines[0])["shards"]) == ["1-of-3", "1-of-3 (2)", "2-of-3", "3-of-3"]


def test_mistakes_of_merging_are_told(whole: Path, parts: Path, tmp_path: Path) -> None:
    assert medbench("merge").returncode == EXIT_USAGE
    nowhere = medbench("merge", tmp_path / "nowhere")
    assert (nowhere.returncode, "is no run" in nowhere.stderr) == (EXIT_FAILED, True)
    twice = medbench("merge", whole, whole)
    assert (twice.returncode, "was given twice" in twice.stderr) == (EXIT_USAGE, True)
    alone = tmp_path / "alone" / whole.name
    alone.mkdir(parents=True)
    shutil.copy(whole / "run.yaml", alone)
    no_shards = medbench("merge", alone)
    assert (no_shards.returncode, "has no shards" in no_shards.stderr) == (EXIT_FAILED, True)
    edited = folder_in(parts) / "run.yaml"
    document = yaml.safe_load(edited.read_text())
    document["identity_of"]["seed"] = 9
    edited.write_text(yaml.safe_dump(document))
    changed = medbench("merge", folder_in(parts))
    assert (changed.returncode, "was changed" in changed.stderr) == (EXIT_FAILED, True)


def test_a_broken_record_of_another_shard_is_told_with_its_line(parts: Path, data: Path) -> None:
    [file] = folder_in(parts).glob("shards/1-of-3/generations/slake-vqa.jsonl")
    file.write_bytes(b'{"run": "x", broken\n' + file.read_bytes())
    done = medbench(*words(data, parts, "--shard", "2/3"))
    assert done.returncode == EXIT_FAILED
    assert "line 1 is not JSON" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--shard", "0/3"), "There is no shard 0/3"),
        (("--shard", "/"), "is no shard"),
        (("--shard", "1/3", "--overwrite", "always"), "would throw away what other shards answered"),
        (("--shard", "1/3", "--dry-run"), "--dry-run shows the whole run"),
    ],
)
def test_mistakes_of_a_shard_are_told(more: tuple[str, ...], says: str, parts: Path, data: Path) -> None:
    before = contents(folder_in(parts))
    done = medbench(*words(data, parts, *more))
    assert (done.returncode, says in done.stderr) == (EXIT_USAGE, True), done.stderr
    assert contents(folder_in(parts)) == before


# Served models, whose calls are logged.


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with fault_server() as running_server:
        yield running_server


@pytest.mark.slow
def test_the_calls_of_shards_are_counted_as_those_of_one_process(
    server: FaultServer, data: Path, tmp_path: Path
) -> None:
    given = {"model": f"openai:tiny@{server.url}", "tasks": "slake-vqa,slake-rec"}
    outputs = [tmp_path / "one", tmp_path / "two"]
    assert medbench(*words(data, outputs[0], **given)).returncode == 0
    for which in ("1/2", "2/2"):
        shard(data, outputs[1], which, **given)
    one, two = map(folder_in, outputs)
    assert contents(two) == contents(one)
    asked, sums = (environment(run)["engine"]["server"] for run in (two, one))
    kept = ("answered", "failed", "requests", "prompt_tokens", "output_tokens", "cached_tokens", "models", "host")
    assert {name: asked[name] for name in kept} == {name: sums[name] for name in kept}  # type: ignore[index]
    assert len((two / "calls.jsonl").read_text().splitlines()) == asked["requests"]  # type: ignore[index]


@pytest.mark.slow
def test_a_server_that_changes_between_shards_is_told_in_the_results(
    server: FaultServer, data: Path, tmp_path: Path
) -> None:
    given = {"model": f"openai:tiny@{server.url}", "tasks": "slake-vqa"}
    shard(data, tmp_path, "1/2", **given)
    before = server.behave

    def another(asked: object) -> object:
        answer = before(asked)  # type: ignore[arg-type]
        return type(answer)(body={**answer.body, "model": "tiny-of-tomorrow"})  # type: ignore[dict-item]

    server.behave = another  # type: ignore[assignment]
    shard(data, tmp_path, "2/2", **given)
    notices = json.loads((folder_in(tmp_path) / "results.json").read_text())["notices"]
    [told] = [notice for notice in notices if "THE MODEL CHANGED" in notice]
    assert "tiny-of-tomorrow" in told
