"""RadFM's checkpoint, as published and converted: what fits and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from command_line import medbench
from radfm_fixtures import SINGLE, case, close, embedded, load, prompt_of, state, write_checkpoint
from transformers import LlamaForCausalLM

from medbench.adapters.base import LoadOptions
from medbench.adapters.radfm.entry import ENTRY
from medbench.adapters.radfm.model import RadFMAdapter, convert, llama_config
from medbench.adapters.radfm.vision import RadFMVision, read_sizes
from medbench.tasks.foundation.errors import DataError, RunError, UsageError
from medbench.unimed.weights import fill


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("radfm"))


@pytest.fixture(scope="module")
def adapter(folder: Path) -> RadFMAdapter:
    return load(folder)


@torch.inference_mode()
def logits_of(adapter: RadFMAdapter, name: str) -> torch.Tensor:
    """Return the logits [1, L, V] of a recorded prompt with its images."""
    given = case(name)
    prompt = prompt_of(given["input_ids"][0].tolist())
    volumes = list(given["vision_x"].flatten(0, 1))[: len(prompt.images())]
    logits: torch.Tensor = cast("Any", adapter.decoder)(inputs_embeds=embedded(adapter, prompt, volumes)[None]).logits
    return logits


def test_a_converted_folder_is_the_same_model(adapter: RadFMAdapter, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "converted"
    convert(folder, output, dtype="float32", shard_bytes=100_000)
    assert len(list((output / "language_model").glob("*.safetensors"))) > 3
    converted = load(output)
    for ours, theirs in (
        (converted.decoder, adapter.decoder),
        (converted.vision, adapter.vision),
    ):
        weights = cast("torch.nn.Module", theirs).state_dict()
        assert all(torch.equal(one, weights[name]) for name, one in ours.state_dict().items())
    for name in SINGLE:
        logits = logits_of(converted, name)
        assert torch.equal(logits, logits_of(adapter, name))
        close(logits, case(name)["logits"])
    assert converted.weights_fingerprint != adapter.weights_fingerprint
    with pytest.raises(UsageError, match="is there already"):
        convert(folder, output)


def test_the_published_sizes_need_no_file(tmp_path: Path) -> None:
    """The weights are as many as the authors' code has."""
    published = read_sizes(tmp_path)
    with torch.device("meta"):
        language, vision = LlamaForCausalLM(llama_config(published.language_model)), RadFMVision(published)
    named = {f"lang_model.{name}": tensor for name, tensor in cast("torch.nn.Module", language).state_dict().items()}
    named |= {f"embedding_layer.{name}": tensor for name, tensor in vision.state_dict().items()}
    # Old transformers counted 64 rotary frequencies of each layer among them.
    counts = {
        "lang_model.": 13_015_866_880 - 40 * 64, "embedding_layer.vision_encoder.": 66_208_000,
        "embedding_layer.perceiver.": 37_802_496, "embedding_layer.fc.": 3_937_280, "embedding_layer.figure": 10_240,
    }  # fmt: skip
    for prefix, count in counts.items():
        assert sum(tensor.numel() for name, tensor in named.items() if name.startswith(prefix)) == count
    assert named["embedding_layer.vision_encoder.to_patch_embedding.2.weight"].shape == (768, 12288)
    assert named["embedding_layer.vision_encoder.pos_embedding.dep_embed.weight"].shape == (128, 256)
    assert named["embedding_layer.vision_encoder.transformer.layers.11.1.fn.net.3.weight"].shape == (768, 2048)


def test_converting_to_bfloat16_halves_the_language_model(adapter: RadFMAdapter, folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "half")
    loaded = load(tmp_path / "half")
    given, halved = (one.decoder.state_dict() for one in (adapter, loaded))
    assert all(torch.equal(halved[name], given[name].bfloat16().float()) for name in given)
    assert torch.equal(loaded.vision.fc.weight, adapter.vision.fc.weight)


