"""Folders as people bring them: each is answered rightly, or refused in a sentence before anything is answered."""

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_vlms
import torch
from engine_helpers import answer, texts
from PIL import Image
from safetensors.torch import load_file, save_file

from medbench.adapters.base import Dtype, LoadOptions
from medbench.adapters.hf.adapter import HfAdapter
from medbench.adapters.hf.adapter import load_adapter as load
from medbench.adapters.hf.entry import ENTRY
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.requests import Request, make_request
from medbench.harness.engine.static import generate_alone
from medbench.harness.local import self_test
from medbench.harness.phases import Phases
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import DataError, MedbenchError, RunError, SampleError, UsageError
from medbench.tasks.sample import ImageRef, Sample

VQA = get_task("slake-vqa")
BUDGET = Budget(rows=4, tokens=4000, prefill=200)
PLAIN = "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}<|assistant|>"
JOINED = PLAIN.replace("}}<|end|>", " + '<|end|>' }}")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlms.llava(tmp_path_factory.mktemp("original") / "llava")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    Image.effect_noise((60, 60), 90).convert("RGB").save(tmp_path / "0.png")
    return Path(shutil.copytree(original, tmp_path / "tiny-llava"))


def model(folder: Path, dtype: Dtype = "auto", **given: str) -> HfAdapter:
    arguments = ENTRY.settled(str(folder), given)
    return load(LoadOptions(variant=str(folder), device="cpu", dtype=dtype, arguments=arguments))


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def asked(adapter: HfAdapter, folder: Path, *words: str, images: int = 1) -> list[Request]:
    pictures = (ImageRef(path="0.png"),) * images
    return [
        make_request(
            adapter,
            Sample(
                sample_id=word, task=VQA.name, split="test", reference="", images=pictures, inputs={"question": word}
            ),
            VQA,
            folder.parent,
        )
        for word in words
    ]


def shown(adapter: HfAdapter, request: Request) -> str:
    ids = [token for part in request.prompt.segments for token in getattr(part, "ids", ())]
    return str(adapter._processor.tokenizer.decode(ids))


# Chat templates


