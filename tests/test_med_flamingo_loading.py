"""Which checkpoints Med-Flamingo is made of, and which are refused."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from med_flamingo_fixtures import (
    RULES,
    VOCABULARY,
    case,
    load,
    own_pixels,
    trained,
    write_checkpoint,
)
from transformers import CLIPConfig, CLIPModel, LlamaConfig

from medbench.adapters.base import LoadOptions
from medbench.adapters.med_flamingo.decoder import MedFlamingoLlama
from medbench.adapters.med_flamingo.entry import ENTRY
from medbench.adapters.med_flamingo.model import MedFlamingoAdapter
from medbench.adapters.perceiver import PerceiverResampler, PerceiverSizes
from medbench.tasks.foundation.errors import DataError, UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("med-flamingo"))


@pytest.fixture(scope="module")
def adapters(folder: Path) -> dict[str, MedFlamingoAdapter]:
    """The same weights under both rules."""
    return {rule: load(folder, media_rule=rule) for rule in RULES}


def test_the_checkpoints_embeddings_replace_those_of_llama(adapters: dict[str, MedFlamingoAdapter]) -> None:
    embeddings = adapters["next"].embed_tokens(torch.arange(VOCABULARY + 3))
    assert torch.equal(embeddings, trained()["lang_encoder.model.embed_tokens.weight"])


def test_the_leading_word_of_wrapped_training_is_accepted(
    adapters: dict[str, MedFlamingoAdapter], tmp_path: Path
) -> None:
    """So is a checkpoint that holds the blocks once."""
    once = {name: one for name, one in trained().items() if ".gated_cross_attn_layer." not in name}
    wrapped = load(write_checkpoint(tmp_path, {f"module.{name}": one for name, one in once.items()}))
    given = adapters["previous"].decoder.state_dict()
    assert all(torch.equal(one, given[name]) for name, one in wrapped.decoder.state_dict().items())


def test_the_published_checkpoint_has_as_many_weights_as_the_authors_say() -> None:
    """1,309,919,248 were trained: gated blocks before layers 3, 7, ..., 31, the perceiver and 32,003 embeddings."""
    config = LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    )
    with torch.device("meta"):
        decoder = MedFlamingoLlama(config)
        perceiver = PerceiverResampler(PerceiverSizes(dim=1024, depth=6, heads=8, dim_head=64, num_latents=64))
    names = dict(cast("torch.nn.Module", decoder).named_parameters())
    gated = {name for name in names if ".gated." in name}
    assert {int(name.split(".")[2]) for name in gated} == set(range(3, 32, 4))
    trained_ones = [names[name] for name in gated] + [names["model.embed_tokens.weight"], *perceiver.parameters()]
    assert sum(one.numel() for one in trained_ones) == 1_309_919_248
    assert names["model.embed_tokens.weight"].shape == (32003, 4096)
    assert names["lm_head.weight"].shape == (32000, 4096)
    assert names["model.layers.31.gated.attn.to_kv.weight"].shape == (1024, 1024)


BLOCK = "lang_encoder.gated_cross_attn_layers.3.attn_gate"
COPY = "lang_encoder.model.layers.3.gated_cross_attn_layer.attn_gate"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({BLOCK: None, COPY: None}, r"1 missing: model\.layers\.3\.gated\.attn_gate"),
        ({BLOCK: torch.ones(1)}, r"model\.layers\.3\.gated\.attn_gate twice, and differently"),
        ({"lang_encoder.gated_cross_attn_layers.4.attn_gate": torch.ones(1)}, r"1 unexpected: model\.layers\.4"),
        ({"perceiver.norm.bias": None}, r"1 missing: norm\.bias"),
        ({"perceiver.extra": torch.ones(1)}, "1 unexpected: extra"),
        ({"perceiver.latents": None}, "1 missing: latents"),
        ({"perceiver.norm.bias": torch.ones(3)}, "of another shape"),
        ({"vision_encoder.proj": torch.ones(1)}, r"also holds vision_encoder\.proj"),
        ({"lang_encoder.model.embed_tokens.weight": None}, "lacks embeddings"),
        ({"lang_encoder.model.embed_tokens.weight": torch.ones(448, 64)}, "has 448 embeddings"),
        ({"lang_encoder.model.embed_tokens.weight": torch.tensor(1.0)}, "is a single number"),
        ({BLOCK: torch.tensor(1.0), COPY: torch.tensor(1.0)}, "attn_gate is a single number"),
        ({"perceiver.latents": torch.tensor(1.0)}, "of another shape: latents"),
        ({"perceiver.layers.0.0.to_q.weight": torch.tensor(1.0)}, r"of another shape: layers\.0"),
        ({"perceiver.layers.999999999.1.1.weight": torch.ones(1)}, "1 unexpected: layers.999"),
        ({"perceiver.norm.bias": torch.ones(64, dtype=torch.int8)}, r"no floating-point numbers: norm\.bias of"),
        ({"vision_encoder.proj": torch.ones(1), "state": torch.ones(1)}, r"also holds state, vision_encoder\.proj"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: dict[str, torch.Tensor | None], said: str, tmp_path: Path) -> None:
    weights = {name: tensor for name, tensor in {**trained(), **change}.items() if tensor is not None}
    with pytest.raises(DataError, match=said):
        load(write_checkpoint(tmp_path, weights))


def test_parts_that_are_not_there_are_said(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="needs weights"):
        ENTRY.load(LoadOptions())
    with pytest.raises(UsageError, match="nowhere is no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"model\.pt is no folder"):
        load(folder / "model.pt")
    with pytest.raises(UsageError, match=r"model\.pt is missing"):
        load(tmp_path)
    shutil.copyfile(folder / "model.pt", tmp_path / "model.pt")
    with pytest.raises(UsageError, match="llama is no folder"):
        load(tmp_path)
    with pytest.raises(UsageError, match="clip is no folder"):
        load(tmp_path, llama=str(folder / "llama"))
    elsewhere = load(tmp_path, llama=str(folder / "llama"), clip=str(folder / "clip"))
    assert elsewhere.weights_fingerprint == load(folder).weights_fingerprint
    shutil.copytree(folder / "llama", tmp_path / "llama")
    (tmp_path / "llama" / "tokenizer.model").unlink()
    with pytest.raises(DataError, match=r"tokenizer\.model is missing"):
        load(tmp_path, clip=str(folder / "clip"))


@pytest.mark.parametrize(
    "content", [b"", b"hello world", b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04"]
)
def test_a_file_that_is_no_checkpoint_is_said(tmp_path: Path, content: bytes) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / "model.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.pt cannot be read"):
        load(folder)


def change_config(folder: Path, **values: Any) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text(encoding="utf-8")), **values}), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_position_embeddings": 4096}, "reads 4096 tokens, as LLaMA-2 does"),
        ({"rms_norm_eps": 1e-5}, "adds 1e-05 in its norms, as LLaMA-2 does"),
    ],
)
def test_another_llama_of_the_same_shapes_is_noticed(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    folder = write_checkpoint(tmp_path)
    assert load(folder).notices == ()
    change_config(folder / "llama", **change)
    [notice] = load(folder).notices
    assert said in notice


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 7}, r"unexpected: model\.layers\.7"),
        ({"num_hidden_layers": 9}, r"missing: model\.layers\.8"),
        ({"num_key_value_heads": 2}, r"of another shape: model\.layers\.0\.self_attn\.k_proj"),
        ({"vocab_size": 500}, "has 448 pieces, but the model knows 500"),
        ({"model_type": "mistral"}, "'mistral'"),
        ({"hidden_act": "bogus"}, "cannot be used: KeyError 'bogus'"),
        ({"num_attention_heads": -4}, "cannot be used|no usable|is possible"),
        ({"rope_scaling": {"rope_type": "bogus", "factor": 2.0}}, "cannot be used|no usable"),
    ],
)
def test_other_base_models_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    folder = write_checkpoint(tmp_path)
    change_config(folder / "llama", **change)
    with pytest.raises(DataError, match=said):
        load(folder)


def test_a_base_model_without_a_configuration_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    for text in ("{", "[]"):
        (folder / "llama" / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"no usable config\.json"):
            load(folder)
    (folder / "llama" / "config.json").unlink()
    with pytest.raises(DataError, match=r"config\.json is missing"):
        load(folder)


def test_a_head_of_its_own_stays_apart_from_the_embeddings(
    adapters: dict[str, MedFlamingoAdapter], tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path)
    change_config(folder / "llama", tie_word_embeddings=True)
    loaded = load(folder).decoder
    assert not loaded.config.tie_word_embeddings
    assert torch.equal(loaded.lm_head.weight, adapters["previous"].decoder.lm_head.weight)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_act": "gelu"}, "a CLIP with gelu"),
        ({"hidden_act": "bogus"}, "a CLIP with bogus"),
        ({"hidden_size": 1024, "image_size": 336, "patch_size": 14}, "336 pixels in patches of 14"),
        ({"patch_size": 4}, r"of another shape: embeddings\.patch_embedding\.weight"),
        ({"num_attention_heads": 3}, "cannot be used"),
        ({"num_hidden_layers": 2}, r"unexpected: encoder\.layers\.2"),
    ],
)
def test_other_towers_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    folder = write_checkpoint(tmp_path)
    change_config(folder / "clip", **change)
    with pytest.raises(DataError, match=said):
        load(folder)


def test_clip_may_be_the_whole_model_and_must_fit(
    folder: Path, adapters: dict[str, MedFlamingoAdapter], tmp_path: Path
) -> None:
    values = json.loads((folder / "clip" / "config.json").read_text(encoding="utf-8"))
    text = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    for name, width in (("whole", 64), ("wide", 32)):
        vision = {**values, "hidden_size": width}
        model = cast("Any", CLIPModel)(
            CLIPConfig(vision_config=vision, text_config={**text, "vocab_size": 32}, projection_dim=16)
        )
        if name == "whole":
            inner: torch.nn.Module = getattr(model.vision_model, "vision_model", model.vision_model)
            given = cast("torch.nn.Module", adapters["previous"].vision.clip)
            inner.load_state_dict({key.removeprefix("vision_model."): one for key, one in given.state_dict().items()})
        model.save_pretrained(tmp_path / name)
    whole = load(folder, clip=str(tmp_path / "whole"))
    pixels = own_pixels(case("case1_one_image"))
    with torch.inference_mode():
        assert torch.equal(whole.vision(pixels), adapters["previous"].vision(pixels))
    with pytest.raises(DataError, match=r"of another shape: latents \[64, 64\] instead of \[64, 32\]"):
        load(folder, clip=str(tmp_path / "wide"))
    (tmp_path / "whole" / "config.json").unlink()
    with pytest.raises(DataError, match=r"config\.json is missing"):
        load(folder, clip=str(tmp_path / "whole"))
    for written in ('{"model_type": "siglip"}', "[]", '{"model_type": "clip", "vision_config": 3}'):
        (tmp_path / "whole" / "config.json").write_text(written, encoding="utf-8")
        with pytest.raises(DataError, match="not CLIP"):
            load(folder, clip=str(tmp_path / "whole"))
