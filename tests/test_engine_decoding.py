"""How tokens are chosen and answers end: sampling, penalties, stop strings, beams; and what happens without memory."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from engine_helpers import END, Small, answer, generate_alone, make_requests, pictures, texts

from medbench.adapters.base import TextSegment
from medbench.harness.engine import batching
from medbench.harness.engine.batching import Row, write_next
from medbench.harness.engine.budget import Budget, auto_budget, bytes_per_token
from medbench.harness.engine.images import AHEAD, FeatureCache, Images
from medbench.harness.engine.passes import why_not_packed
from medbench.harness.engine.requests import Request
from medbench.harness.engine.static import generate_alone as one_by_one
from medbench.harness.phases import Phases
from medbench.tasks.foundation.errors import RunError, SampleError
from medbench.tasks.sample import ImageRef

WIDE = Budget(rows=16, tokens=4096)
ALONE = Budget(rows=1, tokens=1)


def with_decoding(requests: Sequence[Request], **changes: Any) -> list[Request]:
    return [replace(request, decoding=replace(request.decoding, **changes)) for request in requests]


def test_a_sample_draws_the_same_whoever_is_beside_it(picture_folder: Path, small_llama: Small) -> None:
    requests = with_decoding(make_requests(picture_folder, 16, seed=1), temperature=1.3, top_p=0.9, top_k=40)
    together = texts(answer(small_llama, requests, WIDE))
    alone: dict[str, str] = {}
    for request in requests:
        alone |= texts(answer(small_llama, [request], ALONE))
    assert together == alone
    assert together != texts(answer(small_llama, with_decoding(requests, seed=1), WIDE))
    assert together != texts(answer(small_llama, with_decoding(requests, temperature=0.0), WIDE))


def draws(request: Request, logits: torch.Tensor, number: int) -> Counter[int]:
    found: Counter[int] = Counter()
    for seed in range(number):
        row = Row(request=with_decoding([request], seed=seed)[0])
        write_next([row], logits[None], lambda _: "")
        found[row.written[0]] += 1
    return found


def test_sampling_follows_its_probabilities(picture_folder: Path) -> None:
    request = make_requests(picture_folder, 1, seed=2)[0]
    logits = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.1]))
    free = draws(with_decoding([request], temperature=1.0)[0], logits, 2000)
    for token, share in enumerate((0.5, 0.25, 0.15, 0.1)):
        assert free[token] / 2000 == pytest.approx(share, abs=0.05)
    two = draws(with_decoding([request], temperature=1.0, top_k=2)[0], logits, 600)
    assert set(two) == {0, 1}
    assert two[0] / 600 == pytest.approx(2 / 3, abs=0.08)
    assert set(draws(with_decoding([request], temperature=1.0, top_p=0.7)[0], logits, 300)) == {0, 1}
    assert set(draws(with_decoding([request], temperature=1.0, top_p=0.0001)[0], logits, 50)) == {0}


def test_rows_that_are_told_other_things_are_chosen_together(picture_folder: Path) -> None:
    """As one by one: greedy ones, penalised ones, and ones whose logits are no numbers."""
    asked = make_requests(picture_folder, 6, seed=2, max_new_tokens=9)
    told: list[dict[str, Any]] = [
        {}, {"temperature": 0.7}, {"temperature": 0.7, "top_k": 3}, {"temperature": 1.5, "top_p": 0.5},
        {"repetition_penalty": 2.0}, {"temperature": 0.7, "repetition_penalty": 1.3},
    ]  # fmt: skip
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(3)) * 3

    def rows() -> list[Row]:
        requests = [with_decoding([one], **more)[0] for one, more in zip(asked, told, strict=True)]
        return [Row(request=one, written=[5, 7, 7]) for one in requests]

    together, alone = rows(), rows()
    for _ in range(4):
        write_next(together, logits, lambda _: "")
        for row, own in zip(alone, logits, strict=True):
            write_next([row], own[None], lambda _: "")
    assert [row.written for row in together] == [row.written for row in alone]
    broken = rows()
    write_next(broken, logits.index_fill(1, torch.tensor([4]), float("nan")), lambda _: "")
    assert all(row.broken for row in broken)


def test_a_token_without_a_share_is_never_drawn(picture_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = with_decoding(make_requests(picture_folder, 1, seed=2), temperature=1.0)[0]
    logits = torch.tensor([float("-inf"), 0.0, float("-inf"), 1.0, float("-inf")])
    for drawn, token in ((0.0, 1), (1 - 2**-53, 3)):
        monkeypatch.setattr(batching, "_draw", lambda _, drawn=drawn: drawn)
        row = Row(request=request)
        write_next([row], logits[None], lambda _: "")
        assert row.written == [token]


@pytest.mark.parametrize("continuous", [True, False])
def test_the_repetition_penalty_is_that_of_generate(picture_folder: Path, small_llama: Small, continuous: bool) -> None:
    requests = with_decoding(make_requests(picture_folder, 12, seed=3), repetition_penalty=1.7, max_new_tokens=20)
    alone = {one.sample.sample_id: generate_alone(small_llama, one, repetition_penalty=1.7) for one in requests}
    assert texts(answer(small_llama, requests, WIDE, continuous=continuous)) == alone
    assert alone != {one.sample.sample_id: generate_alone(small_llama, one) for one in requests}


def test_beams_are_those_of_generate(picture_folder: Path, small_llama: Small) -> None:
    requests = with_decoding(make_requests(picture_folder, 8, seed=4), beams=3)
    alone = {one.sample.sample_id: generate_alone(small_llama, one, num_beams=3) for one in requests}
    assert alone != {one.sample.sample_id: generate_alone(small_llama, one) for one in requests}
    assert texts(answer(small_llama, requests, WIDE)) == alone


@pytest.mark.parametrize("continuous", [True, False])
def test_a_stop_string_ends_an_answer_even_across_tokens(
    picture_folder: Path, small_llama: Small, continuous: bool
) -> None:
    requests = with_decoding(make_requests(picture_folder, 12, seed=5), max_new_tokens=14, end_ids=frozenset())
    whole = texts(answer(small_llama, requests, WIDE, continuous=continuous))
    stopped = []
    for request in requests:
        text = whole[request.sample.sample_id]
        stopped.append(with_decoding([request], stop_strings=(text[4:6], text[9:12]))[0])
    found = answer(small_llama, stopped, WIDE, continuous=continuous)
    for request in stopped:
        generation, text = found[request.sample.sample_id].generation, whole[request.sample.sample_id]
        assert generation is not None
        first = min(text.index(stop) for stop in request.decoding.stop_strings)
        assert (generation.text, generation.stop) == (text[:first], "stop")
        assert generation.output_tokens <= 6 + max(0, first - 4)


def test_the_reason_of_every_end_is_told(picture_folder: Path, small_llama: Small) -> None:
    found = answer(small_llama, with_decoding(make_requests(picture_folder, 40, seed=6), max_new_tokens=12), WIDE)
    stops = Counter(outcome.generation.stop for outcome in found.values() if outcome.generation)
    assert stops["eos"] > 0
    assert stops["length"] > 0
    for outcome in found.values():
        assert outcome.generation is not None
        assert chr(33 + END) not in outcome.generation.text


class Forgetful(Small):
    """Runs out of memory on more than three rows, or on a long prompt."""

    longest = 1000

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        if len(ids) > self.longest:
            raise torch.OutOfMemoryError("pretended")
        return super().embed_tokens(ids)

    def __init__(self) -> None:
        super().__init__()
        self.decoder.register_forward_pre_hook(self._refuse, with_kwargs=True)

    @staticmethod
    def _refuse(_: torch.nn.Module, __: object, given: dict[str, Any]) -> None:
        packed = given.get("packed")
        rows = len(given["position_ids"]) if packed is None else packed.rows
        if rows > 3:
            raise torch.OutOfMemoryError("pretended")


@pytest.mark.parametrize("continuous", [True, False])
def test_when_memory_runs_out_the_same_rows_are_tried_again(
    picture_folder: Path, small_llama: Small, continuous: bool
) -> None:
    requests = make_requests(picture_folder, 20, seed=7)
    phases = Phases()
    found = answer(Forgetful(), requests, Budget(rows=12, tokens=4096), phases, continuous=continuous)
    assert texts(found) == texts(answer(small_llama, requests, WIDE))
    assert phases.counts["out of memory"] >= 2


@pytest.mark.parametrize("continuous", [True, False])
def test_an_impossible_sample_costs_only_itself(picture_folder: Path, small_llama: Small, continuous: bool) -> None:
    adapter = Forgetful()
    adapter.longest = 60
    requests = make_requests(picture_folder, 6, seed=8)
    [model] = [one for one in make_requests(picture_folder, 30, seed=9) if not one.sample.images][:1]
    segments = (TextSegment(ids=(5,) * 90),)
    long = replace(
        model,
        sample=replace(model.sample, sample_id="long"),
        prompt=replace(model.prompt, segments=segments),
        length=90,
    )
    found = answer(adapter, [*requests[:3], long, *requests[3:]], Budget(rows=3, tokens=4096), continuous=continuous)
    assert "Memory ran out on this sample alone (90 tokens)" in found["long"].error
    assert texts(found) == texts(answer(small_llama, requests, WIDE))


def test_decoders_of_another_kind_get_static_batches(picture_folder: Path) -> None:
    assert why_not_packed(Small().decoder) == ""
    hybrid, sinking, stubborn = Small(), Small(), Small()
    hybrid.decoder.config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    assert "linear_attention" in why_not_packed(hybrid.decoder)
    cast("Any", sinking.decoder).model.layers[0].self_attn.sinks = torch.nn.Parameter(torch.zeros(4))
    assert "sinks" in why_not_packed(sinking.decoder)
    stubborn.decoder._supports_attention_backend = False
    assert "no attention but its own" in why_not_packed(stubborn.decoder)
    requests = make_requests(picture_folder, 10, seed=11)
    assert texts(answer(stubborn, requests, WIDE)) == texts(answer(Small(), requests, WIDE))


def test_linear_attention_is_answered_in_static_batches(picture_folder: Path) -> None:
    linear, full = "linear_attention", "full_attention"
    adapter = Small(
        "qwen3_next", num_key_value_heads=2, head_dim=16, layer_types=[linear, full, linear], num_experts=0,
        linear_num_value_heads=2, linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
    )  # fmt: skip
    assert why_not_packed(adapter.decoder)
    requests = make_requests(picture_folder, 12, seed=1)
    alone = {one.sample.sample_id: generate_alone(adapter, one) for one in requests}
    assert texts(answer(adapter, requests, Budget(rows=5, tokens=4096))) == alone


class Crowded(Small):
    """Runs out of memory whenever slots were made for more than one row."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder.register_forward_hook(self._refuse, with_kwargs=True)

    @staticmethod
    def _refuse(_: torch.nn.Module, __: object, given: dict[str, Any], ___: object) -> None:
        [keys, _], *_ = given["packed"].slots.layers[0].chunks
        if len(keys) > 1:
            raise torch.OutOfMemoryError("pretended")


