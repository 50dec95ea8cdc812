"""Which engine answers: as the user says, or as the machine allows; and that another engine is another run."""

from pathlib import Path

import pytest
import tiny_vlms
from command_line import medbench
from engine_helpers import Small, answer, make_requests, texts
from PIL import Image
from task_helpers import question

from medbench.adapters.base import ImageSlot, LoadOptions, LocalAdapter, Prompt, TextSegment
from medbench.adapters.catalog import choose_model
from medbench.harness.engine import vllm
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.choice import choose_engine, vllm_arguments
from medbench.harness.engine.requests import Segments, make_request
from medbench.harness.engine.vllm import why_not_vllm
from medbench.harness.engine.vllm_images import expanded_ids, is_seen_by_vllm, places_of, refuse_other_inputs
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import RunError, SampleError, UsageError
from medbench.tasks.foundation.files import read_json, read_yaml_table
from medbench.tasks.images import open_image
from medbench.tasks.sample import ImageRef

ALL_FAMILIES = tiny_vlms.FAMILIES | tiny_vlms.WHOLE


class OnGpu(Small):
    """Says that it is on a GPU."""

    device = "cuda:0"


@pytest.fixture
def with_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "installed", lambda: "9.9")


@pytest.fixture
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "installed", lambda: "")


@pytest.mark.usefixtures("with_vllm")
def test_a_gpu_is_left_to_vllm_and_a_cpu_is_not() -> None:
    on_gpu = choose_engine("auto", OnGpu(), {}, greedy=True, compiled=False)
    assert (on_gpu.name, on_gpu.version) == ("vllm", "9.9")
    assert choose_engine("auto", Small(), {}, greedy=True, compiled=False).name == "medbench"
    assert choose_engine("medbench", OnGpu(), {}, greedy=True, compiled=False).name == "medbench"
    assert choose_engine("transformers", OnGpu(), {}, greedy=True, compiled=False).name == "transformers"
    assert choose_engine("vllm", Small(), {}, greedy=True, compiled=False).name == "vllm"


@pytest.mark.usefixtures("with_vllm")
@pytest.mark.parametrize(
    ("family", "greedy", "compiled", "why"),
    [
        ("llama", False, False, "random numbers are others"),
        ("llama", True, True, "vLLM compiles by itself"),
        ("gemma3_text", True, False, "never compared"),
    ],
)
def test_what_vllm_cannot_do_is_ours_and_said(family: str, why: str, *, greedy: bool, compiled: bool) -> None:
    adapter = OnGpu(family)
    left = choose_engine("auto", adapter, {}, greedy=greedy, compiled=compiled)
    assert left.name == "medbench"
    assert why in left.why
    with pytest.raises(UsageError, match=why):
        choose_engine("vllm", adapter, {}, greedy=greedy, compiled=compiled)


@pytest.mark.usefixtures("without_vllm")
def test_without_vllm_ours_answers() -> None:
    assert "not installed" in choose_engine("auto", OnGpu(), {}, greedy=True, compiled=False).why
    with pytest.raises(UsageError, match="not installed"):
        choose_engine("vllm", OnGpu(), {}, greedy=True, compiled=False)


@pytest.mark.usefixtures("with_vllm")
def test_what_changes_no_answer_makes_no_other_run() -> None:
    given = vllm_arguments({
        "vllm.tensor_parallel_size": "2", "vllm.gpu_memory_utilization": "0.5", "vllm.quantization": "fp8", "x": "1",
    })  # fmt: skip
    assert given == {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.5, "quantization": "fp8"}
    chosen = choose_engine("vllm", OnGpu(), given, greedy=True, compiled=False)
    assert chosen.identity == {
        "name": "vllm", "version": "9.9", "arguments": {"quantization": "fp8", "tensor_parallel_size": 2},
    }  # fmt: skip
    with pytest.raises(UsageError, match="argument of vLLM"):
        choose_engine("medbench", OnGpu(), given, greedy=True, compiled=False)


def test_a_plain_decoder_is_known_by_its_weights() -> None:
    assert not why_not_vllm(Small("llama"))
    assert not why_not_vllm(Small("qwen2"))


