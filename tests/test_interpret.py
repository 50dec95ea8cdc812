"""`medbench interpret` on tiny checkpoints and the mini weights: what is measured, refused, and lost by a kill."""

import csv
import errno
import fcntl
import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import medbench, start_medbench
from test_unimed_training import TINY
from tiny_base import lora_overrides, make_base

from medbench.adapters.uni_med import MINI_WEIGHTS
from medbench.harness.rundir import held_output
from medbench.tasks.foundation.errors import DataError, RunError, UsageError
from medbench.tasks.suite import prepare_mini_suite
from medbench.unimed.checkpoint import BaseWeights, write_checkpoint
from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.interpret.choice import TEXT_ONLY, Choice, Precision, choose_tasks
from medbench.unimed.interpret.document import Measured, read_document
from medbench.unimed.interpret.gradients import UniMedSource, open_source, recipe_beside
from medbench.unimed.training.corpus import Mixture, load_corpus
from medbench.unimed.training.plan import build
from medbench.unimed.training.recipe import Recipe, load_recipe

TASKS = ("slake-vqa", "slake-rec")
FEW = ("--batches", 2, "--batch-size", 2, "--tasks", ",".join(TASKS))


def checkpoint(data: Path, folder: Path, recipe: Recipe, base: BaseWeights | None = None, steps: int = 0) -> Path:
    """Write an untrained checkpoint with its recipe, and as many on the way, each of other routers."""
    corpus = load_corpus(data, recipe, image_size=int(recipe.model.vision["image_size"]))
    model, processor = build(recipe, corpus, base, frozen_dtype=torch.float32)
    for step in range(steps):
        write_checkpoint(model, processor, folder / "checkpoints" / f"step-{step + 1:08d}", base=base)
        with torch.no_grad():
            model.connector.router.fc2.bias.copy_(torch.arange(model.config.num_experts) * (step + 1.0))
    write_checkpoint(model, processor, folder, base=base)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.table()))
    return folder


