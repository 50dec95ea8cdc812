"""Random weights where radeval looks for CheXbert's and RadGraph's, in their own layouts, so that it runs offline."""

import json
import sys
import tarfile
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel

TINY: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "initializer_range": 0.5,  # So that texts differ in what is read in them.
}  # fmt: skip
LABELS = ("Anatomy::definitely present", "Observation::definitely present", "Observation::definitely absent")
RELATIONS = ("located_at", "modify", "suggestive_of")
_COMMIT = "0" * 40


def plant(hub: Path, caches: Path, words: list[str], **size: Any) -> None:
    """Write an encoder into the hub's cache, and below the user's `caches` what radeval downloads into them."""
    torch.manual_seed(11)
    # RadGraph's tokenizer learns its marks from the texts `a` and `b`, which must be tokens.
    vocabulary = list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", *words]))
    config = BertConfig(vocab_size=len(vocabulary), **size)
    encoder = BertModel(config)
    base = _snapshot(hub, "bert-base-uncased")
    encoder.save_pretrained(base)
    (base / "vocab.txt").write_text("\n".join(vocabulary))
    (base / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    _plant_chexbert(caches / "chexbert", encoder)
    _plant_radgraph(caches / "radgraph" / "0.1.18", base)


def _snapshot(cache: Path, repository: str) -> Path:
    home = cache / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(_COMMIT)
    folder = home / "snapshots" / _COMMIT
    folder.mkdir(parents=True)
    return folder


def _plant_chexbert(cache: Path, encoder: BertModel) -> None:
    heads = [torch.nn.Linear(encoder.config.hidden_size, classes) for classes in [4] * 13 + [2]]
    for head in heads:
        torch.nn.init.normal_(head.weight)  # Wide enough for every class to win somewhere.
    state = {f"module.bert.{name}": value for name, value in encoder.state_dict().items()}
    for place, head in enumerate(heads):
        state |= {f"module.linear_heads.{place}.{name}": value for name, value in head.state_dict().items()}
    torch.save({"model_state_dict": state}, _snapshot(cache, "StanfordAIMI/RRG_scorers") / "chexbert.pth")


def _plant_radgraph(cache: Path, base: Path) -> None:
    """Pack an archive of random weights as RadGraph's authors pack theirs; the library unpacks it."""
    archive = _snapshot(cache, "StanfordAIMI/RRG_scorers") / "radgraph-xl.tar.gz"
    source = cache / "source"
    (source / "vocabulary").mkdir(parents=True)
    for name, lines in (
        ("non_padded_namespaces", ["*tags", "*labels"]), ("radgraph-xl__ner_labels", ["", *LABELS]),
        ("radgraph-xl__relation_labels", RELATIONS),
    ):  # fmt: skip
        (source / "vocabulary" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    encoder = {"type": "pretrained_transformer_mismatched", "model_name": str(base), "max_length": 512}
    spans = {"spans_per_word": 0.5}
    config = {
        "dataset_reader": {"type": "dygie", "max_span_width": 6, "token_indexers": {"bert": encoder}},
        "model": {
            "type": "dygie", "embedder": {"token_embedders": {"bert": encoder}}, "initializer": {},
            "module_initializer": {}, "feature_size": 20, "max_span_width": 6, "target_task": "relation",
            "feedforward_params": {"num_layers": 2, "hidden_dims": 64, "dropout": 0.4},
            "loss_weights": {"ner": 0.2, "relation": 1.0, "coref": 0.0, "events": 0.0},
            "modules": {
                "ner": {}, "relation": spans, "coref": {**spans, "max_antecedents": 10, "coref_prop": 0},
                "events": {
                    "trigger_spans_per_word": 0.3, "argument_spans_per_word": 0.8,
                    "loss_weights": {"trigger": 0.2, "arguments": 1.0},
                },
            },
        },
    }  # fmt: skip
    (source / "config.json").write_text(json.dumps(config))
    torch.save(_random_weights(source, config["model"], base), source / "weights.th")
    with tarfile.open(archive, "w:gz") as packed:
        for path in sorted(source.iterdir()):
            packed.add(path, path.name)


def _random_weights(source: Path, settings: dict[str, Any], base: Path) -> dict[str, torch.Tensor]:
    sys.modules.setdefault("RadEval", import_module("radeval"))
    vendored = "RadEval.metrics.radgraph._vendor"
    embedders = import_module(f"{vendored}.allennlp.modules.token_embedders")
    fields = import_module(f"{vendored}.allennlp.modules.text_field_embedders")
    bert = embedders.PretrainedTransformerMismatchedEmbedder(model_name=str(base), max_length=512)
    left_out = {"type", "embedder", "initializer", "module_initializer"}
    model = import_module(f"{vendored}.dygie.models.dygie").DyGIE(
        vocab=import_module(f"{vendored}.allennlp.data").Vocabulary.from_files(str(source / "vocabulary")),
        embedder=fields.BasicTextFieldEmbedder({"bert": bert}),
        **json.loads(json.dumps({name: value for name, value in settings.items() if name not in left_out})),
    )  # fmt: skip
    state: dict[str, torch.Tensor] = model.state_dict()
    for name, value in state.items():
        if "ner_scorers" in name and "1._module" in name:  # The last layer: most spans are no entity.
            torch.nn.init.normal_(value) if value.ndim > 1 else torch.nn.init.constant_(value, -2.0)
        elif "relation_scorers" in name:
            torch.nn.init.normal_(value)
    return state