@pytest.mark.usefixtures("with_vllm")
@pytest.mark.parametrize("name", ALL_FAMILIES)
def test_which_families_vllm_may_answer_for(name: str, tmp_path: Path) -> None:
    chosen = choose_model(f"hf:{ALL_FAMILIES[name](tmp_path / name)}", {})
    adapter = chosen.entry.load(LoadOptions(variant=chosen.variant, arguments=chosen.arguments, device="cpu"))
    assert isinstance(adapter, LocalAdapter)
    assert bool(why_not_vllm(adapter)) == (name not in {"llava", "llava_next", "idefics2", "idefics3", "internvl"})
    assert is_seen_by_vllm(adapter) == (name in {"glm4v", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"})
    if why_not_vllm(adapter) and not is_seen_by_vllm(adapter):
        with pytest.raises(UsageError, match=adapter.title):
            choose_engine("vllm", adapter, {}, greedy=True, compiled=False)
    else:
        assert choose_engine("vllm", adapter, {}, greedy=True, compiled=False).name == "vllm"


@pytest.mark.parametrize("name", ["gemma3", "paligemma"])
def test_a_mask_among_visual_tokens_is_never_left_to_vllm(name: str, tmp_path: Path) -> None:
    chosen = choose_model(f"hf:{tiny_vlms.FAMILIES[name](tmp_path / name)}", {})
    adapter = chosen.entry.load(LoadOptions(variant=chosen.variant, arguments=chosen.arguments, device="cpu"))
    assert isinstance(adapter, LocalAdapter)
    assert "read one another" in why_not_vllm(adapter)


# A model whose visual token is 7, and two pictures of three and two tokens, the first in two stretches.
WRITTEN = [1, 7, 7, 5, 7, 2, 7, 7, 3]


def test_where_pictures_stand_in_a_prompt() -> None:
    images = [ImageRef(path="a.png"), ImageRef(path="b.png")]
    segments: Segments = (
        TextSegment(ids=(1,)), ImageSlot(image=images[0], tokens=2), TextSegment(ids=(5,)),
        ImageSlot(image=images[0], tokens=1, first=2), TextSegment(ids=(2,)), ImageSlot(image=images[1], tokens=2),
        TextSegment(ids=(3,)),
    )  # fmt: skip
    assert expanded_ids(Prompt(segments=segments), 7) == WRITTEN
    whole: Segments = (*(ImageSlot(image=image, tokens=0) for image in images), TextSegment(ids=tuple(WRITTEN)))
    assert expanded_ids(Prompt(segments=whole), 7) == WRITTEN
    assert places_of(WRITTEN, 7, [3, 2]) == [(1, [True, True, False, True]), (6, [True, True])]
    with pytest.raises(SampleError, match="5 visual tokens"):
        places_of(WRITTEN, 7, [3, 3])


def test_other_ids_or_pixels_than_the_librarys_are_refused(tmp_path: Path) -> None:
    chosen = choose_model(f"hf:{tiny_vlms.qwen2_vl(tmp_path / 'tiny')}", {})
    adapter = chosen.entry.load(LoadOptions(variant=chosen.variant, arguments=chosen.arguments, device="cpu"))
    assert isinstance(adapter, LocalAdapter)
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.png")
    spec, sample = get_task("slake-vqa"), question(1, images=(ImageRef(path="a.png"),))
    request = make_request(adapter, sample, spec, tmp_path)
    opened = [open_image(tmp_path, image) for image in sample.images]
    inputs, own = adapter.inputs_whole(sample, spec, opened), [adapter.pixels(opened[0])]
    refuse_other_inputs(adapter, request, inputs, own)
    with pytest.raises(RunError, match="other pixel_values"):
        refuse_other_inputs(adapter, request, {**inputs, "pixel_values": inputs["pixel_values"] + 0.01}, own)
    with pytest.raises(RunError, match="other ids"):
        refuse_other_inputs(adapter, request, {**inputs, "input_ids": inputs["input_ids"] + 1}, own)


def test_transformers_engine_writes_what_ours_does(small_llama: Small, picture_folder: Path) -> None:
    asked = make_requests(picture_folder, 24, seed=8)
    budget = Budget(rows=6, tokens=1 << 14)
    ours = texts(answer(small_llama, asked, budget))
    assert texts(answer(small_llama, asked, budget, library=True)) == ours
    assert len(ours) == len(asked)


@pytest.mark.slow
def test_another_engine_is_another_run_with_the_same_answers(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    common = ["run", "--model", "uni-med", "--tasks", "slake-vqa,medqa", "--limit", "4", "--output-dir", runs]
    for more in ([], ["--engine", "medbench"], ["--engine", "transformers"]):
        ran = medbench(*common, *more)
        assert ran.returncode == 0, ran.stderr
        engine = more[-1] if more else "medbench"
        assert f"Engine: {engine} (" in ran.stderr or "nothing to do" in ran.stderr
    folders = [file.parent for file in runs.glob("*/results.json")]
    # Ours is the same run whether it was chosen or asked for.
    assert len(folders) == 2
    first, second = (
        [line for file in sorted(folder.glob("generations/*.jsonl")) for line in file.read_text().splitlines()]
        for folder in folders
    )
    assert len(first) == len(second) == 8
    named = [read_json(folder / "env.json")["engine"].get("engine", {}).get("name") for folder in folders]
    assert sorted(map(str, named)) == ["None", "transformers"]
    asked = {read_yaml_table(folder / "run.yaml")["settings"]["engine"] for folder in folders}
    assert asked == {"auto", "transformers"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "blind", "--engine", "vllm"], "does not take --engine"),
        (["--model", "blind", "--model-arg", "vllm.x=1"], "takes --model-arg vllm.x"),
        (["--model", "uni-med", "--model-arg", "vllm.x=1"], "argument of vLLM"),
        (["--model", "uni-med", "--engine", "transformers", "--temperature", "1"], "takes the likeliest token"),
    ],
)
def test_options_that_would_do_nothing_are_refused(words: list[str], said: str, tmp_path: Path) -> None:
    ran = medbench("run", *words, "--tasks", "medqa", "--limit", "1", "--output-dir", tmp_path)
    assert ran.returncode != 0
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
