"""`medbench convert uni-med` and `--dry-run`, on the official fixture and on tiny base weights."""

from pathlib import Path

import pytest
import torch
from command_line import medbench
from test_unimed_parity_e2e import base as official_base
from test_unimed_parity_e2e import checkpoint_path
from tiny_base import lora_overrides, make_base
from unimed_fixtures import close, document

from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.unimed.checkpoint import load_checkpoint
from medbench.unimed.convert import config_of, read_official, to_whole

META = "e2e/meta.json"


def sizes() -> list[str]:
    vit = document(META)["vit"]
    names = {
        "hidden_size": vit["embed_dim"], "num_hidden_layers": vit["depth_used"], "num_attention_heads": vit["heads"],
        "intermediate_size": vit["mlp_hidden"], "patch_size": vit["patch"],
    }  # fmt: skip
    return [word for name, value in names.items() for word in ("--vision", f"{name}={value}")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("converted") / "folder"
    weights = official_base()
    done = medbench(
        "convert", "uni-med", checkpoint_path(), "--vision-weights", weights.vision,
        "--language-model", weights.language_model, *sizes(), "--output", output,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return output


def test_an_official_checkpoint_becomes_a_folder_and_comes_back(folder: Path, tmp_path: Path) -> None:
    assert {path.name for path in folder.iterdir()} >= {
        "trained.safetensors",
        "base_weights.json",
        "processor_config.json",
    }
    back = medbench("convert", "uni-med", folder, "--output", tmp_path / "back.pth")
    assert back.returncode == 0, back.stderr
    official, ours = read_official(checkpoint_path()), read_official(tmp_path / "back.pth")
    assert set(official.tensors) == set(ours.tensors)
    for name, tensor in official.tensors.items():
        close(ours.tensors[name], tensor, 1e-4 if "inv_freq" in name else 0)


@torch.no_grad()
@pytest.mark.parametrize("option", ["--standalone", "--merge-lora"])
def test_a_whole_model_computes_the_same(folder: Path, tmp_path: Path, option: str) -> None:
    done = medbench("convert", "uni-med", folder, option, "--output", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "whole" / "base_weights.json").exists()
    assert "library_name: transformers" in (tmp_path / "whole" / "README.md").read_text()
    ids = torch.tensor([[1, 5, 9, 20]])
    one, other = (
        load_checkpoint(path, device="cpu").model(input_ids=ids).logits for path in (folder, tmp_path / "whole")
    )
    close(one, other)


def test_a_merged_model_does_not_go_back(folder: Path, tmp_path: Path) -> None:
    to_whole(folder, tmp_path / "merged", merge_lora=True)
    done = medbench("convert", "uni-med", tmp_path / "merged", "--output", tmp_path / "back.pth")
    assert done.returncode == 1
    assert "merged LoRA" in done.stderr
    assert not (tmp_path / "back.pth").exists()


def damage(change: str, tmp_path: Path) -> Path:
    content = torch.load(checkpoint_path(), weights_only=True)
    model = content["model"]
    if change == "missing":
        del model["router.fc1.weight"]
    elif change == "unexpected":
        model["router.fc3.weight"] = torch.zeros(2)
    elif change == "misshapen":
        model["router.fc2.bias"] = torch.zeros(17)
    elif change == "contradictory":
        [name] = [name for name in model if name == "llm_proj.0.0.bias"]
        model[name] = model[name].clone() + 1
    elif change == "no config":
        del content["config"]
    path = tmp_path / "damaged.pth"
    torch.save(content, path)
    if change == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("missing", "2 missing: connector.router.fc1_task, connector.router.fc1_token"),
        ("unexpected", "1 unexpected: router.fc3.weight"),
        ("misshapen", "instead of"),
        ("contradictory", "duplicate"),
        ("no config", "no Uni-Med checkpoint"),
        ("truncated", "cannot be read"),
    ],
)
def test_a_damaged_official_checkpoint_is_refused(change: str, says: str, tmp_path: Path) -> None:
    weights = official_base()
    done = medbench(
        "convert", "uni-med", damage(change, tmp_path), "--vision-weights", weights.vision, "--language-model",
        weights.language_model, *sizes(), "--output", tmp_path / "folder",
    )  # fmt: skip
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "folder").exists()


def test_experts_are_read_from_either_of_their_names(tmp_path: Path) -> None:
    content = torch.load(checkpoint_path(), weights_only=True)
    content["model"] = {name: tensor for name, tensor in content["model"].items() if not name.startswith("moe_layers.")}
    torch.save(content, tmp_path / "only_proj.pth")
    weights = official_base()
    done = medbench(
        "convert", "uni-med", tmp_path / "only_proj.pth", "--vision-weights", weights.vision, "--language-model",
        weights.language_model, *sizes(), "--output", tmp_path / "folder",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"has_moe": True, "projector_type": "mlp2x_gelu"}, "cannot work"),
        ({"has_moe": False, "projector_type": "moe_mlp"}, "cannot work"),
        ({"router_method": "router_image"}, "unknown word"),
        ({"num_task_tokens": 0, "router_method": "router_task"}, "cannot work"),
        ({"router_type": "hard", "num_experts": 3}, "cannot work"),
        ({"lora_target_modules": ["q_proj"]}, "q_proj"),
    ],
)
def test_official_configurations_that_crash_late_are_refused_early(settings: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        config_of(settings)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["no/such.pth", "--vision-weights", "a.pth", "--language-model", "b", "--output", "x"], "a.pth"),
        (["checkpoint.pth", "--output", "x"], "base weights"),
        (["no/such/folder", "--output", "x.pth"], "no folder"),
        (["one", "--output", "two"], "both folders"),
    ],
)
def test_a_users_mistake_gets_an_answer(words: list[str], says: str) -> None:
    done = medbench("convert", "uni-med", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_prints_the_plan_of_the_full_size_model() -> None:
    done = medbench("train", "--config", "official", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "727,068,165" in done.stdout
    assert "507,781,125" in done.stdout
    assert "training: together" in done.stdout
    assert "answering: weights" in done.stdout
    assert "50,000 steps" in done.stderr


def test_a_dry_run_with_data_counts_it(small_data: Path, tmp_path: Path) -> None:
    weights = make_base(tmp_path / "base")
    settings = [word for setting in lora_overrides(weights) for word in ("--set", setting)]
    done = medbench("train", "--config", "official", *settings, "--data-dir", small_data, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "dermamnist+organsmnist" in done.stdout
    wrong = medbench("train", "--config", "official", *settings, "--data-dir", tmp_path, "--dry-run")
    assert wrong.returncode == 1
    assert "Traceback" not in wrong.stderr


def test_the_merging_of_lora_moe_is_refused(tmp_path: Path) -> None:
    from tiny_model import small

    from medbench.unimed.checkpoint import write_checkpoint

    model, processor = small(language_tuning="lora_moe")
    write_checkpoint(model, processor, tmp_path / "moe")
    with pytest.raises(UsageError, match="depends on the token"):
        to_whole(tmp_path / "moe", tmp_path / "merged", merge_lora=True)
