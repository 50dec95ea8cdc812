"""A model is known by the type that its configuration names and the last part of its name; its commit by its hash."""

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest
from source_files import ROOT, source_files

from medbench.adapters.hf.adapter import find_model
from medbench.adapters.hf.entry import ENTRY, asked_family, family_of, known, short_name
from medbench.unimed import weights


def folder(root: Path, name: str, family: str = "") -> str:
    path = root / name
    path.mkdir(parents=True)
    if family:
        (path / "config.json").write_text(f'{{"model_type": "{family}"}}')
    return str(path)


@pytest.mark.parametrize(
    ("name", "family", "boxes"),
    [
        ("paligemma-experiments/llava-1.5-7b-hf", "llava", "fraction"),
        ("medgemma/Qwen2.5-VL-7B", "qwen2_5_vl", "pixels-28"),
        ("HuatuoGPT-Vision-7B-Qwen2.5VL", "qwen2_5_vl", "pixels-28"),
        ("exp-17", "internvl", "permille"),
        ("qwen2-vl-teacher/exp-17", "gemma3", "permille-yxyx"),
        ("Qwen2.5-VL-tuned", "qwen3_vl", "permille"),
        ("medgemma-like", "llava", "fraction"),
        ("medgemma-4b-it", "gemma3", "permille-yxyx"),
        ("llava-med-v1.5", "llava", "fraction"),
        ("gemma-3n-E4B-it", "gemma3n", "fraction"),
    ],
)
def test_boxes_follow_the_configuration_not_the_folder_above(
    name: str, family: str, boxes: str, tmp_path: Path
) -> None:
    assert ENTRY.settled(folder(tmp_path, name, family), {})["boxes"] == boxes


@pytest.mark.parametrize(
    ("name", "boxes"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", "pixels-28"),
        ("FreedomIntelligence/HuatuoGPT-Vision-7B-Qwen2.5VL", "pixels-28"),
        ("Qwen/Qwen3-VL-8B-Instruct", "permille"),
        ("Qwen/Qwen2-VL-7B", "permille"),
        ("google/paligemma-3b-mix-224", "loc1024"),
        ("google/paligemma2-3b-pt", "loc1024"),
        ("google/gemma-3-4b-it", "permille-yxyx"),
        ("google/gemma-3n-E4B-it", ""),
        ("google/medgemma-27b-it", "permille-yxyx"),
        ("paligemma-team/llava-1.5-7b-hf", ""),
        ("someone/something", ""),
    ],
)
def test_a_name_stands_in_for_a_configuration_that_is_not_here(name: str, boxes: str) -> None:
    assert known(name).boxes == boxes


def test_the_last_part_tells_training_data_and_licence(tmp_path: Path) -> None:
    assert known("google/medgemma-4b-it").trained_on == frozenset({"slake-vqa", "mimic-cxr"})
    assert known(folder(tmp_path, "medgemma/gemma-3-4b", "gemma3")).trained_on is None
    huatuo = known(folder(tmp_path, "HuatuoGPT-Vision-7B-Qwen2.5VL", "qwen2_5_vl"))
    assert (huatuo.licence, huatuo.boxes) == ("Apache-2.0", "pixels-28")


def test_a_snapshot_in_the_cache_has_the_name_of_its_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = folder(tmp_path, f"models--google--medgemma-4b-it/snapshots/{'0' * 40}", "gemma3")
    assert short_name(snapshot) == "medgemma-4b-it"
    assert known(snapshot).trained_on == frozenset({"slake-vqa", "mimic-cxr"})
    assert short_name("google/medgemma-4b-it/") == "medgemma-4b-it"
    monkeypatch.chdir(folder(tmp_path, "llava-7b"))
    assert short_name(".") == "llava-7b"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_type": 3}', "{}"])
def test_a_configuration_that_says_nothing_says_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    assert family_of(str(tmp_path)) in {"", "3"}
    assert known(str(tmp_path)).boxes == ""


def test_the_hub_is_asked_once_what_a_repository_is_and_may_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from httpx2 import ConnectError

    asked: list[str] = []

    def get(address: str, **_: object) -> SimpleNamespace:
        asked.append(address)
        if "silent" in address:
            raise ConnectError("nobody there")
        return SimpleNamespace(is_success="gated" not in address, json=lambda: {"model_type": "qwen2_5_vl"})

    asked_family.cache_clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(get=get))
    assert ENTRY.settled("nobody-here/exp-17", {})["boxes"] == "pixels-28"
    assert ENTRY.settled("nobody-here/exp-17", {"boxes": "permille"})["boxes"] == "permille"
    assert ENTRY.settled("nobody-here/gated", {})["boxes"] == "fraction"
    assert ENTRY.settled("nobody-here/silent-qwen3-vl", {})["boxes"] == "permille"
    assert [address.split("/")[4] for address in asked] == ["exp-17", "gated", "silent-qwen3-vl"]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert asked_family("nobody-here/offline") == asked_family("") == asked_family("a/b/c") == ""
    assert len(asked) == 3
    asked_family.cache_clear()


def test_a_branch_is_resolved_to_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "f" * 40
    monkeypatch.setattr(weights, "snapshot_download", lambda *_, **__: folder(tmp_path, f"snapshots/{commit}"))
    assert find_model("nobody-here/exp-17", "main")[1] == commit
    assert find_model(str(tmp_path), "main") == (tmp_path, "")
    assert known("nobody-here/exp-17", "llava").boxes == ""


# Code of repositories


def loading_calls() -> list[tuple[str, ast.Call]]:
    examples = [(path, ast.parse(path.read_text())) for path in (ROOT / "docs" / "examples").rglob("*.py")]
    return [
        (f"{path}:{node.lineno}", node)
        for path, tree in [*source_files(), *examples]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "from_pretrained"
        # It reads a table of JSON and knows no code.
        and ast.unparse(node.func.value) != "PeftConfig"
    ]


def test_nothing_is_loaded_with_the_code_of_a_repository() -> None:
    calls = loading_calls()
    assert len(calls) >= 9
    for place, call in calls:
        given = {word.arg: word.value for word in call.keywords if word.arg}
        spread = [word.value for word in call.keywords if word.arg is None]
        said = given.get("trust_remote_code")
        plain = isinstance(said, ast.Constant) and said.value is False
        assert plain or [ast.unparse(one) for one in spread] == ["_PIL"], place
