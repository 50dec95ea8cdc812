"""Gradients of models of transformers: their own processors and templates, labels on the answers alone."""

from pathlib import Path

import pytest
import tiny_vlms
import torch
from command_line import medbench

from medbench.adapters.hf_gradients import HfSource, connector_of, group_of, subject_of
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.prepared import load_prepared
from medbench.unimed.interpret.choice import Choice
from medbench.unimed.interpret.document import read_document

MADE = {**tiny_vlms.FAMILIES, **tiny_vlms.WHOLE}
TASKS = ("slake-vqa", "slake-rec")
REFUSED = {"paligemma"}  # Its processor writes a line break behind what it is given.


def opened(family: str, folder: Path, data: Path, size: int = 2) -> HfSource:
    made = MADE[family](folder / family)
    choice = Choice(data_dir=data, tasks=TASKS, batches=2, batch_size=size, device="cpu")
    return subject_of(str(made), family, choice).open()


@pytest.mark.parametrize("family", sorted(MADE.keys() - REFUSED))
def test_the_loss_is_that_of_the_answers_and_its_gradient_reaches_the_connector(
    family: str, small_data: Path, tmp_path: Path
) -> None:
    source = opened(family, tmp_path, small_data)
    prepared, spec = load_prepared(small_data, "slake-vqa"), get_task("slake-vqa")
    samples = sorted(source.samples["slake-vqa"], key=lambda one: len(one.reference))
    asked = [(one, spec, prepared.images(one)) for one in (samples[0], samples[-1])]
    together = source.adapter.taught(asked)
    losses, tokens, flat = [], [], []
    for row, one in enumerate(asked):
        inputs = source.adapter.taught([one])
        labels = inputs.pop("labels")[0]
        answer = labels[labels >= 0]
        assert torch.equal(answer, together["labels"][row][together["labels"][row] >= 0])
        assert source.adapter.detokenise(answer.tolist()) == one[0].reference
        assert int(labels[-1]) in source.adapter.end_ids
        with torch.no_grad():
            logits = source.model(**inputs).logits[0]
        losses.append(torch.nn.functional.cross_entropy(logits[:-1][labels[1:] >= 0].float(), answer, reduction="sum"))
        tokens.append(len(answer))
        flat.append(source._step({**inputs, "labels": labels[None]}).gradient * len(answer))
    step = source._step(together)
    assert step.loss == pytest.approx(float(sum(losses)) / sum(tokens), abs=2e-3)
    whole = torch.stack(flat).sum(dim=0) / sum(tokens)
    assert torch.nn.functional.cosine_similarity(step.gradient, whole, dim=0) > 0.99
    assert step.gradient.shape == (source.layout.size,)
    assert all(bool(step.gradient[of].any()) for of in source.layout.groups.values())


def test_a_step_against_the_gradient_lowers_the_loss(small_data: Path, tmp_path: Path) -> None:
    source = opened("llava", tmp_path, small_data)
    [before] = source.steps("slake-rec", 0, 1)
    named, place = dict(source.model.named_parameters()), 0
    rate = 1e-4 / float(before.gradient.norm())
    with torch.no_grad():
        for name in source.layout.names:
            one = named[name]
            one.sub_(rate * before.gradient[place : place + one.numel()].view_as(one))
            place += one.numel()
    [after] = source.steps("slake-rec", 0, 1)
    assert before.loss - after.loss == pytest.approx(1e-4 * float(before.gradient.norm()), rel=0.1)


def test_what_cannot_be_taken_apart_is_refused_by_name(small_data: Path, tmp_path: Path) -> None:
    source = opened("paligemma", tmp_path, small_data)
    with pytest.raises(UsageError, match="paligemma"):
        list(source.steps("slake-vqa", 0, 1))
    with pytest.raises(UsageError, match="Linear"):
        connector_of(torch.nn.Linear(2, 2))


def test_the_modules_of_a_connector_are_groups(tmp_path: Path, small_data: Path) -> None:
    source = opened("qwen3_vl", tmp_path, small_data)
    assert set(source.layout.groups) == {"merger", "deepstack_merger_list"}
    assert {group_of(name) for name in source.layout.names} == set(source.layout.groups)


def test_the_whole_command(small_data: Path, tmp_path: Path) -> None:
    folder = tiny_vlms.llava(tmp_path / "tiny-llava")
    words = ("--data-dir", small_data, "--tasks", ",".join(TASKS), "--batches", 2, "--batch-size", 1)
    told = medbench("interpret", f"hf:{folder}", *words, "--output", tmp_path / "out")
    assert told.returncode == 0, told.stderr
    [model] = read_document(tmp_path / "out" / "interference.json").models
    assert model.label == "tiny-llava"
    assert model.groups.keys() == {"all", "multi_modal_projector"}
    assert model.routing == {}
    assert model.connector == "LlavaForConditionalGeneration: multi_modal_projector"
