"""What makes another run: one thing is changed at a time, and the table in docs/models.md says the same."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_vlms
from low_rank_helpers import change_weights, publish
from safetensors.torch import load_file, save_file

from medbench.adapters.base import Adapter, LoadOptions
from medbench.adapters.catalog import choose_model
from medbench.adapters.hf.adapter import HfAdapter
from medbench.adapters.llava_med.model import LlavaMedAdapter
from medbench.adapters.openai.client import ServedModel
from medbench.harness import identity as identities
from medbench.harness.identity import made_of, run_identity
from medbench.harness.models import ModelFacts
from medbench.harness.settings import Settings
from medbench.harness.workload import Workload, load_workload
from medbench.tasks.foundation.files import fingerprint
from medbench.tasks.foundation.model_files import digest_of, digests, identity_of

DOCS = Path(__file__).parents[1] / "docs" / "models.md"
Change = Callable[[Path], object]


def edit(name: str, **values: Any) -> Change:
    def change(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(document | values))

    return change


def write(name: str, text: str = "more") -> Change:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    return change


def append(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


def one_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[min(weights)].view(-1)[0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


FILES: dict[str, tuple[Change, bool]] = {
    "one weight of `model.safetensors`": (one_weight, True),
    "a file of weights in a folder below": (write("below/model.safetensors"), True),
    "`config.json`": (edit("config.json", projector_hidden_act="relu"), True),
    "`tokenizer.json`": (append("tokenizer.json", "\n"), True),
    "`tokenizer_config.json`": (edit("tokenizer_config.json", clean_up_tokenization_spaces=True), True),
    "`chat_template.jinja`": (append("chat_template.jinja", "Answer:"), True),
    "`processor_config.json`": (edit("processor_config.json", patch_size=28), True),
    "end tokens in `generation_config.json`": (edit("generation_config.json", eos_token_id=[2, 5]), True),
    "temperature in `generation_config.json`": (edit("generation_config.json", temperature=0.2, do_sample=True), False),
    "`README.md`, `LICENSE`, images": (write("README.md"), False),
    "what a training left, such as `trainer_state.json`": (write("trainer_state.json"), False),
    "hidden files and folders, such as `.git`": (write(".git/HEAD"), False),
}
CODE: dict[str, tuple[str, bool]] = {
    "a comment in the model's own adapter": ("adapters/hf/processing.py", True),
    "a comment in what it shares with others": ("adapters/wording.py", True),
    "a comment in the engine": ("harness/engine/packing.py", True),
    "a comment in another model's adapter": ("adapters/radfm/model.py", False),
    "a scorer, a page, the command line": ("tasks/metrics/answers.py", False),
}
SETTINGS: dict[str, tuple[dict[str, Any], bool]] = {
    "`--batch-size` in float32": ({"batch_size": 2}, False),
    "`--output-dir`, `--data-dir` with the same data": ({"output_dir": Path("elsewhere")}, False),
    "`--limit`, `--seed`, `--temperature`": ({"temperature": 0.5}, True),
    "`--device-map` in float32": ({"device_map": "auto"}, False),
    "a task more": ({"tasks": ("slake-vqa", "pubmedqa")}, True),
}
ARGUMENTS: dict[str, tuple[dict[str, str], bool]] = {
    "`--model-arg system=...` and others that answers depend on": ({"system": "Be brief."}, True),
    "`--model-arg revision=...`: another name of the same commit": ({"revision": "v1"}, False),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_vlms.llava(tmp_path_factory.mktemp("original") / "llava")
    (folder / "below").mkdir()
    (folder / "below" / "model.safetensors").write_text("some")
    return folder


@pytest.fixture(scope="module")
def adapter(original: Path) -> Adapter:
    return loaded(original)


@pytest.fixture(scope="module")
def workloads() -> dict[tuple[str, ...], Workload]:
    names: list[tuple[str, ...]] = [("slake-vqa",), ("slake-vqa", "pubmedqa")]
    return {tasks: load_workload(Settings(model="hf", tasks=tasks, limit=2)) for tasks in names}


def loaded(folder: Path, given: dict[str, str] | None = None, **options: Any) -> Adapter:
    model = choose_model(f"hf:{folder}", given or {})
    return model.entry.load(LoadOptions(variant=str(folder), arguments=model.arguments, device="cpu", **options))


def identity(
    adapter: Adapter,
    workloads: dict[tuple[str, ...], Workload],
    *,
    given: dict[str, str] | None = None,
    **settings: Any,
) -> str:
    chosen = Settings(**{"model": "hf:tiny", "tasks": ("slake-vqa",), "limit": 2, **settings})
    told = ModelFacts.of(adapter)
    info = replace(told.info, dtype=settings.pop("dtype", told.info.dtype))
    parts = run_identity(
        chosen, workloads[chosen.tasks], info, choose_model("hf:tiny", given or {}), weights=info.weights,
        made_of=made_of(adapter, chosen.tasks),
    )  # fmt: skip
    return fingerprint(parts)


@pytest.mark.parametrize("what", FILES)
def test_a_file_of_the_model_makes_another_run_if_answers_depend_on_it(
    what: str, original: Path, adapter: Adapter, tmp_path: Path
) -> None:
    change, another = FILES[what]
    folder = Path(shutil.copytree(original, tmp_path / "llava"))
    assert identity_of({"checkpoint": folder}) == adapter.weights_fingerprint
    change(folder)
    assert (identity_of({"checkpoint": folder}) != adapter.weights_fingerprint) == another


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("code")
    for room in ("adapters", "unimed", "tasks", "harness"):
        shutil.copytree(
            identities.ROOT / room, root / room, ignore=lambda folder, names: {
                name for name in names if not (name.endswith(".py") or (Path(folder) / name).is_dir())
            },
        )  # fmt: skip
    return root


@pytest.fixture
def source(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(identities, "ROOT", copied)
    before = {file: file.read_bytes() for file in copied.rglob("*.py")}
    yield copied
    for file, content in before.items():
        if file.read_bytes() != content:
            file.write_bytes(content)


@pytest.mark.parametrize("what", CODE)
def test_a_line_of_code_makes_another_run_if_answers_depend_on_it(
    what: str, adapter: Adapter, workloads: dict[tuple[str, ...], Workload], source: Path
) -> None:
    name, another = CODE[what]
    before = identity(adapter, workloads)
    (source / name).write_text((source / name).read_text() + "# more\n")
    assert (identity(adapter, workloads) != before) == another


def test_each_model_has_the_code_of_its_own(source: Path) -> None:
    models: dict[str, Adapter] = {
        "hf": object.__new__(HfAdapter), "llava_med": object.__new__(LlavaMedAdapter),
        "openai": object.__new__(ServedModel),
    }  # fmt: skip
    files = {name: set(identities.answering_code(one)) for name, one in models.items()}
    for name, own in files.items():
        packages = {file.split("/")[1] for file in own if file.startswith("adapters/") and file.count("/") > 1}
        assert name in packages
        assert packages <= {name}
        assert any(file.startswith("harness/engine/") for file in own) == (name != "openai")
    assert "unimed/tokens.py" in files["llava_med"] - files["hf"]
    assert not any(file.startswith(("tasks/metrics", "leaderboard")) for own in files.values() for file in own)
    assert source.is_dir()


@pytest.mark.parametrize("what", SETTINGS)
def test_a_setting_makes_another_run_if_answers_depend_on_it(
    what: str, adapter: Adapter, workloads: dict[tuple[str, ...], Workload]
) -> None:
    settings, another = SETTINGS[what]
    assert (identity(adapter, workloads, **settings) != identity(adapter, workloads)) == another


@pytest.mark.parametrize("what", ARGUMENTS)
def test_an_argument_makes_another_run_if_answers_depend_on_it(
    what: str, adapter: Adapter, workloads: dict[tuple[str, ...], Workload]
) -> None:
    given, another = ARGUMENTS[what]
    assert (identity(adapter, workloads, given=given) != identity(adapter, workloads)) == another


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_16_bits_the_rows_that_are_computed_together_make_another_run(
    dtype: str, adapter: Adapter, workloads: dict[tuple[str, ...], Workload]
) -> None:
    found = {
        identity(adapter, workloads, dtype=dtype),
        identity(adapter, workloads, dtype=dtype, batch_size=1),
        identity(adapter, workloads, dtype=dtype, batch_size=2),
        identity(adapter, workloads, dtype=dtype, device_map="auto"),
    }
    assert len(found) == 4


def test_rounded_weights_and_adapters_make_another_run(
    original: Path, adapter: Adapter, workloads: dict[tuple[str, ...], Workload], tmp_path: Path
) -> None:
    plain: Any = loaded(original)
    publish(plain.decoder, tmp_path / "lora")
    shutil.copytree(tmp_path / "lora", tmp_path / "of another name")
    shutil.copytree(tmp_path / "lora", tmp_path / "trained further")
    change_weights(tmp_path / "trained further", lambda pairs: {name: one * 2 for name, one in pairs.items()})
    loras = [tmp_path / name for name in ("lora", "of another name", "trained further")]
    first, again, further = (identity(loaded(original, lora=one), workloads) for one in loras)
    assert first == again
    rounded = identity(loaded(original, quantize="8bit"), workloads)
    both = identity(loaded(original, quantize="8bit", lora=loras[0]), workloads)
    assert len({identity(adapter, workloads), first, further, rounded, both}) == 5


def test_a_librarys_version_makes_another_run(
    adapter: Adapter, workloads: dict[tuple[str, ...], Workload], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = identity(adapter, workloads)
    monkeypatch.setattr(identities, "installed_version", lambda _: "0")
    assert identity(adapter, workloads) != before


@pytest.mark.parametrize("settings", [{"limit": 1}, {"seed": 1}, {"temperature": 0.5}])
def test_each_of_these_settings_makes_another_run(
    settings: dict[str, Any], adapter: Adapter, workloads: dict[tuple[str, ...], Workload]
) -> None:
    assert identity(adapter, workloads, **settings) != identity(adapter, workloads)


def test_a_model_that_was_moved_is_the_same(
    adapter: Adapter, workloads: dict[tuple[str, ...], Workload], tmp_path: Path
) -> None:
    for name in ("here/tiny", "there/tiny", "there/other"):
        (tmp_path / name).mkdir(parents=True)
    here, there, other = (
        identity(adapter, workloads, model=f"hf:{tmp_path / name}")
        for name in ("here/tiny", "there/tiny", "there/other")
    )
    assert here == there != other


def test_the_class_that_reads_pictures_and_the_commit_are_parts_of_a_run(
    adapter: Adapter, workloads: dict[tuple[str, ...], Workload], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert adapter.made_of["image processor"].endswith(".CLIPImageProcessorPil")
    before = identity(adapter, workloads)
    for other in ({"image processor": "x.CLIPImageProcessor"}, {"commit": "0" * 40}, {"server": "vllm=0.11.0"}):
        monkeypatch.setattr(adapter, "made_of", {**adapter.made_of, **other})
        assert identity(adapter, workloads) != before


def test_the_table_of_the_docs_is_what_was_tried() -> None:
    tried = {
        **{what: another for what, (_, another) in FILES.items()},
        **{what: another for what, (_, another) in CODE.items()},
        **{what: another for what, (_, another) in SETTINGS.items()},
        **{what: another for what, (_, another) in ARGUMENTS.items()},
        "`--batch-size` in bfloat16 or float16": True,
        "`--device-map` in bfloat16 or float16": True,
        "`--quantize`, and the version of its library": True,
        "`--lora`: another weight or setting of the adapter": True,
        "`--lora`: another name of its folder": False,
        "the folder that the model's folder lies in": False,
        "what a server tells of its model and version": True,
        "the commit that a revision means": True,
        "the class that scales images": True,
        "a file in the package of a plugin that brings the model or a task": True,
        "the version of torch, transformers, tokenizers, sentencepiece, numpy or Pillow": True,
    }
    section = DOCS.read_text().partition("## What makes another run")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    assert {cells[0]: cells[1] for cells in rows[2:]} == {what: "yes" if one else "no" for what, one in tried.items()}


# Files


def test_files_of_one_name_in_two_folders_are_two_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(name)
    before = digests(tmp_path)
    assert list(before) == ["a/model.safetensors", "b/model.safetensors"]
    (tmp_path / "a" / "model.safetensors").write_text("x")
    assert digests(tmp_path)["a/model.safetensors"] != before["a/model.safetensors"]
    assert digests(tmp_path)["b/model.safetensors"] == before["b/model.safetensors"]


def test_a_tensor_among_many_is_seen_in_a_file_too_large_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from medbench.tasks.foundation import files, model_files

    monkeypatch.setattr(model_files, "_WHOLE_BYTES", 1000)
    monkeypatch.setattr(files, "_SAMPLED_BYTES", 1000)
    weights = {f"layer.{number}": torch.zeros(3000) for number in range(20)}
    save_file(weights, tmp_path / "before.safetensors")
    weights["layer.7"] += 1
    save_file(weights, tmp_path / "after.safetensors")
    assert digest_of(tmp_path / "before.safetensors") != digest_of(tmp_path / "after.safetensors")
    assert files.sampled_sha256(tmp_path / "before.safetensors") == files.sampled_sha256(tmp_path / "after.safetensors")


def test_a_file_alone_has_no_name(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_text("the same")
    assert identity_of({"vision": tmp_path / "a.pth"}) == identity_of({"vision": tmp_path / "b.pth"})
    assert identity_of({"vision": tmp_path / "a.pth"}) != identity_of({"language": tmp_path / "a.pth"})


# Plugins


def test_the_files_of_a_plugin_are_part_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "their_models"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "model.py").write_text("from medbench.adapters.mock import *\nclass Theirs:\n    made_of = {}\n")
    (package / "prompt.txt").write_text("Look closely.")
    monkeypatch.syspath_prepend(str(tmp_path))
    from importlib import import_module
    from types import SimpleNamespace

    theirs = import_module("their_models.model").Theirs()
    theirs.card = SimpleNamespace(name="theirs")
    before = made_of(theirs)
    assert set(before["plugins"]) == {"their_models"}  # type: ignore[call-overload]
    (package / "prompt.txt").write_text("Look more closely.")
    assert made_of(theirs)["plugins"] != before["plugins"]