def test_a_template_without_a_system_role_is_told_before_any_question(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    with pytest.raises(UsageError, match="takes no system message: System role not supported"):
        model(folder, system="You are a radiologist.")
    assert model(folder).notices == ()


def test_a_template_that_leaves_the_system_message_out_is_told_too(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text(
        template.read_text().replace("in messages %}", "in messages if message['role'] == 'user' %}", 1)
    )
    with pytest.raises(UsageError, match="leaves the system message out"):
        model(folder, system="You are a radiologist.")


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ raise_exception('no tools here') }}", "no tools here"),
        ("{% for message in messages %}", "Unexpected end of template"),
        ("<|user|>always the same<|assistant|>", "it leaves the question out"),
        ("{{ messages[7]['content'] }}", "list"),
    ],
)
def test_a_template_that_cannot_be_used_is_told(template: str, problem: str, folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(DataError, match=f"chat template cannot be used: .*{problem}"):
        model(folder)


@pytest.mark.parametrize("template", ["{{ bos_token }}" + PLAIN, "{{ bos_token }}" + JOINED])
def test_a_template_of_plain_texts_gets_plain_texts(template: str, folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(template)
    adapter = model(folder, system="Be brief.")
    assert any("plain texts" in notice for notice in adapter.notices)
    [seeing] = asked(adapter, folder, "What is shown?")
    assert shown(adapter, seeing).count("What is shown?") == 1
    assert "Be brief." in shown(adapter, seeing)
    [blind] = asked(adapter, folder, "What is shown?", images=0)
    assert shown(adapter, blind).startswith("<s><|system|>Be brief.<|end|><|user|>")
    assert "type" not in shown(adapter, blind) + shown(adapter, seeing)
    assert texts(answer(adapter, [seeing], BUDGET)) == {"What is shown?": generate_alone(adapter, seeing).text}


def test_a_template_that_shows_no_picture_gets_a_mark_for_it(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text(PLAIN.replace("message['content']", "message['content'] if message['content'] is string else "
                                        "message['content'][-1]['text']"))  # fmt: skip
    adapter = model(folder)
    assert len(asked(adapter, folder, "What is shown?")[0].prompt.images()) == 1


def test_a_template_with_the_date_in_it_writes_one_day_for_ever(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text(
        '{% if strftime_now is defined %}Today: {{ strftime_now("%d %b %Y") }}.{% endif %}' + template.read_text()
    )
    adapter = model(folder)
    assert any("2024-07-26" in notice for notice in adapter.notices)
    assert "Today: 26 Jul 2024." in shown(adapter, asked(adapter, folder, "?")[0])
    other = model(folder, date="2031-02-03")
    assert "Today: 03 Feb 2031." in shown(other, asked(other, folder, "?")[0])
    with pytest.raises(UsageError, match="date=tomorrow is no date"):
        model(folder, date="tomorrow")
    template.write_text("{% set how = '%Y' %}{{ strftime_now(how) }}" + template.read_text())
    with pytest.raises(DataError, match="looks the date up in a way that cannot be pinned"):
        model(folder)


def test_a_folder_without_a_template_is_asked_bare_and_says_so(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    [notice] = model(folder).notices
    assert "no chat template" in notice
    with pytest.raises(UsageError, match="no chat template, which --model-arg system would go to"):
        model(folder, system="Be brief.")


# Configurations


@pytest.mark.parametrize(
    "method",
    ["gptq", "awq", "compressed-tensors", "aqlm", "hqq", "eetq", "quanto", "fbgemm_fp8",
     "bitnet", "vptq", "spqr", "quark", "auto-round", "higgs", "of-tomorrow"],
)  # fmt: skip
@pytest.mark.parametrize("part", ["", "text_config"])
def test_quantised_weights_without_their_library_are_told(method: str, part: str, folder: Path) -> None:
    told = {"quant_method": method, "bits": 4, "config_groups": {}}
    edit(folder / "config.json", lambda config: (config[part] if part else config).update(quantization_config=told))
    with pytest.raises(MedbenchError) as caught:
        model(folder)
    assert len(caught.value.problem) > 30


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_what_transformers_computes_without_a_library_says_how_it_was_quantised(method: str, folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(quantization_config={"quant_method": method}))
    assert model(folder).title == f"tiny-llava ({method})"


@pytest.mark.parametrize(
    "kernel", ["flash_attention_2", "flash_attention_3", "kernels-community/flash-attn", "of-tomorrow"]
)
@pytest.mark.parametrize("part", ["", "text_config"])
def test_a_wish_for_another_attention_is_told_and_not_followed(kernel: str, part: str, folder: Path) -> None:
    plain = model(folder)
    wish = {"_attn_implementation": kernel, "attn_implementation": kernel}
    edit(folder / "config.json", lambda config: (config[part] if part else config).update(wish))
    adapter = model(folder)
    # What is written beside the model's own wish, the library forgets itself.
    assert part or any(kernel in notice for notice in adapter.notices)
    requests = asked(adapter, folder, "a", "longer")
    assert texts(answer(adapter, requests, BUDGET)) == texts(answer(plain, asked(plain, folder, "a", "longer"), BUDGET))


@pytest.mark.parametrize("value", ["bf16", "float7", 3, ["float32"]])
def test_a_type_that_torch_does_not_know_makes_no_traceback(value: object, folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(torch_dtype=value, dtype=value))
    try:
        found: object = model(folder).decoder.dtype
    except UsageError as error:
        found = error.problem
    assert found is torch.float32 or "holds no model that this version of transformers knows" in str(found)


def test_a_processor_saved_before_patch_sizes_is_mended_from_the_model(folder: Path) -> None:
    plain = model(folder)
    names = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")
    edit(folder / "processor_config.json", lambda config: [config.pop(name) for name in names])
    adapter = model(folder)
    assert any("patch_size=14" in notice for notice in adapter.notices)
    requests = asked(adapter, folder, "a", "longer")
    assert texts(answer(adapter, requests, BUDGET)) == texts(answer(plain, asked(plain, folder, "a", "longer"), BUDGET))


def test_a_tokenizer_without_padding_and_end_still_pads(folder: Path) -> None:
    edit(
        folder / "tokenizer_config.json", lambda config: [config.pop(name, None) for name in ("pad_token", "eos_token")]
    )
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    adapter = model(folder)
    requests = asked(adapter, folder, "a", "much longer")
    alone = {request.sample.sample_id: generate_alone(adapter, request).text for request in requests}
    assert texts(answer(adapter, requests, BUDGET, whole="it was asked for")) == alone


# What is no model


def test_an_adapter_of_lora_is_told_what_to_do(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/base", "peft_type": "LORA"}')
    with pytest.raises(UsageError, match="a LORA adapter of somebody/base") as caught:
        model(folder)
    assert f"--lora {folder}" in caught.value.hint
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        (folder / name).unlink()
    with pytest.raises(UsageError, match="a LORA adapter of somebody/base"):
        model(folder)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "processor_config.json", "chat_template.jinja"]
)
@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("<!DOCTYPE html>\n<html><body>Please sign in</body></html>", "a page of a web site"),
        ("\ufeff  <html lang='en'><title>403</title></html>", "a page of a web site"),
        ("<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a page of a web site"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "a pointer of Git LFS"),
        ("", "empty"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_its_name_says_is_named(name: str, content: str, what: str, folder: Path) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=f"{name} cannot be read: it is {what}"):
        model(folder)


@pytest.mark.parametrize(
    "content", ["Access to model x/y is restricted.", '{"error": "Unauthorized"}', "Entry not found"]
)
def test_the_refusal_of_a_server_under_the_name_of_weights_is_shown(content: str, folder: Path) -> None:
    (folder / "model.safetensors").write_text(content)
    with pytest.raises(DataError, match=r"model.safetensors cannot be read: it is the answer of a server \('.*'\)"):
        model(folder)


def test_shards_that_an_index_names_and_nobody_brought_are_named(folder: Path) -> None:
    names = load_file(folder / "model.safetensors").keys()
    places = {name: f"model-0000{1 + place % 2}-of-00002.safetensors" for place, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(DataError, match=r"1 files that are not there: model-00002-of-00002.safetensors"):
        model(folder)


@pytest.mark.parametrize("missing", ["processor_config.json", "tokenizer.json", "config.json", "model.safetensors"])
def test_a_missing_file_is_told_in_a_sentence(missing: str, folder: Path) -> None:
    (folder / missing).unlink()
    with pytest.raises(MedbenchError):
        model(folder)


# Code that folders bring


@pytest.mark.slow
def test_code_that_a_folder_brings_is_never_run_nor_asked_about(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    own = {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model", "AutoProcessor": "own.Processor"}
    edit(folder / "config.json", lambda config: config.update(auto_map=own, model_type="of_its_own"))
    for name in ("processor_config.json", "tokenizer_config.json"):
        edit(folder / name, lambda config: config.update(auto_map={**own, "AutoTokenizer": ["own.T", "own.T"]}))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    said = on_a_terminal(
        "run", "--model", f"hf:{folder}", "--tasks", "slake-vqa", "--limit", "1", "--output-dir", str(tmp_path)
    )
    assert "never run" in " ".join(said.split())
    assert "[y/N]" not in said
    assert "Traceback" not in said
    edit(folder / "config.json", lambda config: config.update(model_type="llava"))
    assert any("auto_map" in notice for notice in model(folder).notices)
    assert not trace.exists()


def on_a_terminal(*words: str) -> str:
    """Return what a command says to somebody who answers every question with yes."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src"), "COLUMNS": "500"}
    process = subprocess.Popen(
        [sys.executable, "-m", "medbench.harness.cli", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    os.write(ours, b"y\ny\ny\n")
    said, end = b"", time.monotonic() + 200
    while time.monotonic() < end:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                said += os.read(ours, 4096)
            except OSError:
                break
        elif process.poll() is not None:
            break
    process.kill()
    process.wait()
    os.close(ours)
    return said.decode(errors="replace")


# Logits that are no numbers


def broken_head(folder: Path, value: float, rows: slice = slice(None)) -> None:
    weights = load_file(folder / "model.safetensors")
    head = next(name for name in weights if name.endswith("lm_head.weight"))
    weights[head][rows] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_without_numbers_is_refused_by_the_self_test(value: float, dtype: Dtype, folder: Path) -> None:
    broken_head(folder, value)
    adapter = model(folder, dtype)
    with pytest.raises(RunError, match=f"cannot be run in {dtype}: all logits"):
        self_test(adapter, asked(adapter, folder, "a", "longer"), BUDGET)


@pytest.mark.parametrize("whole", ["", "it was asked for"])
@pytest.mark.parametrize("rows", [slice(None), slice(5, 6)])
def test_a_sample_without_numbers_is_an_error_that_names_the_type(whole: str, rows: slice, folder: Path) -> None:
    broken_head(folder, float("nan"), rows)
    adapter = model(folder)
    requests = asked(adapter, folder, "a", "longer", "the longest of all")
    outcomes = answer(adapter, requests, BUDGET, whole=whole)
    assert len(outcomes) == 3
    for outcome in outcomes.values():
        assert outcome.generation is None
        assert "not finite (NaN or infinite) in float32" in outcome.error
    with pytest.raises(SampleError, match="not finite"):
        generate_alone(adapter, requests[0])


def test_logits_of_minus_infinity_forbid_a_token_and_nothing_else(folder: Path) -> None:
    from medbench.harness.engine.batching import likeliest

    none, inf, nan = float("-inf"), float("inf"), float("nan")
    logits = torch.tensor([[none, 1.0, 0.0], [nan, 1.0, 0.0], [0.0, inf, 1.0], [none, none, none], [2.0, none, 1.0]])
    assert likeliest(logits) == [1, -1, -1, -1, 0]
    adapter = model(folder)
    assert self_test(adapter, asked(adapter, folder, "a", "longer"), BUDGET).equal == 2
    assert Phases().counts["answers"] == 0