def test_a_row_alone_is_tried_in_slots_of_its_own_before_it_fails(picture_folder: Path, small_llama: Small) -> None:
    requests = make_requests(picture_folder, 1, seed=8)
    assert texts(answer(Crowded(), requests, WIDE)) == texts(answer(small_llama, requests, WIDE))


def test_a_temperature_near_nothing_takes_the_likeliest(picture_folder: Path) -> None:
    [request] = with_decoding(make_requests(picture_folder, 1, seed=2), temperature=1e-40)
    assert set(draws(request, torch.tensor([1.0, 5.0, -2.0]), 20)) == {1}


def test_a_budget_follows_the_free_memory() -> None:
    decoder = Small().decoder
    assert bytes_per_token(decoder.config, torch.float32) == 2 * 3 * 4 * 8 * 4
    budget = auto_budget(decoder, rows=5)
    assert budget.rows == 5
    assert 0 < budget.tokens <= 1 << 20


def test_the_same_picture_under_another_name_is_encoded_once(
    picture_folder: Path, small_llama: Small, tmp_path: Path
) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes((picture_folder / "1.png").read_bytes())
    (tmp_path / "c.png").write_bytes((picture_folder / "2.png").read_bytes())
    with Images(small_llama, phases := Phases()) as images:
        images.expect([(tmp_path, ImageRef(path=name)) for name in ("a.png", "b.png", "c.png")])
        digest = images.take((tmp_path, ImageRef(path="b.png")))
        assert images.take((tmp_path, ImageRef(path="a.png"))) == digest
        assert images.take((tmp_path, ImageRef(path="c.png"))) != digest
        assert len(images._pixels) == 2
    assert phases.background["decode image"] > 0


