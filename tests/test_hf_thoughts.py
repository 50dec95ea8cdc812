"""Tokens that set thoughts apart stay in a model's text, and the tokens of its thoughts are counted."""

from pathlib import Path
from typing import Any, cast

import pytest
import tiny_vlms
from engine_helpers import Small
from transformers import PreTrainedTokenizerFast

from medbench.adapters.base import LoadOptions, LocalAdapter
from medbench.adapters.hf.adapter import HfAdapter
from medbench.adapters.hf.adapter import load_adapter as load
from medbench.adapters.hf.entry import ENTRY
from medbench.adapters.hf.processing import dropped_ids, kept_marks
from medbench.harness.engine.batching import Row, outcome_of
from medbench.harness.engine.requests import Decoding, Request
from medbench.tasks.answers.thoughts import MARKS, split_thought
from medbench.tasks.catalog import get_task
from medbench.tasks.sample import Sample


def words(*special: str) -> PreTrainedTokenizerFast:
    tokenizer = tiny_vlms.tokenizer("<image>", *special)
    tokenizer.backend_tokenizer.add_special_tokens(list(special))
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return tokenizer


@pytest.mark.parametrize("mark", MARKS)
def test_every_mark_stays_where_a_tokenizer_calls_it_special(mark: str) -> None:
    tokenizer = words(mark)
    ids = [1, tokenizer.convert_tokens_to_ids(mark), *tokenizer.encode("yes", add_special_tokens=False), 3, 2]
    assert mark not in tokenizer.decode(ids, skip_special_tokens=True)
    dropped = dropped_ids(tokenizer)
    assert dropped is not None
    assert tokenizer.decode([one for one in ids if one not in dropped]) == f"{mark}yes"
    assert mark in kept_marks(tokenizer)["special tokens kept"].split()


def test_a_tokenizer_without_marks_decodes_as_ever() -> None:
    from tokenizers import Tokenizer, models

    plain = cast("Any", PreTrainedTokenizerFast)(
        tokenizer_object=Tokenizer(models.BPE({"<s>": 0, "a": 1}, [])), bos_token="<s>"
    )
    assert dropped_ids(plain) is None
    assert kept_marks(plain) == {}


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> HfAdapter:
    folder = tiny_vlms.llava(tmp_path_factory.mktemp("thinking") / "llava")
    adapter = load(LoadOptions(variant=str(folder), device="cpu", arguments=ENTRY.settled(str(folder), {})))
    tokenizer = words("[THINK]", "[/THINK]")
    adapter._processor.tokenizer = tokenizer
    adapter._dropped = dropped_ids(tokenizer)
    return adapter


def finished(adapter: LocalAdapter, ids: list[int], longest: int) -> Row:
    spec = get_task("slake-vqa")
    sample = Sample(sample_id="s", task=spec.name, split="test", images=(), reference="")
    decoding = Decoding(max_new_tokens=longest, end_ids=frozenset({2}))
    from medbench.adapters.base import Prompt

    row = Row(
        request=Request(
            sample=sample, spec=spec, source=Path(), prompt=Prompt(segments=()), length=5, decoding=decoding
        )
    )
    row.take(ids, adapter.detokenise)
    return row


def ids_of(adapter: HfAdapter, *parts: str) -> list[int]:
    tokenizer = adapter._processor.tokenizer
    return [one for part in parts for one in tokenizer.encode(part, add_special_tokens=False)]


def test_the_tokens_of_a_thought_are_counted_up_to_its_end(thinking: HfAdapter) -> None:
    thought, answer = ids_of(thinking, "[THINK]", "maybe é no", "[/THINK]"), ids_of(thinking, "yes")
    generation = outcome_of(finished(thinking, [*thought, *answer, 2], 99), thinking).generation
    assert generation is not None
    assert split_thought(generation.text).answer == "yes"
    assert generation.thought_tokens == len(thought)
    assert generation.output_tokens == len(thought) + len(answer) + 1


def test_a_thought_that_never_ends_is_all_there_is(thinking: HfAdapter) -> None:
    ids = ids_of(thinking, "[THINK]", "it could be anything")
    generation = outcome_of(finished(thinking, ids, len(ids)), thinking).generation
    assert generation is not None
    assert (generation.stop, generation.thought_tokens, generation.output_tokens) == ("length", len(ids), len(ids))


def test_an_answer_without_thoughts_has_none(thinking: HfAdapter) -> None:
    generation = outcome_of(finished(thinking, [*ids_of(thinking, "yes"), 2], 99), thinking).generation
    assert generation is not None
    assert (generation.text, generation.thought_tokens) == ("yes", 0)


def test_a_row_without_numbers_is_no_generation() -> None:
    adapter = Small.__new__(Small)
    adapter.dtype = "float16"
    outcome = outcome_of(finished(adapter, [7, -1, 8], 99), adapter)
    assert outcome.generation is None
    assert "not finite (NaN or infinite) in float16" in outcome.error
    assert "--dtype float32 or bfloat16" in outcome.error
