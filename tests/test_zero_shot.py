"""Zero-shot marks: a variant asks about the data of its task, so who was trained on one has seen the other."""

import pytest

from medbench.adapters.catalog import find_adapter
from medbench.harness.results import ModelInfo
from medbench.tasks.catalog import benchmark_of, get_task, task_names


def info(trained_on: frozenset[str] | None) -> ModelInfo:
    return ModelInfo(
        name="m", title="M", weights="w", device="cpu", dtype="float32", trained_on=tuple(sorted(trained_on or ())),
        declared=trained_on is not None,
    )  # fmt: skip


def test_a_variant_has_the_data_of_its_task() -> None:
    variants = {name: get_task(name).variant_of for name in task_names() if get_task(name).variant_of}
    assert {benchmark_of(name) for name in variants} == set(variants.values())
    assert benchmark_of("medqa-options") == benchmark_of("medqa") == "medqa"
    assert benchmark_of("a-plugins-task") == "a-plugins-task"


@pytest.mark.parametrize(("model", "task"), [
    ("hf:google/medgemma-4b-it", "mimic-cxr-impression"), ("hf:google/medgemma-4b-it", "mimic-cxr-both"),
    ("hf:google/medgemma-4b-it", "mimic-cxr"), ("hf:lingshu-medical-mllm/Lingshu-7B", "medqa-options"),
    *(("blind", name) for name in ("medqa-options", "pubmedqa-context", "mimic-cxr-impression", "medqa")),
    ("xraygpt", "mimic-cxr-both"), ("radfm", "mimic-cxr-impression"),
])  # fmt: skip
def test_no_model_is_zero_shot_on_a_variant_of_what_it_was_trained_on(model: str, task: str) -> None:
    entry, variant = find_adapter(model)
    declared = entry.card_for(variant).trained_on
    assert declared
    assert not info(declared).is_zero_shot_on(task)


def test_who_saw_a_variant_has_seen_its_task() -> None:
    seen = info(frozenset({"mimic-cxr-impression"}))
    assert not seen.is_zero_shot_on("mimic-cxr")
    assert not seen.is_zero_shot_on("mimic-cxr-both")
    assert seen.is_zero_shot_on("medqa-options")


def test_where_nobody_has_said_anything_there_is_no_mark() -> None:
    assert not info(None).is_zero_shot_on("medqa-options")
    assert info(frozenset()).is_zero_shot_on("medqa-options")
