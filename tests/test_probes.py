"""Probes: what is asked in another way, and what a run beside its probe says."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from audit_terminal import medbench
from test_compare import table

from medbench.leaderboard.audit.probes import WRONG_KEYS, Pair, ProbeFinding, read_probe, read_wrong_keys, summary
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import EXIT_USAGE
from medbench.tasks.metrics.metric import FloatArray
from medbench.tasks.prepared import load_prepared
from medbench.tasks.probes import PROBES, probed
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.suite import prepare_mini_suite

# What the first test makes is shared by all.
pytestmark = pytest.mark.xdist_group("test_probes")


def samples_of(task: str) -> list[Sample]:
    return list(load_prepared(prepare_mini_suite(), task).samples("test"))


def optioned(count: int) -> list[Sample]:
    texts = {"A": "aspirin", "B": "insulin", "C": "warfarin", "D": "heparin"}
    options = "\n".join(f"{key}. {text}" for key, text in texts.items())
    return [
        Sample(
            sample_id=f"q{place}", task="medqa-options", split="test", reference="ABCD"[place % 4], choices=texts,
            inputs={"question": f"Which {place}?", "options": options}, groups={"document": f"q{place}"},
        )
        for place in range(count)
    ]  # fmt: skip


def test_options_move_and_the_right_one_with_them() -> None:
    before = optioned(40)
    asked = probed("options-shuffled", get_task("medqa-options"), before, 3)
    assert asked is not None
    _, after = asked
    for old, new in zip(before, after, strict=True):
        assert new.choices[new.reference] == old.choices[old.reference]
        assert new.reference != old.reference
        assert f"{new.reference}. {new.choices[new.reference]}" in new.inputs["options"].splitlines()
    assert len({new.reference for new in after}) == 4
    assert probed("options-shuffled", get_task("medqa-options"), before, 3) == asked
    assert probed("options-shuffled", get_task("medqa"), samples_of("medqa"), 3) is None


@pytest.mark.parametrize("task", ["slake-vqa", "path-vqa", "mimic-cxr", "dermamnist"])
def test_no_group_keeps_its_own_picture(task: str) -> None:
    spec, before = get_task(task), samples_of(task)
    asked = probed("image-shuffled", spec, before, 1)
    assert asked is not None
    pictures: dict[str, set[ImageRef]] = {}
    for sample in before:
        pictures.setdefault(sample.groups.get(spec.group_key, sample.sample_id), set()).update(sample.images)
    for old, new in zip(before, asked[1], strict=True):
        own = pictures[old.groups.get(spec.group_key, old.sample_id)]
        assert not own & set(new.images)
        assert len(new.images) == len(old.images)
        assert replace(new, images=old.images) == old


def test_pictures_go_and_words_change() -> None:
    spec, before = get_task("slake-vqa"), samples_of("slake-vqa")
    asked = probed("image-off", spec, before, 0)
    assert asked is not None
    assert not any(sample.images for sample in asked[1])
    other = probed("paraphrase", spec, before, 0)
    assert other is not None
    assert other[0].prompt != spec.prompt
    assert other[0].prompt in spec.train_prompts
    assert other[1] == before
    assert probed("image-off", get_task("medqa"), samples_of("medqa"), 0) is None


def pair(plain: FloatArray, asked: FloatArray) -> dict[str, Pair]:
    return {"dermamnist": Pair(plain=table("dermamnist", plain), probed=table("dermamnist", asked))}


def models(generator: np.random.Generator, memorised: float, harder: float) -> dict[str, Pair]:
    """Return a model's scores both ways; a memoriser loses what it knew by heart, everybody loses what got harder."""
    honest = generator.random((300, 4))
    plain = (honest < 0.6).astype(float)
    by_heart = generator.random((300, 4)) < memorised
    return pair(np.maximum(plain, by_heart), (honest < 0.6 - harder).astype(float))


def finding(
    memorised: float, *, peers: int, harder: float = 0.05, probe: str = "paraphrase", seed: int = 0
) -> ProbeFinding:
    generator = np.random.default_rng(seed)
    model = models(generator, memorised, harder)
    others = [models(generator, 0.0, harder) for _ in range(peers)]
    [found] = read_probe(probe, {"dermamnist": "cls"}, model, others, "strict", seed=seed)
    return found


def test_a_harder_question_is_no_leak_and_a_larger_fall_than_the_peers_is() -> None:
    honest = finding(0.0, peers=4)
    assert (honest.drop.p < 0.001, honest.falls) == (True, True)
    assert honest.verdict == "no_evidence"
    memoriser = finding(0.3, peers=4)
    assert memoriser.verdict == "suspicious"
    assert memoriser.gap is not None
    assert memoriser.gap.value > 0.05
    assert finding(0.3, peers=2).verdict == "not_testable"
    assert finding(0.3, peers=4, probe="image-off").verdict == "not_testable"


