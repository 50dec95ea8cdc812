"""Thoughts are taken out before an answer of any kind is read, and one that never ends is no answer."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import medbench
from hypothesis import given
from hypothesis import strategies as st

from medbench.adapters.base import answer_with_box
from medbench.adapters.mock import BOXES
from medbench.harness.rundir import GenerationRecord
from medbench.harness.score import predict, written_on
from medbench.tasks.answers.thoughts import ThoughtAndAnswer, final_answer, split_thought, thought_end
from medbench.tasks.catalog import get_task
from medbench.tasks.protocols import PROTOCOLS, evaluate
from medbench.tasks.sample import Box, Sample

FORMS = {
    "think": "<think>{}</think>{}",
    "thinking": "<thinking>\n{}\n</thinking>\n\n{}",
    "thought": "<thought>{}</thought>{}",
    "reasoning": "<Reasoning>{}</Reasoning> {}",
    "seed": "<seed:think>{}</seed:think>{}",
    "square": "[THINK]{}[/THINK]{}",
    "kimi": "◁think▷{}◁/think▷{}",
    "medgemma": "<unused94>thought\n{}<unused95>{}",
    "gpt-oss": "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
    "gpt-oss without its special tokens": "analysisWe see. {}assistantfinal{}",
    "gemma 4": "<|channel>thought\n{}<channel|>{}",
    "command": "<|START_THINKING|>{}<|END_THINKING|><|START_RESPONSE|>{}<|END_RESPONSE|>",
    "sky": "<|begin_of_thought|>{}<|end_of_thought|>\n<|begin_of_solution|>{}<|end_of_solution|>",
    "headings": "## Thinking\n\n{}\n\n## Final Response\n\n{}",
    "the template wrote the beginning": "{}\n</think>\n\n{}",
    "escaped": "&lt;think&gt;{}&lt;/think&gt;{}",
    "marked answer": "<think>{}</think><answer>{}</answer>",
    "forgotten end": "<think>{} <answer>{}</answer>",
    "boxed": "<think>{}</think>The answer is \\boxed{{{}}}.",
    "glm": "<think>{}</think><|begin_of_box|>{}<|end_of_box|>",
}
UNENDED = [
    "<think>Is it the liver? [1, 2, 3, 4] yes",
    "[THINK]the answer is B",
    "◁think▷the answer is B",
    "<|channel|>analysis<|message|>the answer is B",
    "analysisWe think the answer is B",
    "<unused94>thought\nthe answer is B",
    "## Thinking\n\nthe answer is B",
    "<think>The form is <answer>A</answer>, so let me",
    "<think>a</think>B<think>or is it C",
]
CHOICES = {"A": "warfarin", "B": "heparin", "C": "aspirin"}
WANTED = Box(100, 200, 300, 400)


def sample(task: str, reference: str, **fields: Any) -> Sample:
    return Sample(sample_id="1", task=task, split="test", reference=reference, **fields)


CASES = {
    "medqa-options": (sample("medqa-options", "B", choices=CHOICES), "B", "The answer is A. No, C."),
    "pubmedqa": (sample("pubmedqa", "no", choices={"yes": "yes", "no": "no", "maybe": "maybe"}), "no", "yes, or maybe"),
    "slake-vqa": (sample("slake-vqa", "Liver", labels={"answer_type": "OPEN"}), "Liver", "Is it the spleen?"),
    "dermamnist": (
        sample("dermamnist", "melanoma", choices={"melanoma": "melanoma", "dermatofibroma": "dermatofibroma"}),
        "melanoma",
        "a dermatofibroma",
    ),
    "slake-reg": (sample("slake-reg", "Liver"), "Liver", "the spleen"),
    "slake-rec": (
        sample("slake-rec", "Liver", box=WANTED, image_size=(512, 512)),
        "[100, 200, 300, 400]",
        "maybe [1, 2, 3, 4]?",
    ),
}


def scored(task: str, text: str, **fields: Any) -> dict[tuple[str, str], float]:
    question, _, _ = CASES[task]
    spec = get_task(task)
    record = GenerationRecord(run="r", sample_id="1", text=text, **fields)
    item = predict(record, question, spec, lambda text, sample, spec: answer_with_box(BOXES, text, sample, spec))
    return {
        (protocol, found.metric.metric_id): found.value
        for protocol in PROTOCOLS
        for found in evaluate(spec.name, spec.kind, protocol, [item])
        if len(found.indices)
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("task", CASES)
def test_who_thinks_first_scores_as_who_does_not(task: str, form: str) -> None:
    _, answer, thought = CASES[task]
    plain = scored(task, answer)
    assert plain
    assert set(plain.values()) == {1.0}
    assert scored(task, FORMS[form].format(thought, answer)) == plain


@pytest.mark.parametrize("form", FORMS)
def test_the_thought_is_told_apart_and_its_length_known(form: str) -> None:
    text = FORMS[form].format("It may be the spleen.", "Liver")
    said = split_thought(text)
    assert (said.answer, said.unfinished) == ("Liver", False)
    assert "It may be the spleen." in said.thought
    assert "spleen" not in text[thought_end(text) :]
    assert "Liver" in text[thought_end(text) :]


def test_a_heading_ends_no_thought_that_no_heading_began() -> None:
    text = "<think>x</think>Findings: clear.\n### Final answer\nB"
    assert text[thought_end(text) :].startswith("Findings")


@pytest.mark.parametrize("text", UNENDED)
@pytest.mark.parametrize("task", CASES)
def test_a_thought_that_never_ends_is_truncated_and_no_answer(task: str, text: str) -> None:
    question, _, _ = CASES[task]
    record = GenerationRecord(run="r", sample_id="1", text=text, stop="length")
    item = predict(
        record, question, get_task(task), lambda text, sample, spec: answer_with_box(BOXES, text, sample, spec)
    )
    assert (item.state, item.scorable.prediction) == ("truncated", "")
    assert item.scorable.predicted_box is None
    strict = {name: value for (protocol, name), value in scored(task, text).items() if protocol == "strict"}
    assert strict
    assert set(strict.values()) == {0.0}


def test_thoughts_that_a_server_files_apart_and_cuts_off_are_truncated() -> None:
    question, _, _ = CASES["slake-vqa"]
    record = GenerationRecord(run="r", sample_id="1", text="", stop="length", reasoning="Is it the liver?")
    item = predict(record, question, get_task("slake-vqa"), lambda text, *_: answer_with_box(BOXES, text, *_))
    assert item.state == "truncated"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Liver</s>", "Liver"),
        ("Liver<|im_end|>\n<|im_start|>user\nAnd the spleen?", "Liver"),
        ("<|im_start|>assistant\nLiver<|im_end|>", "Liver"),
        ("Liver<|eot_id|>", "Liver"),
        ("Liver<end_of_turn>\n", "Liver"),
        ("</s></s>", ""),
        ("<answer>Liver</answer>", "Liver"),
        ("The answer: <answer>\\boxed{Liver}</answer>", "Liver"),
        ("\\boxed{\\text{Liver}}", "\\text{Liver}"),
        ("<answer>Liver", "Liver"),
        ("<response>Liver</response>", "Liver"),
        ("<final>Liver</final>", "Liver"),
        ("<ans>Liver</ans>", "Liver"),
        ("<output>Liver</output>", "Liver"),
        ("It is. <solution>Liver</solution>", "Liver"),
        ("[ANSWER]Liver[/ANSWER]", "Liver"),
        ("[ANSWER]Liver", "Liver"),
        (
            "<response>\nFindings: clear lungs.\n\nImpression: normal.\n</response>",
            "Findings: clear lungs.\n\nImpression: normal.",
        ),
        ("<response>It may be <answer>Spleen</answer>. No: <answer>Liver</answer></response>", "Liver"),
        ("<answer>Spleen</answer> Checked. <final>Liver</final>", "Liver"),
        ("<response>Liver</response><response>Spleen</response>", "Liver or Spleen"),
        ("First \\boxed{A}. No, the answer is \\boxed{B}", "B"),
        ("\\boxed{A} or \\boxed{B}", "A or B"),
        ("\\boxed{}", "\\boxed{}"),
        ("<SUMMARY>s</SUMMARY><REASONING>A</REASONING><CONCLUSION>B</CONCLUSION>", "B"),
        ("<think>\n\n</think>\n\nyes", "yes"),
        ("<think>a<think>b</think>c</think>B", "B"),
        ("B <think>because of it</think>", "B"),
    ],
)
def test_marks_and_end_tokens_leave_the_answer(text: str, answer: str) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "Liver",
        "{<12><30><40><60>}",
        "<box>(100,200),(300,400)</box>",
        "<ref>liver</ref><box>(1,2),(3,4)</box>",
        "<loc0100><loc0200><loc0300><loc0400>",
        "p < 0.05 and x > 3",
        "I think it is the liver.",
        "FINDINGS:\nThe lungs are clear.\n**Final response**: none",
        "analysis of the image shows the liver",
        "Reasoning: the liver is bright. Answer: liver",
        "a thought [1, 2, 3, 4]",
    ],
)
def test_what_thinks_nothing_stays_as_it_is(text: str) -> None:
    assert split_thought(text) == ThoughtAndAnswer(answer=text)
    assert thought_end(text) == 0


_PARTS = [*"<>/|[]{}\\ \nab\u25c1\u25b7", "think", "answer", "boxed", "<|channel|>", "final", "<|message|>", "</think>"]


@given(st.lists(st.sampled_from(_PARTS), max_size=25).map("".join))
def test_any_text_is_taken_apart_and_the_answer_is_part_of_it(text: str) -> None:
    said = split_thought(text)
    assert not (said.unfinished and said.answer)
    assert 0 <= thought_end(text) <= len(text)


@pytest.mark.parametrize(
    "text",
    [
        "<think>" * 12_000,
        "</think>" * 11_000,
        "<answer>" * 11_000,
        "\\boxed{" * 12_000,
        "<|channel|>final<|message|>" * 3_000,
        "&lt;think " * 9_000,
        "</s>" * 20_000,
        "\n" * 90_000,
        " " * 90_000,
        "{" * 90_000,
        "<think>" + "<answer>" * 10_000,
        "analysisA" + "assistantfinal" * 6_000,
        "\\boxed{A}" * 9_000,
    ],
)
def test_long_texts_take_no_time(text: str) -> None:
    started = time.process_time()
    split_thought(text)
    assert time.process_time() - started < 0.5


def test_what_was_written_is_counted() -> None:
    records = [
        GenerationRecord(run="r", sample_id="1", text="<think>a</think>B", output_tokens=10, thought_tokens=8),
        GenerationRecord(run="r", sample_id="2", text="<think>a", stop="length", output_tokens=10, thought_tokens=10),
        GenerationRecord(run="r", sample_id="3", text="B", output_tokens=4),
        GenerationRecord(run="r", sample_id="4", error="the server fell over"),
    ]
    written = written_on(records)
    assert (written.answers, written.at_limit, written.thinking, written.cut_thoughts) == (3, 1, 2, 1)
    assert written.thought_share == 0.75
    assert written.limit_is_felt


def test_thoughts_whose_tokens_nobody_counts_are_told_by_their_characters() -> None:
    text = GenerationRecord(run="r", sample_id="1", text="<think>1234</think>Liver", output_tokens=24)
    apart = GenerationRecord(run="r", sample_id="2", text="Liver", reasoning="x" * 15, output_tokens=40)
    silent = GenerationRecord(run="r", sample_id="3", text="Liver")
    assert written_on([text]).thought_share == round(19 / 24, 4)
    assert written_on([apart]).thought_share == 0.75
    assert written_on([silent]).thought_share is None
    cut = GenerationRecord(run="r", sample_id="4", text="", reasoning="hm", stop="length")
    assert (written_on([cut]).cut_thoughts, written_on([cut]).thinking) == (1, 1)


def test_records_keep_the_raw_text_and_write_thoughts_only_where_there_are_some() -> None:
    plain = GenerationRecord(run="r", sample_id="1", text="B").as_json()
    assert {"reasoning", "thought_tokens", "served"}.isdisjoint(plain)
    thinking = GenerationRecord(run="r", sample_id="1", text="B", reasoning="hm", thought_tokens=3).as_json()
    assert (thinking["reasoning"], thinking["thought_tokens"]) == ("hm", 3)


@pytest.mark.slow
def test_a_model_that_thinks_first_is_an_oracle_on_every_task(small_data: Path, tmp_path: Path) -> None:
    for model in ("mock:oracle", "mock:thinking", "mock:pondering"):
        done = medbench("run", "--model", model, "--data-dir", small_data, "--output-dir", tmp_path / model[5:])
        assert done.returncode == 0, done.stderr
    oracle, thinking, pondering = (
        json.loads(next((tmp_path / name).glob("*/results.json")).read_text())["tasks"]
        for name in ("oracle", "thinking", "pondering")
    )
    for name, task in oracle.items():
        for protocol in PROTOCOLS:
            for metric, result in task[protocol].items():
                assert thinking[name][protocol][metric]["value"] == result["value"], (name, protocol, metric)
        assert thinking[name]["written"]["thinking"] == task["samples"]
        assert pondering[name]["states"]["truncated"] == task["samples"]
        assert {result["value"] for result in pondering[name]["strict"].values() if result["n"]} == {0.0}
    raw = next((tmp_path / "thinking").glob("*/generations/slake-vqa.jsonl")).read_text()
    assert "<think>" in raw