def test_pictures_are_read_ahead_but_not_without_bound(picture_folder: Path, small_llama: Small) -> None:
    keys = [(picture_folder, ImageRef(path=f"{place % 4}.png", index=place)) for place in range(3 * AHEAD)]
    with Images(small_llama, Phases()) as reader:
        reader.expect(keys)
        assert len(reader._reading) == AHEAD
        reader.take(keys[0])
        assert len(reader._reading) == AHEAD


def test_twins_of_a_broken_picture_are_all_told(small_llama: Small, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    with Images(small_llama, Phases()) as reader:
        keys = [(tmp_path, ImageRef(path=name)) for name in ("a.png", "b.png", "missing.png")]
        reader.expect(keys)
        for key in (keys[1], keys[0], keys[2]):
            with pytest.raises(SampleError):
                reader.take(key)


def test_broken_pictures_cost_only_their_own_questions(small_llama: Small, tmp_path: Path) -> None:
    pictures(tmp_path, 4)
    (tmp_path / "2.png").write_bytes(b"no picture")
    (tmp_path / "3.png").write_bytes(b"no picture")
    requests = make_requests(tmp_path, 30, seed=10)
    found = answer(small_llama, requests, WIDE)
    broken = {ImageRef(path="2.png"), ImageRef(path="3.png")}
    for request in requests:
        outcome = found[request.sample.sample_id]
        assert bool(outcome.error) == bool(broken & set(request.sample.images))
        assert (outcome.generation is None) == bool(outcome.error)


def test_features_beyond_the_bound_lie_on_the_disk() -> None:
    features = FeatureCache(capacity=1000)
    tensors = {str(number): torch.randn(10, 10) for number in range(6)}
    for name, tensor in tensors.items():
        features.put(name, tensor)
    assert len(features.far) == 4
    for name, tensor in tensors.items():
        assert torch.equal(features.get(name), tensor)
    with pytest.raises(KeyError):
        features.get("other")


def test_what_a_models_folder_says_of_writing_changes_no_answer(picture_folder: Path) -> None:
    """`generate` would take over a published penalty, in a beam search and in what the engine is compared with."""
    requests = make_requests(picture_folder, 6, seed=3)
    searched = with_decoding(requests, beams=3)
    plain, told = Small(), Small()
    expected, found = texts(answer(plain, requests, WIDE)), texts(answer(plain, searched, WIDE))
    for sought in (requests, searched):
        told.decoder.generation_config.repetition_penalty = 1.7
        told.decoder.generation_config.no_repeat_ngram_size = 2
        assert texts(answer(told, sought, WIDE)) == (expected if sought is requests else found)
    told.decoder.generation_config.repetition_penalty = 1.7
    assert {one.sample.sample_id: one_by_one(told, one).text for one in requests} == expected


def test_a_full_temporary_folder_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medbench.harness.engine.images.save_file", full)
    features = FeatureCache(capacity=100)
    features.put("a", torch.ones(50))
    with pytest.raises(RunError, match="do not fit into the temporary folder") as raised:
        features.put("b", torch.ones(50))
    assert "TMPDIR" in raised.value.hint
