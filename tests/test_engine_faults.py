"""What a model, a library or a device raises in the midst of a batch: what a sample, an image or a run pays for it."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import medbench
from engine_helpers import Small, answer, make_requests, texts

from medbench.adapters.base import Pixels, TextSegment
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.continuous import ContinuousBatching
from medbench.harness.engine.faults import DeviceError, is_lost
from medbench.harness.engine.requests import PrefixedRequest, Request
from medbench.harness.local import self_test
from medbench.harness.phases import Phases
from medbench.tasks.foundation.errors import EXIT_FAILED

WIDE = Budget(rows=12, tokens=4096)
POISON = 0  # No other prompt holds it.


class Poisoned(Small):
    """Raises something where a prompt holds a certain token, on some of its images, or at a certain forward pass."""

    def __init__(self, raised: Exception | None = None, at: int = 0, bad: Sequence[float] = ()) -> None:
        super().__init__()
        self.raised = raised or ValueError("an odd token")
        self.at, self.passes, self.bad = at, 0, bad
        self.decoder.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: torch.nn.Module, __: object, ___: dict[str, Any]) -> None:
        self.passes += 1
        if self.passes == self.at:
            raise self.raised

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        if (ids == POISON).any():
            raise self.raised
        return super().embed_tokens(ids)

    def encode_images(self, pixels: Sequence[Pixels]) -> Sequence[torch.Tensor]:
        if any(abs(float(one[0]) - red) < 1e-3 for one in pixels for red in self.bad):
            raise self.raised
        return super().encode_images(pixels)


def poisoned(requests: Sequence[Request], place: int) -> list[Request]:
    changed = list(requests)
    first = changed[place].prompt.segments[0]
    assert isinstance(first, TextSegment)
    segments = (TextSegment(ids=(POISON, *first.ids[1:])), *changed[place].prompt.segments[1:])
    changed[place] = replace(changed[place], prompt=replace(changed[place].prompt, segments=segments))
    return changed


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("place", [0, 7, 19])
def test_a_sample_that_makes_the_model_raise_costs_only_itself(
    picture_folder: Path, small_llama: Small, place: int, continuous: bool
) -> None:
    requests = make_requests(picture_folder, 20, seed=7)
    name, phases = requests[place].sample.sample_id, Phases()
    found = answer(Poisoned(), poisoned(requests, place), WIDE, phases, continuous=continuous)
    assert (found[name].kind, found[name].generation) == ("model", None)
    assert "failed on this sample alone: ValueError: an odd token (test_engine_faults.py" in found[name].error
    whole = texts(answer(small_llama, requests, WIDE))
    assert texts(found) == {other: text for other, text in whole.items() if other != name}
    assert 2 <= phases.counts["faults of the model"] <= 4


@pytest.mark.parametrize("continuous", [True, False])
def test_what_is_raised_once_costs_nobody_an_answer(picture_folder: Path, small_llama: Small, continuous: bool) -> None:
    requests = make_requests(picture_folder, 20, seed=7)
    found = answer(Poisoned(at=3), requests, WIDE, continuous=continuous)
    assert texts(found) == texts(answer(small_llama, requests, WIDE))


def test_a_model_that_always_raises_fails_on_each_sample(picture_folder: Path) -> None:
    requests = make_requests(picture_folder, 9, seed=3)
    for place in range(9):
        requests = poisoned(requests, place)
    found = answer(Poisoned(), requests, WIDE)
    assert {one.kind for one in found.values()} == {"model"}
    assert len(found) == 9


def red_of(place: int) -> float:
    return (37 * place % 256) / 255


@pytest.mark.parametrize("raised", [ValueError("an odd picture"), torch.OutOfMemoryError("pretended")])
def test_an_image_that_cannot_be_encoded_costs_only_its_own_samples(
    picture_folder: Path, small_llama: Small, raised: Exception
) -> None:
    requests = make_requests(picture_folder, 24, seed=5)
    seeing = {one.sample.sample_id for one in requests if any(image.path == "2.png" for image in one.sample.images)}
    found = answer(Poisoned(raised, bad=[red_of(2)]), requests, WIDE)
    assert {name for name, one in found.items() if one.error} == seeing
    kinds = {one.kind for one in found.values() if one.error}
    assert kinds == ({"memory"} if isinstance(raised, torch.OutOfMemoryError) else {"model"})
    whole = texts(answer(small_llama, requests, WIDE))
    assert texts(found) == {name: text for name, text in whole.items() if name not in seeing}


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA driver error: unknown error",
        "CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx",
        "HIP error: invalid device function",
    ],
)
def test_a_device_that_is_lost_ends_the_run_at_once(picture_folder: Path, words: str) -> None:
    adapter = Poisoned(RuntimeError(words), at=2)
    with pytest.raises(DeviceError, match=r"The device cpu failed: RuntimeError: ") as ended:
        answer(adapter, make_requests(picture_folder, 20, seed=7), WIDE)
    assert "the same command continues" in ended.value.hint
    assert "--workers 1" in ended.value.hint
    assert adapter.passes == 2


def test_other_errors_are_not_those_of_a_device() -> None:
    assert not is_lost(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0)"))
    assert not is_lost(torch.OutOfMemoryError("CUDA error: out of memory"))
    assert not is_lost(RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"))
    assert not is_lost(ValueError("CUDA error: not from there"))
    assert is_lost(type("AcceleratorError", (RuntimeError,), {})("the device fell off the bus"))


def test_the_self_test_passes_over_samples_that_make_the_model_raise(picture_folder: Path) -> None:
    requests = sorted(make_requests(picture_folder, 8, seed=7), key=lambda one: one.length)
    tested = self_test(Poisoned(), poisoned(poisoned(requests, 0), 7), WIDE)
    assert (tested.equal, tested.total, tested.skipped) == (2, 2, "")


@pytest.mark.slow
def test_a_run_whose_device_is_lost_says_so_and_the_same_command_continues(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("run", "--model", "mock", "--tasks", "dermamnist,slake-*", "--data-dir", small_data, "--batch-size", 2)
    whole = medbench(*words, "--output-dir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    computed, passes = ContinuousBatching._pass, count()

    def failing(self: ContinuousBatching, joining: Sequence[PrefixedRequest]) -> None:
        # The self-test takes some passes, before anything is kept.
        if next(passes) > 150:
            raise RuntimeError("CUDA error: device-side assert triggered")
        computed(self, joining)

    with monkeypatch.context() as patch:
        patch.setattr(ContinuousBatching, "_pass", failing)
        lost = medbench(*words, "--output-dir", tmp_path / "lost")
    said = " ".join(lost.stderr.split())
    assert lost.returncode == EXIT_FAILED
    assert "The device cpu failed: RuntimeError: CUDA error: device-side assert triggered" in said
    assert "the same command continues" in said
    assert "Traceback" not in said
    kept = sum(len(path.read_text().splitlines()) for path in tmp_path.glob("lost/*/generations/*.jsonl"))
    again = medbench(*words, "--output-dir", tmp_path / "lost")
    assert again.returncode == 0, again.stderr
    assert f"Continuing: {kept} of" in again.stderr
    for path in tmp_path.glob("whole/*/generations/*.jsonl"):
        assert (tmp_path / "lost" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