def test_a_failed_conversion_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no type 'int8'"):
        convert(folder, tmp_path / "out", dtype="int8")
    with pytest.raises(UsageError, match="nowhere is no folder"):
        convert(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"lacks pytorch_model\.bin, tokenizer\.model"):
        convert(tmp_path / "empty", tmp_path / "out")
    broken = write_checkpoint(tmp_path / "broken", {**state(), "embedding_layer.fc.weight": torch.zeros(3, 3)})
    with pytest.raises(DataError, match=r"fc\.weight"):
        convert(broken, tmp_path / "out")
    wordless = write_checkpoint(tmp_path / "wordless")
    (wordless / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(DataError, match="no SentencePiece model"):
        convert(wordless, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "empty", "wordless"]


def test_a_conversion_that_cannot_be_written_says_so(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(RunError, match="cannot be written"):
        convert(folder, tmp_path / "file" / "out")


def test_the_command_converts_into_a_folder_that_loads(folder: Path, tmp_path: Path) -> None:
    result = medbench("convert", "radfm", folder, "--output", tmp_path / "out", "--dtype", "float32")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "language_model", "radfm.json", "tokenizer.model", "vision.safetensors",
    ]  # fmt: skip
    load(tmp_path / "out")
    again = medbench("convert", "radfm", folder, "--output", tmp_path / "out")
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert "Traceback" not in again.stderr


def test_the_leading_word_of_wrapped_training_is_accepted(adapter: RadFMAdapter, tmp_path: Path) -> None:
    wrapped = write_checkpoint(tmp_path, {f"module.{name}": tensor for name, tensor in state().items()})
    loaded = load(wrapped)
    assert torch.equal(loaded.decoder.lm_head.weight, adapter.decoder.lm_head.weight)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lang_model.model.layers.1.mlp.up_proj.weight": None}, "1 missing: model.layers.1.mlp.up_proj.weight"),
        ({"embedding_layer.perceiver.norm.bias": None}, "1 missing: perceiver.norm.bias"),
        ({"embedding_layer.fc.bias": torch.zeros(5)}, "of another shape: fc.bias"),
        ({"lang_model.model.layers.7.mlp.up_proj.weight": torch.zeros(1)}, "1 unexpected: model.layers.7"),
        ({"embedding_layer.new_part.weight": torch.zeros(1)}, "1 unexpected: new_part.weight"),
        ({"another.weight": torch.zeros(1)}, "holds what no RadFM has: another.weight"),
        ({"embedding_layer.weight": torch.zeros(448, 64)}, "embedding_layer.weight twice, and differently"),
        ({"embedding_layer.perceiver.latents": None}, "1 missing: perceiver.latents"),
        ({"lang_model.model.embed_tokens.weight": None}, "1 missing: model.embed_tokens.weight"),
        ({"lang_model.model.embed_tokens.weight": torch.tensor(1.0)}, "twice, and differently"),
        ({"lang_model.lm_head.weight": torch.tensor(1.0)}, "of another shape: lm_head.weight"),
        ({"embedding_layer.perceiver.layers.0.0.to_q.weight": torch.tensor(1.0)}, "of another shape: perceiver.layers"),
        ({"lang_model.model.layers.999999999.mlp.up_proj.weight": torch.zeros(1)}, "1 unexpected: model.layers.999"),
        ({"embedding_layer.perceiver.layers.999999999.1.1.weight": torch.zeros(1)}, "1 unexpected: perceiver.lay"),
        ({"embedding_layer.fc.bias": torch.zeros(64, dtype=torch.int8)}, r"no floating-point numbers: fc\.bias of"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: dict[str, torch.Tensor | None], said: str, tmp_path: Path) -> None:
    weights = {name: tensor for name, tensor in {**state(), **change}.items() if tensor is not None}
    with pytest.raises(DataError, match=said):
        load(write_checkpoint(tmp_path, weights))


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"visoin": {}}, "impossible sizes: visoin"),
        ({"vision": 3}, "impossible sizes: vision: "),
        ([], "impossible sizes: "),
        ({"vision": {"image_size": 70}}, "cannot be cut into its patches"),
        ({"vision": {"head": 3}}, "impossible sizes: vision.head"),
        ({"vision": {"heads": "three"}}, "impossible sizes: vision.heads"),
        ({"language_model": {"vocab_size": 448, "num_attention_heads": 3}}, "sizes of the language model cannot be"),
        ({"language_model": {"num_atention_heads": 4}}, "impossible sizes: language_model.num_atention_heads"),
        ({"language_model": {"hidden_act": "silu"}}, "impossible sizes: language_model.hidden_act"),
        ({"language_model": {"num_attention_heads": -4}}, "num_attention_heads is -4, but from 1 to 4096 is possible"),
        ({"vision": {"heads": -3}}, "heads is -3, but from 1 to 4096 is possible"),
        ({"perceiver": {"heads": 0}}, "heads is 0, but from 1 to 4096 is possible"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes: object, said: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / "radfm.json").write_text(json.dumps(sizes), encoding="utf-8")
    with pytest.raises(DataError, match=said):
        load(folder)


def test_what_is_not_there_is_said(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="needs weights"):
        ENTRY.load(LoadOptions())
    with pytest.raises(UsageError, match="nowhere is no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"pytorch_model\.bin is no folder"):
        load(folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"neither pytorch_model\.bin nor vision\.safetensors"):
        load(tmp_path)
    (tmp_path / "RadFM.zip").touch()
    with pytest.raises(UsageError, match=r"Unpack RadFM\.zip first"):
        load(tmp_path)
    shutil.copyfile(folder / "pytorch_model.bin", tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"tokenizer\.model is missing"):
        load(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(DataError, match="no SentencePiece model"):
        load(tmp_path)


def test_the_mistakes_of_a_command_line_end_without_a_traceback(folder: Path, tmp_path: Path) -> None:
    for words, said in (
        (("--checkpoint", tmp_path / "nowhere"), "nowhere is no folder"),
        (("--checkpoint", folder, "--model-arg", "image_position=middle"), "image_position=middle is not allowed"),
        (("--checkpoint", folder, "--model-arg", "crops=none"), "no argument of radfm named 'crops'"),
    ):
        result = medbench("run", "--model", "radfm", "--tasks", "slake-vqa", "--output-dir", tmp_path / "runs", *words)
        assert result.returncode == 2, result.stderr
        assert said in " ".join(result.stderr.split())
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "content", [b"", b"hello world", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b"PK\x03\x04"]
)
def test_a_file_that_is_no_checkpoint_is_said(tmp_path: Path, content: bytes) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"pytorch_model\.bin cannot be read"):
        load(folder)


def test_a_broken_converted_folder_is_said(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "converted"
    convert(folder, output)
    (output / "vision.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match=r"vision\.safetensors cannot be read"):
        load(output)


def test_a_tokenizer_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / "radfm.json").unlink()
    with pytest.raises(DataError, match="has 448 pieces, but the model knows 32000"):
        load(folder)


def test_a_device_without_room_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError

    module = torch.nn.Linear(1000, 1000, device="meta")
    weights = {"weight": torch.zeros(1000, 1000), "bias": torch.zeros(1000)}
    monkeypatch.setattr(torch.Tensor, "to", no_room)
    with pytest.raises(RunError, match=r"x does not fit: 0\.004 GB of weights .* memory of cuda:0"):
        fill(module, weights, "x", device=torch.device("cuda:0"), dtype=torch.float32)
