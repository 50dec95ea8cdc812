"""How many samples may fail, how often they are asked again, and when a run ends since nothing is answered any more."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml
from command_line import medbench

import medbench as api
from medbench.adapters.base import Generation
from medbench.harness.engine.requests import Outcome
from medbench.harness.failing import Watch
from medbench.harness.tolerance import read_tolerance
from medbench.tasks.foundation.errors import EXIT_FAILED, EXIT_USAGE, FailureKind, MedbenchError, RunError, UsageError
from medbench.tasks.sample import Sample


@pytest.mark.parametrize(
    ("word", "total", "allowed"),
    [
        ("5%", 600, 30), ("5 %", 600, 30), (" 5% ", 59, 2), ("2.5%", 80, 2), ("0%", 600, 0), ("100%", 7, 7),
        ("0", 9, 0), ("20", 9, 20), ("020", 9, 20), ("33.333333%", 3, 0),
    ],
)  # fmt: skip
def test_a_share_or_a_number_may_fail(word: str, total: int, allowed: int) -> None:
    assert read_tolerance(word).of(total) == allowed


@pytest.mark.parametrize(
    "word",
    [
        "",
        "0.05",
        "5.0",
        "-1",
        "+5",
        "5%%",
        "101%",
        "100.1%",
        "%",
        "5 percent",
        "1e3",
        "nan",
        "inf%",
        "\u0665%",
        "9" * 10,
        "5\n%",
    ],
)
def test_other_words_are_refused_with_what_is_allowed(word: str) -> None:
    with pytest.raises(UsageError, match="how many samples may fail") as refused:
        read_tolerance(word)
    assert "5%, 2.5%" in refused.value.hint


def outcomes(kind: FailureKind | None, count: int) -> list[Outcome]:
    said = Generation(text="yes") if kind is None else None
    return [
        Outcome(task="t", sample_id=f"s{number}", generation=said, error="It broke." if kind else "", kind=kind or "")
        for number in range(count)
    ]


def watched(*some: Sequence[Outcome], word: str | None = None, total: int = 1000) -> None:
    watch = Watch(None if word is None else read_tolerance(word), total, Path("run"))
    watch.begin([], last_round=True)
    for one in some:
        watch.see(one)


@pytest.mark.parametrize("kind", ["model", "memory", "numbers", "worker"])
def test_failures_of_the_model_one_after_the_other_end_a_run(kind: FailureKind) -> None:
    with pytest.raises(
        RunError, match=rf"64 samples failed one after the other \(64 {kind}\).*The last: It broke"
    ) as end:
        watched(*[outcomes(kind, 1)] * 64)
    assert "--fail-on-error 100%" in end.value.hint
    watched(*[outcomes(kind, 1)] * 63, outcomes(None, 1), *[outcomes(kind, 1)] * 63)
    watched(*[outcomes(kind, 1)] * 1000, word="100%")


def test_those_that_failed_before_and_stand_in_a_row_now_say_nothing_of_the_model() -> None:
    watch = Watch(None, 1000, Path("run"))
    watch.begin([], last_round=True)
    for one in outcomes("model", 1000):
        watch.see([one], {(one.task, one.sample_id)})


def test_of_a_large_batch_more_may_fail_at_once() -> None:
    watched(outcomes("numbers", 256), outcomes("numbers", 255), outcomes(None, 1))
    with pytest.raises(RunError, match="512 samples failed one after the other"):
        watched(outcomes("numbers", 256), outcomes("numbers", 256))


@pytest.mark.parametrize("kind", ["picture", "prompt", "refused", "sample", "rate limit", "timeout"])
def test_what_lies_in_samples_or_is_known_by_who_asks_servers_does_not(kind: FailureKind) -> None:
    watched(outcomes(kind, 1000))
    # Nor does it hide that the model answers nothing.
    with pytest.raises(RunError, match="64 samples failed"):
        watched(*([*outcomes("model", 1), *outcomes(kind, 30)] for _ in range(64)))


def test_too_many_failures_are_told_as_soon_as_they_are_known() -> None:
    watched(outcomes("picture", 50), word="5%")
    with pytest.raises(
        RunError, match=r"51 of 1000 samples failed \(50 picture, 1 timeout\); --fail-on-error 5% allows 50"
    ):
        watched(outcomes("picture", 50), outcomes("timeout", 1), word="5%")


class Moody:
    """A function that fails on the first of every `each` questions, as long as its mood is bad."""

    def __init__(self, each: int, times: int = 1 << 30) -> None:
        self.each, self.times = each, times
        self.asked: Counter[str] = Counter()

    def of(self) -> Callable[..., str]:
        def moody(sample: Sample) -> str:
            self.asked[sample.sample_id] += 1
            number = list(self.asked).index(sample.sample_id)
            if number % self.each == 0 and self.asked[sample.sample_id] <= self.times:
                raise ValueError("no words")
            return sample.reference

        return moody


def run(output: Path, moody: Moody, tasks: str = "pubmedqa", limit: int | None = 8, **settings: object) -> Path:
    function = moody.of()
    return api.run(function, tasks, limit=limit, output_dir=output, progress=False, **settings).path  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_run_with_as_many_failures_as_may_be_is_complete(tmp_path: Path) -> None:
    moody = Moody(4)
    path = run(tmp_path, moody, fail_on_error="25%")
    assert (path / "done").exists()
    states = json.loads((path / "results.json").read_text())["tasks"]["pubmedqa"]["states"]
    assert states["error"] == 2
    assert json.loads((path / "env.json").read_text())["engine"]["errors"] == {"model": 2}
    kinds = [
        json.loads(line).get("kind") for line in (path / "generations" / "pubmedqa.jsonl").read_text().splitlines()
    ]
    assert Counter(kinds) == {"model": 2, None: 6}
    # It is complete for whoever allows as many, or says nothing; not for who allows fewer.
    asked = moody.asked.total()
    assert run(tmp_path, moody, fail_on_error=2) == run(tmp_path, moody) == path
    assert moody.asked.total() == asked
    with pytest.raises(MedbenchError, match=r"2 of 8 samples failed .*--fail-on-error 0 allows 0"):
        run(tmp_path, moody, fail_on_error=0)
    assert not (path / "done").exists()


def test_a_run_with_more_ends_before_it_is_scored_and_the_same_command_continues(tmp_path: Path) -> None:
    moody = Moody(4, times=1)
    with pytest.raises(MedbenchError, match=r"2 of 8 samples failed \(2 model\)") as ended:
        run(tmp_path, moody, fail_on_error="10%")
    [path] = [one for one in tmp_path.iterdir() if one.is_dir()]
    assert str(path / "generations") in ended.value.hint
    assert not (path / "results.json").exists()
    assert run(tmp_path, moody, fail_on_error="10%") == path
    assert (path / "done").exists()
    whole = run(tmp_path / "whole", Moody(100, times=0))
    assert (path / "generations" / "pubmedqa.jsonl").read_bytes() == (
        whole / "generations" / "pubmedqa.jsonl"
    ).read_bytes()


def test_failed_samples_are_asked_again_at_the_end_so_often(tmp_path: Path) -> None:
    moody = Moody(4, times=2)
    path = run(tmp_path, moody, retry_errors=3, fail_on_error=0)
    assert (path / "done").exists()
    assert sorted(moody.asked.values()) == [1, 1, 1, 1, 1, 1, 3, 3]
    with pytest.raises(MedbenchError, match=r"2 of 8 samples failed"):
        run(tmp_path / "fewer", Moody(4, times=3), retry_errors=1, fail_on_error=0)


@pytest.mark.slow
def test_a_complete_run_is_opened_again_to_ask_what_failed(tmp_path: Path) -> None:
    moody = Moody(4, times=1)
    path = run(tmp_path, moody, fail_on_error="50%")
    before = moody.asked.total()
    assert run(tmp_path, moody, fail_on_error="50%", retry_errors=1) == path
    assert moody.asked.total() == before + 2
    assert json.loads((path / "results.json").read_text())["tasks"]["pubmedqa"]["states"]["error"] == 0
    assert run(tmp_path, moody, retry_errors=1) == path
    assert moody.asked.total() == before + 2


def test_a_model_that_fails_on_everything_ends_a_run_early(tmp_path: Path) -> None:
    moody = Moody(1)
    with pytest.raises(RunError, match=r"samples failed one after the other \(\d+ model\).*ValueError: no words"):
        run(tmp_path, moody, tasks="medqa,pubmedqa,slake-vqa,path-vqa", limit=None)
    assert moody.asked.total() <= 200
    moody.times = 0
    assert (run(tmp_path, moody, tasks="medqa,pubmedqa,slake-vqa,path-vqa", limit=None) / "done").exists()
    assert len(moody.asked) > 200


def command(data: Path, output: Path, *words: object, model: str = "mock:failing") -> list[object]:
    chosen = ["--tasks", "dermamnist,slake-*,path-vqa,pubmedqa,medqa", "--data-dir", data]
    return ["run", "--model", model, *chosen, "--output-dir", output, *words]


@pytest.mark.slow
def test_the_option_changes_no_identity_and_is_kept(small_data: Path, tmp_path: Path) -> None:
    plain = medbench(*command(small_data, tmp_path / "plain"))
    told = medbench(*command(small_data, tmp_path / "told", "--fail-on-error", "90%", "--retry-errors"))
    assert (plain.returncode, told.returncode) == (0, 0), told.stderr
    [first], [second] = ([one for one in (tmp_path / name).iterdir() if one.is_dir()] for name in ("plain", "told"))
    assert first.name == second.name
    assert [(one / "done").exists() for one in (first, second)] == [False, True]
    assert "The run is complete with them. --retry-errors asks them again." in " ".join(told.stderr.split())
    settings = yaml.safe_load((second / "run.yaml").read_text())["settings"]
    assert (settings["fail_on_error"], settings["retry_errors"]) == ("90%", 1)
    stricter = medbench("run", "--config", second / "run.yaml", "--fail-on-error", "0", "--retry-errors", 0)
    assert stricter.returncode == EXIT_FAILED
    said = " ".join(stricter.stderr.split())
    assert "opened again" in said
    assert "--fail-on-error 0 allows 0. The first: The mock refuses" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("word", ["0.05", "many"])
def test_a_wrong_word_is_a_usage_error_before_anything_is_loaded(small_data: Path, tmp_path: Path, word: str) -> None:
    refused = medbench(*command(small_data, tmp_path / "runs", "--fail-on-error", word))
    assert refused.returncode == EXIT_USAGE
    assert "a whole number of samples" in refused.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_of_several_models_the_others_have_their_numbers(small_data: Path, tmp_path: Path) -> None:
    ran = medbench(*command(small_data, tmp_path, "--model", "mock:oracle", "--fail-on-error", "0"))
    assert ran.returncode == EXIT_FAILED
    assert "1 of 2 runs have no numbers: mock:failing" in ran.stderr
    [done] = tmp_path.glob("*/done")
    assert "oracle" in done.parent.name


@pytest.mark.slow
def test_the_shards_of_a_run_are_judged_together(small_data: Path, tmp_path: Path) -> None:
    count = medbench(*command(small_data, tmp_path / "whole", "--fail-on-error", "90%"))
    assert count.returncode == 0
    [whole] = (one for one in (tmp_path / "whole").iterdir() if one.is_dir())
    failed = sum(task["states"]["error"] for task in json.loads((whole / "results.json").read_text())["tasks"].values())
    for allowed, code in ((failed - 1, EXIT_FAILED), (failed, 0)):
        output = tmp_path / f"{allowed}"
        first, second = (
            medbench(*command(small_data, output, "--fail-on-error", allowed, "--shard", which))
            for which in ("1/2", "2/2")
        )
        assert (first.returncode, second.returncode) == (0, code), second.stderr
        assert bool(list(output.glob("*/done"))) is (code == 0)
        if code:
            assert f"{failed} of" in second.stderr
            assert not list(output.glob("*/results.json"))


@pytest.mark.slow
def test_workers_are_watched_too(small_data: Path, tmp_path: Path) -> None:
    few = medbench(*command(small_data, tmp_path, "--workers", 2, "--fail-on-error", 0))
    assert few.returncode == EXIT_FAILED
    assert "--fail-on-error 0 allows 0" in " ".join(few.stderr.split())
    many = medbench(*command(small_data, tmp_path, "--workers", 2, "--fail-on-error", "90%", "--retry-errors", 2))
    assert many.returncode == 0, many.stderr
    assert many.stderr.count("that failed are asked again") == 2
    assert list(tmp_path.glob("*/done"))