@pytest.fixture(scope="module")
def moe(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = load_recipe("mini", (*TINY, "validation={share: 0}", "augment_classification=false"))
    return checkpoint(small_data, tmp_path_factory.mktemp("folders") / "cmoe", recipe, steps=2)


@pytest.fixture(scope="module")
def mlp(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    more = ("validation={share: 0}", "model.unimed={connector_type: mlp2x_gelu, language_tuning: full}")
    recipe = load_recipe("mini", (*TINY, *more))
    return checkpoint(small_data, tmp_path_factory.mktemp("folders") / "mlp", recipe)


@pytest.fixture(scope="module")
def on_base(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with LoRA, and dropout on it, on frozen base weights."""
    base = make_base(tmp_path_factory.mktemp("base"))
    recipe = load_recipe("official", lora_overrides(base, "mixture={slake-vqa: 1, slake-rec: 1}"))
    return checkpoint(small_data, tmp_path_factory.mktemp("folders") / "lora", recipe, base)


def opened(folder: Path, data: Path, precision: Precision = "fp32") -> UniMedSource:
    choice = Choice(data_dir=data, batch_size=2, precision=precision)
    return open_source(folder, choice, choose_tasks(choice, recipe_beside(folder).tasks()))


def only(output: Path) -> Measured:
    [model] = read_document(output / "interference.json").models
    return model


def test_a_batch_is_one_of_the_training(small_data: Path, moe: Path) -> None:
    """The first batches of a task are those that a training of the same seed draws of it, prompts included."""
    source = opened(moe, small_data)
    recipe = recipe_beside(moe)
    sizes = source.maker.corpus.sizes()
    mixture = Mixture(sizes, dict.fromkeys(sizes, 1.0), micro_batch=2, seed=recipe.seed)
    trained: dict[str, list[torch.Tensor]] = {}
    for draw in islice(mixture.draws(parts=2), 60):
        trained.setdefault(draw.name, []).append(source.maker.make(draw).texts["input_ids"])
    for task in source.tasks:
        ours = [batch.texts["input_ids"] for batch in source._batches(task, 0, 4)]
        assert all(torch.equal(one, other) for one, other in zip(ours, trained[task], strict=False))
        later = next(iter(source._batches(task, 3, 1))).texts["input_ids"]
        assert torch.equal(later, ours[3])
    assert len(source.tasks) > 2


def test_gradients_are_those_of_the_loss_and_the_same_again(small_data: Path, on_base: Path) -> None:
    source = opened(on_base, small_data)
    steps = [list(source.steps("slake-vqa", 0, 2)) for _ in range(2)]
    assert all(torch.equal(one.gradient, other.gradient) for one, other in zip(*steps, strict=True))
    named = dict(source.model.connector.named_parameters())
    loss = source.model(**source._inputs(next(iter(source._batches("slake-vqa", 0, 1))))).loss
    loss.backward()
    reached = [named[name] for name in source.layout.names]
    flat = torch.cat([(torch.zeros_like(one) if one.grad is None else one.grad).flatten() for one in reached])
    torch.testing.assert_close(steps[0][0].gradient, flat)
    assert steps[0][0].loss == pytest.approx(float(loss.detach()))
    assert flat.abs().sum() > 0


def test_half_precision_is_near_and_learns_in_float32(small_data: Path, on_base: Path) -> None:
    exact, rough = opened(on_base, small_data), opened(on_base, small_data, "bf16")
    one, other = (next(iter(source.steps("slake-vqa", 0, 1))).gradient for source in (exact, rough))
    assert other.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.97
    assert not torch.equal(one, other)
    assert {p.dtype for p in rough.model.language_model.parameters()} == {torch.bfloat16}


def test_text_only_tasks_and_what_is_not_there_are_left_out_by_name(small_data: Path, tmp_path: Path) -> None:
    chosen = choose_tasks(Choice(data_dir=small_data), ("medqa", *TASKS))
    assert chosen.tasks == TASKS
    assert chosen.left_out == {"medqa": TEXT_ONLY}
    assert chosen.data.keys() == set(TASKS)
    assert chosen.suite == "custom"
    assert choose_tasks(Choice(data_dir=prepare_mini_suite()), TASKS).suite == "mini"
    with pytest.raises(UsageError, match="0 of the tasks"):
        choose_tasks(Choice(data_dir=tmp_path), TASKS)
    with pytest.raises(DataError):
        choose_tasks(Choice(data_dir=tmp_path, tasks=TASKS), ())
    with pytest.raises(UsageError, match="slake-vqa"):
        choose_tasks(Choice(data_dir=small_data, tasks=("slake-vqq",)), ())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nowhere",), "nowhere is no folder"),
        (("uni-med", "--tasks", "medqa,slake-vqa"), "never enter the connector"),
        (("uni-med", "--batches", "1"), "--batches"),
        (("uni-med",), "There is no --output"),
        (("hf:",), "hf:"),
    ],
)
def test_what_cannot_be_measured_is_refused(small_data: Path, words: tuple[str, ...], says: str) -> None:
    told = medbench("interpret", *words, "--data-dir", small_data)
    assert told.returncode == 2
    assert says in " ".join(told.stderr.split())


def test_a_folder_that_is_held_or_none_is_refused_in_one_sentence(small_data: Path, moe: Path, tmp_path: Path) -> None:
    words = ("interpret", moe, "--data-dir", small_data, *FEW, "--output")
    (tmp_path / "file").write_text("mine")
    told = medbench(*words, tmp_path / "file")
    assert told.returncode == 2
    assert told.stderr.splitlines() == [
        f"Error: --output {tmp_path / 'file'} is a file, not a folder.",
        "Give a folder, which need not be there yet.",
    ]
    assert (tmp_path / "file").read_text() == "mine"
    with held_output(tmp_path / "held", ""):
        told = medbench(*words, tmp_path / "held")
    assert (told.returncode, "Another process is measuring into" in told.stderr) == (1, True)
    assert not (tmp_path / "held" / "cmoe").exists()


def test_a_lock_lies_in_its_folder_and_can_be_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with held_output(tmp_path / "out", ""):
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(RunError, match="cannot be locked") as told, held_output(tmp_path / "out", ""):
        pass
    assert "--no-lock" in told.value.hint
    with held_output(tmp_path / "bare", "", lock=False):
        assert not list((tmp_path / "bare").iterdir())
    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(RunError, match="out cannot be written to: Permission denied") as told:
        held_output(tmp_path / "out", "").__enter__()
    assert told.value.hint == "Give a folder that you may write to with --output."


def test_a_folder_that_is_no_checkpoint_or_a_run_of_another_model_is_refused(small_data: Path, tmp_path: Path) -> None:
    told = medbench("interpret", tmp_path, "--data-dir", small_data, "--dry-run")
    assert told.returncode == 1
    assert "no config.json" in told.stderr
    (tmp_path / "run.yaml").write_text("settings: {model: 'openai:x@y'}")
    told = medbench("interpret", tmp_path, "--data-dir", small_data, "--dry-run")
    assert told.returncode == 2
    assert "openai:x@y" in told.stderr


def test_a_plan_loads_no_weights_and_writes_nothing(small_data: Path, moe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "planned"
    folder.mkdir()
    (folder / "config.json").write_bytes((moe / "config.json").read_bytes())
    (folder / "recipe.yaml").write_bytes((moe / "recipe.yaml").read_bytes())
    told = medbench("interpret", folder, "--data-dir", small_data, "--batches", 7, "--dry-run")
    assert told.returncode == 0, told.stderr
    source = opened(moe, small_data)
    assert f"{source.layout.size:,}" in told.stdout
    assert f"3 x {len(source.tasks)} x 7 = {21 * len(source.tasks)}" in told.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "recipe.yaml"]


@pytest.mark.parametrize(
    ("settings", "parameters", "disk"),
    [({}, 707_079_685, "26.341"), ({"connector_type": "mlp2x_gelu"}, 39_854_080, "2.969")],
)
def test_the_plan_of_a_full_size_model(
    small_data: Path, tmp_path: Path, settings: dict[str, Any], parameters: int, disk: str
) -> None:
    UniMedConfig(**settings).save_pretrained(tmp_path)
    told = medbench("interpret", tmp_path, "--data-dir", small_data, "--dry-run")
    assert told.returncode == 0, told.stderr
    assert f"{parameters:,}" in told.stdout
    assert "3 x 10 x 100 = 3,000" in told.stdout
    assert disk in told.stdout


@pytest.mark.slow
def test_mlp_beside_cmoe(small_data: Path, moe: Path, mlp: Path, tmp_path: Path) -> None:
    words = ("interpret", mlp, moe, moe, "--data-dir", small_data, *FEW, "--output", tmp_path / "out")
    told = medbench(*words)
    assert told.returncode == 0, told.stderr
    document = read_document(tmp_path / "out" / "interference.json")
    one, other, again = document.models
    assert (one.label, other.label, again.label) == ("mlp", "cmoe", "cmoe-2")
    assert one.connector == "mlp2x_gelu"
    assert other.connector.startswith("moe: 5 mlp experts, soft router")
    assert one.groups.keys() == {"all", "projector"}
    assert other.groups.keys() == {"all", "experts", "router", "task tokens"}
    assert other.groups == again.groups
    assert one.routing == {}
    assert {len(weights) for weights in other.routing.values()} == {5}
    assert all(sum(filter(None, weights)) == pytest.approx(1, abs=1e-3) for weights in other.routing.values())
    # Each of the two tasks alone reaches its token.
    assert other.scores["task tokens"].tasks.single > 0
    assert other.scores["task tokens"].tasks.mean is None
    for name in ("mlp", "cmoe"):
        with (tmp_path / "out" / name / "direction-paper.csv").open() as stream:
            head, *rows = csv.reader(stream)
        assert head == ["group", "task", *TASKS]
        assert rows[0][:3] == ["all", "slake-vqa", "1.0"]


def test_routing_over_a_training_comes_from_its_checkpoints_and_its_log(
    small_data: Path, moe: Path, tmp_path: Path
) -> None:
    record = {"stage": "language", "step": 1, "expert_use": {"slake-vqa": [0.5, 0.5, 0, 0, 0]}}
    (moe / "train_log.jsonl").write_text(json.dumps(record) + "\n" + json.dumps({"stage": "vision"}) + "\n")
    told = medbench("interpret", moe, "--data-dir", small_data, *FEW, "--no-lock", "--output", tmp_path / "out")
    assert told.returncode == 0, told.stderr
    assert not list(tmp_path.rglob("*.lock"))
    found = only(tmp_path / "out").over_training
    assert [(one.step, one.source) for one in found] == [(1, "log"), (1, "checkpoint"), (2, "checkpoint")]
    assert found[0].weights == {"slake-vqa": (0.5, 0.5, 0.0, 0.0, 0.0)}
    assert found[1].weights.keys() == set(TASKS)
    last = [list(filter(None, one.weights["slake-vqa"])) for one in found[1:]]
    assert last[0] != last[1]
    # The second checkpoint's router leans to the later experts, as its bias says.
    assert sorted(last[1]) == last[1]
    (moe / "train_log.jsonl").unlink()


@pytest.mark.slow
def test_another_measurement_is_not_mixed_in(small_data: Path, mlp: Path, tmp_path: Path) -> None:
    words = ("interpret", mlp, "--data-dir", small_data, "--output", tmp_path / "out", "--tasks", ",".join(TASKS))
    assert medbench(*words, "--batches", 2).returncode == 0
    before = (tmp_path / "out" / "interference.json").read_bytes()
    told = medbench(*words, "--batches", 3)
    assert told.returncode == 1
    assert "batches was 2 and is 3" in " ".join(told.stderr.split())
    assert medbench(*words, "--batches", 2).returncode == 0
    assert (tmp_path / "out" / "interference.json").read_bytes() == before


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_bytes_on_the_mini_weights(tmp_path: Path) -> None:
    words = ("interpret", "uni-med", *FEW, "--output")
    whole = medbench(*words, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    assert "MINI SUITE" in whole.stderr
    assert "tug-of-war" in whole.stdout
    killed = start_medbench(*words, tmp_path / "killed")
    kept, until = tmp_path / "killed" / "uni-med-mini" / "kept", time.monotonic() + 200
    while not list(kept.glob("pass1-*.json")) and time.monotonic() < until:
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    assert not (tmp_path / "killed" / "interference.json").exists()
    again = medbench(*words, tmp_path / "killed")
    assert again.returncode == 0, again.stderr
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file())
    assert files
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes(), file
    model = only(tmp_path / "killed")
    assert model.groups["all"].parameters == 944_005
    assert model.suite == "mini"
    assert model.batches == model.batch_size == 2
    assert MINI_WEIGHTS.is_dir()
