"""Runs with `--cache`: the bytes of one without, by answers of other runs; one changed ingredient asks anew."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import tiny_vlms
from command_line import medbench, medbench_process, start_medbench
from fault_server import Answer, Asked, completion, fault_server, refusal, say
from PIL import Image
from safetensors.torch import load_file, save_file
from shard_runs import contents, environment, folder_in

import medbench as api
from medbench.harness import local
from medbench.harness.cache.memory import HITS, MISSES
from medbench.harness.cache.store import FILE, Store
from medbench.harness.engine.engine import Engine
from medbench.harness.local import SelfTest
from medbench.tasks.foundation.console import Silent

TASKS = "slake-*,dermamnist"
pytestmark = pytest.mark.xdist_group("cache")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlms.llava(tmp_path_factory.mktemp("weights") / "llava")


def words(model: Path | str, data: Path, output: Path, *more: object, tasks: str = TASKS) -> list[object]:
    name = f"hf:{model}" if isinstance(model, Path) else model
    return ["run", "--model", name, "--tasks", tasks, "--data-dir", data, "--output-dir", output, *more]


def counts(output: Path) -> tuple[int, int]:
    """Return how many answers of the one run were known, and how many were asked."""
    found: dict[str, int] = environment(folder_in(output))["phases"]["counts"]  # type: ignore[assignment]
    return found.get(HITS, 0), found.get(MISSES, 0)


def ran(done: CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return " ".join(done.stderr.split())


@pytest.fixture(scope="module")
def plain(model: Path, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a cache."""
    output = tmp_path_factory.mktemp("plain")
    assert "Cache:" not in ran(medbench(*words(model, small_data, output)))
    return output