def test_a_page_begins_with_where_the_scores_fall() -> None:
    falls = finding(0.0, peers=0, harder=0.3, probe="image-shuffled")
    same = replace(finding(0.0, peers=0, harder=0.0, probe="image-shuffled"), task="slake-vqa")
    assert (falls.falls, same.falls) == (True, False)
    said = summary("image-shuffled", [falls, same])
    assert said.startswith("With the images of others the scores fall on dermamnist (")
    assert said.endswith(" %); no fall is shown on slake-vqa.")
    assert "at least 3 peers" in summary("paraphrase", [falls])
    assert summary("paraphrase", []) == ""


@pytest.mark.slow
def test_honest_models_are_hardly_ever_flagged() -> None:
    flagged = [finding(0.0, peers=3, seed=seed).verdict == "suspicious" for seed in range(60)]
    assert sum(flagged) <= 1


def test_agreeing_with_wrong_keys_is_evidence() -> None:
    assert read_wrong_keys([1.0] * 9).verdict == "not_testable"
    assert read_wrong_keys([]).verdict == "not_testable"
    assert read_wrong_keys([1.0] * 10).verdict == "strong"
    assert read_wrong_keys([1.0] * 31 + [0.0] * 9).verdict == "strong"
    assert read_wrong_keys([1.0] * 16 + [0.0] * 24).verdict == "no_evidence"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name, words in {
        "plain": ("--model", "mock:oracle"), "off": ("--model", "mock:oracle", "--probe", "image-off"),
        "other": ("--model", "mock:constant"),
    }.items():  # fmt: skip
        folder = tmp_path_factory.mktemp(name)
        done = medbench("run", *words, "--tasks", "vqa,cls", "--output-dir", folder)
        assert done.returncode == 0, done.stderr
        [found[name]] = [path for path in folder.iterdir() if path.is_dir()]
    return found


@pytest.mark.slow
def test_the_command_line_probes(runs: dict[str, Path], tmp_path: Path) -> None:
    assert "-image-off-" in runs["off"].name
    page = tmp_path / "probe.md"
    told = medbench("audit", "probe", runs["plain"], runs["off"], "--output", page)
    assert told.returncode == 5, told.stderr
    text = page.read_text(encoding="utf-8")
    assert "priors of the questions" in text
    said = "Without images no fall is shown on dermamnist, organsmnist, path-vqa and slake-vqa."
    assert told.stdout.startswith(f"{said}\n")
    assert f"> **{said}**" in text
    document = json.loads(medbench("audit", "probe", runs["plain"], runs["off"], "--format", "json").stdout)
    assert document["tasks"]["slake-vqa"]["drop"]["value"] == 0
    assert document["tasks"]["slake-vqa"]["verdict"] == "not_testable"
    wrong = tmp_path / "wrong.jsonl"
    names = [sample.sample_id for sample in samples_of("slake-vqa")[:12]]
    wrong.write_text("".join(json.dumps({"task": "slake-vqa", "sample_id": name}) + "\n" for name in names))
    keyed = medbench("audit", "probe", runs["plain"], "--wrong-gold", wrong, "--format", "json")
    found = json.loads(keyed.stdout)["tasks"][WRONG_KEYS]
    assert (keyed.returncode, "agrees with 12 of 12" in found["text"], found["verdict"]) == (4, True, "strong")


def test_a_probe_is_no_result(runs: dict[str, Path]) -> None:
    page = (runs["off"] / "leaderboard.md").read_text(encoding="utf-8")
    assert "PROBE image-off" in page
    for command in (("leaderboard", runs["plain"], runs["off"]), ("compare", runs["plain"], runs["off"])):
        refused = medbench(*command)
        assert (refused.returncode, "medbench audit probe" in refused.stderr) == (EXIT_USAGE, True)


def test_what_does_not_fit_together_is_told(runs: dict[str, Path], tmp_path: Path) -> None:
    for words, told in (
        ((runs["off"], runs["plain"]), "are not a run and its probe"),
        ((runs["other"], runs["off"]), "are of different weights"),
        ((runs["plain"],), "There is nothing to look at"),
    ):
        refused = medbench("audit", "probe", *words)
        assert (refused.returncode, told in refused.stderr) == (EXIT_USAGE, True), refused.stderr
    nothing = medbench("run", "--model", "mock", "--tasks", "qa", "--probe", "image-off", "--output-dir", tmp_path)
    assert (nothing.returncode, "changes nothing of medqa, pubmedqa" in nothing.stderr) == (EXIT_USAGE, True)


def test_every_probe_says_what_it_tells() -> None:
    for probe in PROBES.values():
        assert probe.meaning
        assert probe.kinds
