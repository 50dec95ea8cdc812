"""Probes: what is asked in another way, and what a run beside its probe says."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from audit_terminal import medbench
from test_compare import table

from medbench.leaderboard.audit.probes import WRONG_KEYS, Pair, ProbeFinding, read_probe, read_wrong_keys, summary
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import EXIT_USAGE
from medbench.tasks.foundation.files import fingerprint
from medbench.tasks.metrics.metric import FloatArray
from medbench.tasks.prepared import load_prepared
from medbench.tasks.probes import PROBES, may_change, probed
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.spec import Kind
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


@pytest.mark.parametrize("probe", PROBES)
def test_what_a_probe_may_change_is_told_without_the_samples(probe: str) -> None:
    for task in ("medqa", "slake-vqa", "slake-rec", "slake-reg", "mimic-cxr", "dermamnist"):
        spec = get_task(task)
        assert may_change(probe, task, spec.kind) == (probed(probe, spec, samples_of(task), 0) is not None)
    assert may_change(probe, "medqa-options", "qa") == (
        probed(probe, get_task("medqa-options"), optioned(8), 0) is not None
    )
    # A task whose package is not installed is known by its kind alone.
    assert may_change(probe, "somebody's", "vqa") == (probe != "options-shuffled")


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


def few(cases: int, *, memorised: bool = False) -> list[dict[str, Pair]]:
    """Return a model and three peers on so few cases; nobody falls, or the model on every case."""
    plain = (np.random.default_rng(0).random((cases, 4)) < 0.6).astype(float)
    honest = pair(plain, plain)
    return [pair(np.ones((cases, 4)), np.zeros((cases, 4))) if memorised else honest, honest, honest, honest]


@pytest.mark.parametrize("cases", [2, 6, 10])
def test_where_nothing_could_be_found_nothing_is_said_to_be_clean(cases: int) -> None:
    """With 10 cases the least one-sided p is 2 ** -10, just below 0.001; of two tasks each needs half of that."""
    model, *peers = few(cases)
    [found] = read_probe("paraphrase", {"dermamnist": "cls"}, model, peers, "strict", seed=0)
    assert found.verdict == ("no_evidence" if cases == 10 else "not_testable")
    assert np.isnan(found.least_gap) == (cases < 10)
    two = [one | {"organsmnist": one["dermamnist"]} for one in (model, *peers)]
    kinds: dict[str, Kind] = {"dermamnist": "cls", "organsmnist": "cls"}
    assert {one.verdict for one in read_probe("paraphrase", kinds, two[0], two[1:], "strict", seed=0)} == {
        "not_testable"
    }
    model, *peers = few(cases, memorised=True)
    [found] = read_probe("paraphrase", {"dermamnist": "cls"}, model, peers, "strict", seed=0)
    assert found.verdict == ("suspicious" if cases == 10 else "not_testable")


@pytest.mark.slow
def test_a_gap_that_would_have_been_shown_is_told() -> None:
    """A gap of the told size is found in most of many models, and a third of it in few."""
    least = finding(0.0, peers=4).least_gap
    assert 0.03 < least < 0.15
    # By heart is known what would have been wrong: four of ten questions.
    shown = [finding(least / 0.4, peers=4, seed=seed).verdict == "suspicious" for seed in range(30)]
    assert sum(shown) >= 20
    assert sum(finding(least / 1.2, peers=4, seed=seed).verdict == "suspicious" for seed in range(30)) <= 10


def test_no_fall_is_not_said_where_none_could_be_shown() -> None:
    model = few(4, memorised=True)[0]
    [found] = read_probe("image-off", {"dermamnist": "cls"}, model, [], "strict", seed=0)
    assert found.falls is None
    said = summary("image-off", [found, replace(found, task="slake-vqa", falls=False)])
    assert said == (
        "Without images no fall is shown on slake-vqa; there are too few cases to show a fall on dermamnist."
    )


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
        "other": ("--model", "mock:constant"), "short": ("--model", "mock:constant", "--max-new-tokens", "slake-vqa=3"),
        "other-off": ("--model", "mock:constant", "--probe", "image-off"),
    }.items():  # fmt: skip
        found[name] = run_of(tmp_path_factory.mktemp(name), *words, "--tasks", "vqa,cls")
    return found


def run_of(folder: Path, *words: str) -> Path:
    done = medbench("run", *words, "--output-dir", folder)
    assert done.returncode == 0, done.stderr
    [found] = [path for path in folder.iterdir() if path.is_dir()]
    return found


def made_elsewhere(run: Path, folder: Path, **parts: object) -> Path:
    """Return a copy of a run whose identity has other parts."""
    copy = folder / run.name
    shutil.copytree(run, copy)
    document = yaml.safe_load((copy / "run.yaml").read_text(encoding="utf-8"))
    document["identity_of"] |= parts
    document["identity"] = fingerprint(document["identity_of"])[:12]
    (copy / "run.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return copy


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
    assert "- **Too few cases**" in text
    assert "fewer than 20 testable cases" not in text
    # The probe's own notice, that it is no result, is for other pages.
    assert "PROBE" not in text
    assert document["notes"][0].startswith("MINI SUITE")


def keys(path: Path, *names: tuple[str, str]) -> Path:
    path.write_text("".join(json.dumps({"task": task, "sample_id": name}) + "\n" for task, name in names))
    return path


def test_wrong_keys_that_a_run_did_not_answer_are_named(runs: dict[str, Path], tmp_path: Path) -> None:
    names = [("slake-vqa", sample.sample_id) for sample in samples_of("slake-vqa")[:12]]
    wrong = keys(tmp_path / "wrong.jsonl", *names, ("slake-vqa", "nobody"), ("slake-rec", "nothing"))
    keyed = medbench("audit", "probe", runs["plain"], "--wrong-gold", wrong, "--format", "json")
    document = json.loads(keyed.stdout)
    found = document["tasks"][WRONG_KEYS]
    assert (keyed.returncode, "agrees with 12 of 12" in found["text"], found["verdict"]) == (4, True, "strong")
    told = "The run has no score of 2 items with wrong keys: slake-rec/nothing and slake-vqa/nobody."
    assert told in document["notes"]
    for given, named in (([("slake-vqa", "nobody")], ": slake-vqa/nobody."), ([], "has a score of.")):
        refused = medbench("audit", "probe", runs["plain"], "--wrong-gold", keys(tmp_path / "none.jsonl", *given))
        assert (refused.returncode, named in refused.stderr) == (EXIT_USAGE, True), refused.stderr
        assert "scores/TASK.jsonl" in refused.stderr


def test_what_a_probe_leaves_as_it_is_is_named(tmp_path: Path) -> None:
    said = "Left out, since the probe changes nothing of them: slake-rec."
    words = ("run", "--model", "mock:oracle", "--tasks", "slake-vqa,slake-rec", "--probe", "image-off")
    for more in ((), ("--dry-run",)):
        asked = medbench(*words, *more, "--output-dir", tmp_path / "off")
        assert (asked.returncode, said in " ".join(asked.stderr.split())) == (0, True), asked.stderr
    plain = run_of(tmp_path / "plain", "--model", "mock:oracle", "--tasks", "slake-vqa,slake-rec,path-vqa")
    [off] = [path for path in (tmp_path / "off").iterdir() if path.is_dir()]
    notes = json.loads(medbench("audit", "probe", plain, off, "--format", "json").stdout)["notes"]
    assert "Not compared, as the probe changes nothing of them: slake-rec." in notes
    assert "Not compared, as the probe was not asked them: path-vqa." in notes


def test_a_peer_is_another_model(runs: dict[str, Path]) -> None:
    own, peer = (runs["plain"], runs["off"]), (runs["other"], runs["other-off"])
    for peers in ((own,), (peer, peer)):
        words = [word for pair in peers for word in ("--peer", *pair)]
        refused = medbench("audit", "probe", *own, *words)
        told = f"runs of the same weights: {peers[0][0]}, {peers[-1][0]}."
        assert (refused.returncode, told in refused.stderr.replace("\n", " ")) == (EXIT_USAGE, True), refused.stderr
    assert medbench("audit", "probe", *own, "--peer", *peer).returncode == 5


def test_what_a_run_and_its_probe_have_apart_is_refused_or_told(runs: dict[str, Path], tmp_path: Path) -> None:
    refused = medbench("audit", "probe", runs["short"], runs["other-off"])
    told = "differ in tasks slake-vqa max_new_tokens (3 and nothing)"
    assert (refused.returncode, told in refused.stderr) == (EXIT_USAGE, True), refused.stderr
    for part in ({"decoding": {"temperature": 1.0}}, {"dtype": "bfloat16"}, {"arguments": {"template": "new"}}):
        other = made_elsewhere(runs["off"], tmp_path / next(iter(part)), **part)
        refused = medbench("audit", "probe", runs["plain"], other)
        assert (refused.returncode, next(iter(part)) in refused.stderr) == (EXIT_USAGE, True), refused.stderr
    # What a user did not choose for the answers' sake is told; a limit of samples or greedy seeds change none.
    other = made_elsewhere(runs["off"], tmp_path, device="cuda", limit=7, seed=3)
    page = medbench("audit", "probe", runs["plain"], other, "--format", "markdown").stdout
    told = f"{runs['plain'].name} and {other.name} differ in device (cpu and cuda), which may change answers too."
    assert f"> {told}\n" in page.replace("\\", "")
    (other / "run.yaml").write_text("identity: x\nidentity_of: {}\n", encoding="utf-8")
    page = medbench("audit", "probe", runs["plain"], other, "--format", "json").stdout
    assert "were asked alike is not known" in json.loads(page)["notes"][0]


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
        ((runs["plain"],), "Give a second run, made with `medbench run --probe NAME`"),
        ((runs["plain"], "--peer", runs["other"], runs["other-off"]), "There is nothing to look at"),
    ):
        refused = medbench("audit", "probe", *words)
        assert (refused.returncode, told in refused.stderr) == (EXIT_USAGE, True), refused.stderr
    nothing = medbench("run", "--model", "mock", "--tasks", "qa", "--probe", "image-off", "--output-dir", tmp_path)
    assert (nothing.returncode, "changes nothing of medqa, pubmedqa" in nothing.stderr) == (EXIT_USAGE, True)


def test_every_probe_says_what_it_tells() -> None:
    for probe in PROBES.values():
        assert probe.meaning
        assert probe.kinds