@pytest.fixture(scope="module")
def filled(model: Path, small_data: Path, plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that a run filled."""
    output = tmp_path_factory.mktemp("filled")
    said = ran(medbench(*words(model, small_data, output / "runs", "--cache", output / "cache")))
    hits, misses = counts(output / "runs")
    # Two questions may be the same request.
    assert (hits, misses > 0) == (0, True)
    assert f"Cache: 0 of {misses:,} answers were known." in said
    assert_same(plain, output / "runs")
    return output / "cache"


def assert_same(first: Path, second: Path) -> None:
    one, other = folder_in(first), folder_in(second)
    assert one.name == other.name
    assert contents(one) == contents(other)
    # All but the folder that it was made in.
    yaml = [(run / "run.yaml").read_text().replace(str(run.parent), "") for run in (one, other)]
    assert yaml[0] == yaml[1]


def nothing_to_ask(_: object, requests: Sequence[object], __: object) -> SelfTest:
    assert not requests
    return SelfTest()


def test_a_run_is_answered_by_another(model: Path, small_data: Path, tmp_path: Path) -> None:
    for place, known in (("a", (0, 2)), ("b", (2, 0))):
        said = ran(medbench(*words(model, small_data, tmp_path / place, "--cache", tmp_path, tasks="slake-rec")))
        assert counts(tmp_path / place) == known
        assert f"Cache: {known[0]} of 2 answers were known." in said
    assert_same(tmp_path / "a", tmp_path / "b")


@pytest.mark.slow
def test_a_second_run_is_answered_from_the_cache_and_writes_the_same_bytes(
    model: Path, small_data: Path, plain: Path, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "self_test", nothing_to_ask)
    said = ran(medbench(*words(model, small_data, tmp_path, "--cache", filled)))
    hits, misses = counts(tmp_path)
    assert (hits > 0, misses) == (True, 0)
    assert f"Cache: {hits:,} of {hits:,} answers were known." in said
    assert_same(plain, tmp_path)


@pytest.mark.slow
def test_names_places_and_numbers_of_samples_do_not_matter(
    model: Path, small_data: Path, filled: Path, tmp_path: Path
) -> None:
    moved, data = shutil.copytree(model, tmp_path / "m" / "llava"), shutil.copytree(small_data, tmp_path / "data")
    more = ("--limit", "1", "--batch-size", "1", "--cache", filled)
    ran(medbench(*words(moved, data, tmp_path / "runs", *more, tasks="dermamnist,slake-rec")))
    assert counts(tmp_path / "runs") == (2, 0)


@pytest.mark.slow
def test_a_cache_that_cannot_be_had_or_is_damaged_changes_no_byte(
    model: Path, small_data: Path, plain: Path, filled: Path, tmp_path: Path
) -> None:
    shutil.copytree(filled, tmp_path / "cache")
    content = bytearray((tmp_path / "cache" / FILE).read_bytes())
    at = content.index(b'{"mark"')
    content[at + 20] ^= 4
    (tmp_path / "cache" / FILE).write_bytes(content)
    (tmp_path / "file").write_text("")
    said = ran(medbench(*words(model, small_data, tmp_path / "a", "--cache", tmp_path / "cache")))
    assert "and a new one begins" in said
    assert_same(plain, tmp_path / "a")
    assert Store(tmp_path / "cache").verify() > 0
    said = ran(medbench(*words(model, small_data, tmp_path / "b", "--cache", tmp_path / "file")))
    assert said.count("The run goes on without the cache of answers.") == 1
    assert_same(plain, tmp_path / "b")


@pytest.mark.slow
def test_answers_of_an_engine_that_failed_its_self_test_are_not_kept(
    model: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "self_test", lambda *_: SelfTest(equal=1, total=2, whole="it was so"))
    ran(medbench(*words(model, small_data, tmp_path / "runs", "--cache", tmp_path, tasks="slake-vqa")))
    assert Store(tmp_path).held() == []


@pytest.mark.slow
def test_a_picture_that_changes_while_it_is_seen_is_not_kept(
    model: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shutil.copytree(small_data, tmp_path / "data")
    manifest = data / "slake-vqa" / "manifest.json"
    source = Path(json.loads(manifest.read_text())["source"])
    shutil.copytree(source, tmp_path / "source")
    manifest.write_text(manifest.read_text().replace(str(source), str(tmp_path / "source")))
    generate = Engine.generate

    def slowly(self: Engine, requests: Iterator[object]) -> Iterator[object]:
        for outcomes in generate(self, requests):  # type: ignore[arg-type]
            for picture in (tmp_path / "source").rglob("*.jpg"):
                Image.new("RGB", (9, 9)).save(picture)
            yield outcomes

    monkeypatch.setattr(Engine, "generate", slowly)
    ran(medbench(*words(model, data, tmp_path / "runs", "--cache", tmp_path / "cache", tasks="slake-vqa")))
    assert Store(tmp_path / "cache").held() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more", "why"),
    [
        ("blind", (), "answers by itself"),
        ("tiny", ("--temperature", "0.5"), "draws its tokens at random"),
    ],
)
def test_a_run_says_why_it_does_not_use_the_cache(
    name: str, more: tuple[str, ...], why: str, model: Path, small_data: Path, tmp_path: Path
) -> None:
    chosen = model if name == "tiny" else name
    said = ran(medbench(*words(chosen, small_data, tmp_path / "runs", "--cache", tmp_path, *more, tasks="slake-vqa")))
    assert "The cache of answers is not used: " in said
    assert why in said
    assert not (tmp_path / FILE).exists()


class Heard(Silent):
    def __init__(self) -> None:
        self.said = ""

    def say(self, text: str) -> None:
        self.said += text

    warn = say


@pytest.mark.slow
def test_the_python_api_takes_a_cache_and_auto_is_the_usual_one(
    model: Path, small_data: Path, medbench_home: Path, tmp_path: Path
) -> None:
    for place in ("a", "b"):
        api.run(
            f"hf:{model}", "slake-rec", data_dir=small_data, output_dir=tmp_path / place, cache="auto", progress=False
        )
    assert counts(tmp_path / "a")[0] == counts(tmp_path / "b")[1] == 0
    assert (medbench_home / "answers" / FILE).exists()
    heard = Heard()
    api.run(
        lambda prompt: prompt, "slake-rec", data_dir=small_data, output_dir=tmp_path / "c", cache="auto",
        progress=heard,
    )  # fmt: skip
    assert "a model that is given as an object may be another one next time" in heard.said


# One changed ingredient, through the command line


def weights(folder: Path) -> None:
    found = load_file(folder / "model.safetensors")
    found[min(found)].view(-1)[0] += 1
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})


def edited(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


def pixels(source: Path) -> None:
    for picture in source.rglob("*.jpg"):
        Image.new("RGB", (50, 40), "red").save(picture)


INGREDIENTS: dict[str, tuple[Callable[[Path], object] | None, Callable[[Path], object] | None, tuple[str, ...]]] = {
    "nothing": (None, None, ()),
    "one weight": (weights, None, ()),
    "the tokenizer": (edited("tokenizer.json", "\n"), None, ()),
    "the chat template": (edited("chat_template.jinja", "Answer:"), None, ()),
    "the processor": (edited("processor_config.json", "\n"), None, ()),
    "bytes of pictures": (None, pixels, ()),
    "an argument of the model": (None, None, ("--model-arg", "system=Be brief.")),
    "the longest answer": (None, None, ("--max-new-tokens", "7")),
    "the type": (None, None, ("--dtype", "bfloat16")),
    "the penalty of repetitions": (None, None, ("--repetition-penalty", "1.2")),
    "the engine": (None, None, ("--engine", "transformers")),
    "the seed": (None, None, ("--seed", "1")),
    "rounded weights": (None, None, ("--quantize", "8bit")),
    "the way of asking": (None, None, ("--probe", "image-off")),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", INGREDIENTS)
def test_one_changed_ingredient_asks_everything_anew(
    what: str, model: Path, small_data: Path, filled: Path, tmp_path: Path
) -> None:
    of_model, of_data, more = INGREDIENTS[what]
    folder = shutil.copytree(model, tmp_path / "m" / "llava")
    data = shutil.copytree(small_data, tmp_path / "data")
    shutil.copytree(filled, tmp_path / "cache")
    if of_model:
        of_model(folder)
    if of_data:
        manifest = data / "slake-vqa" / "manifest.json"
        source = json.loads(manifest.read_text())["source"]
        of_data(shutil.copytree(source, tmp_path / "source"))
        manifest.write_text(manifest.read_text().replace(source, str(tmp_path / "source")))
    cache = ("--cache", tmp_path / "cache")
    ran(medbench(*words(folder, data, tmp_path / "runs", *cache, *more, tasks="slake-vqa")))
    hits, misses = counts(tmp_path / "runs")
    assert (hits > 0, misses > 0) == ((True, False) if what == "nothing" else (False, True))


# Served models


@pytest.mark.slow
def test_a_served_model_is_asked_once_and_failures_are_asked_again(small_data: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def behave(one: Asked) -> Answer:
        asked.append(one.question)
        # The first question is refused when it is asked for the first time.
        return refusal(400, "too odd") if one.number == 0 else Answer(body=completion("MRI"))

    with fault_server(behave) as served:
        given = (f"openai:tiny@{served.url}", small_data)
        more = ("--cache", tmp_path / "cache", "--model-arg", "concurrency=1")
        first = medbench(*words(*given, tmp_path / "a", *more))
        total = len(asked)
        said = ran(medbench(*words(*given, tmp_path / "b", *more)))
    assert "too odd" in first.stderr
    assert (total > 1, asked[total:]) == (True, asked[:1])
    assert counts(tmp_path / "b") == (total - 1, 1)
    assert f"Cache: {total - 1} of {total} answers were known." in said
    lines = [json.loads(line) for line in (folder_in(tmp_path / "b") / "calls.jsonl").read_text().splitlines()]
    assert sorted(line["attempts"] for line in lines) == [0] * (total - 1) + [1]
    assert {line["model"] for line in lines} == {"tiny-2024-05-01"}


@pytest.mark.slow
def test_a_served_models_run_is_the_same_bytes_from_the_cache(small_data: Path, tmp_path: Path) -> None:
    with fault_server(say("<think>hm</think> MRI")) as served:
        cache: tuple[object, ...] = ("--cache", tmp_path)
        for place, more in {"a": (), "b": cache, "c": cache}.items():
            ran(medbench(*words(f"openai:tiny@{served.url}", small_data, tmp_path / place, *more)))
        assert_same(tmp_path / "a", tmp_path / "b")
        assert_same(tmp_path / "a", tmp_path / "c")
        assert counts(tmp_path / "c")[1] == 0
        unset = ("--cache", tmp_path, "--model-arg", "temperature=unset")
        said = ran(medbench(*words(f"openai:tiny@{served.url}", small_data, tmp_path / "d", *unset)))
        assert "is not asked for the likeliest token" in said
        assert counts(tmp_path / "d") == (0, 0)
        # What the server is told is part of the key.
        told = ("--cache", tmp_path, "--model-arg", "system=Be brief.")
        said = ran(medbench(*words(f"openai:tiny@{served.url}", small_data, tmp_path / "e", *told)))
        assert "tells nothing of the weights that it serves" in said
        assert counts(tmp_path / "e")[0] == 0


# Several processes


@pytest.mark.slow
def test_shards_and_workers_share_a_cache(
    model: Path, small_data: Path, plain: Path, filled: Path, tmp_path: Path
) -> None:
    for number in (1, 2):
        ran(medbench(*words(model, small_data, tmp_path / "shards", "--shard", f"{number}/2", "--cache", tmp_path)))
    assert_same(plain, tmp_path / "shards")
    said = ran(medbench(*words(model, small_data, tmp_path / "workers", "--workers", "2", "--cache", tmp_path)))
    assert contents(folder_in(plain)) == contents(folder_in(tmp_path / "workers"))
    assert counts(tmp_path / "workers")[1] == 0
    assert "Cache: " in said
    ran(medbench(*words(model, small_data, tmp_path / "again", "--workers", "2", "--cache", filled)))
    assert counts(tmp_path / "again")[1] == 0


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_a_sound_cache(model: Path, small_data: Path, plain: Path, tmp_path: Path) -> None:
    for number in range(4):
        started = start_medbench(*words(model, small_data, tmp_path / str(number), "--cache", tmp_path))
        deadline = time.monotonic() + 60
        while not (tmp_path / FILE).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1 * number)
        os.kill(started.pid, signal.SIGKILL)
        started.communicate()
    assert medbench_process("cache", "verify", "--cache", tmp_path).returncode == 0
    ran(medbench(*words(model, small_data, tmp_path / "last", "--cache", tmp_path)))
    assert_same(plain, tmp_path / "last")
