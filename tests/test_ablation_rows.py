"""The rows of the paper's ablations: each a valid recipe that differs from its baseline exactly as the paper says."""

from dataclasses import replace

import pytest
import torch
from command_line import medbench

from medbench.leaderboard.paper import read_publication
from medbench.unimed.ablation.rows import ablation_tables, base_recipe, key_of, recipe_of_row
from medbench.unimed.checkpoint import BUNDLED, MINI, BaseWeights, assemble, configure
from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.training.plan import _planned_config, meta_model, parameters_of
from medbench.unimed.training.recipe import Recipe
from medbench.unimed.weights import read_tensors

EVERY_ROW = [(table, name) for table, one in ablation_tables().items() for name in one.rows]
LORA, MOE = ("lora_rank", "lora_alpha"), ("lora_rank", "lora_alpha", "language_tuning")
# What sets each row apart from the Uni-Med that the paper ends up with.
APART: dict[str, dict[str, object]] = {
    "2a Linear": {"connector_type": "linear"},
    "2a CMoE, constant": {"router_type": "constant"},
    "2a CMoE, hard": {"router_type": "hard"},
    "2a CMoE, sparse, token": {"router_type": "sparse", "router_input": "token"},
    "2a CMoE, soft, token": {"router_input": "token"},
    "2a CMoE, soft, task": {"router_input": "task"},
    "2a CMoE, soft, token & task": {},
    "2b CMoE, rate 1": {"resample_rate": 1},
    "2b CMoE, rate 2, projection": {"resample_rate": 2},
    "2b CMoE, rate 4, max pooling": {"resample_method": "maxpool"},
    "2b CMoE, rate 4, average pooling": {"resample_method": "avgpool"},
    "2b CMoE, rate 4, projection": {},
    **{f"2c CMoE, {count} experts": {"num_experts": count} for count in (3, 8, 10, 16)},
    "2c CMoE, 5 experts": {},
    **{f"2{letter} MLP": {"connector_type": "mlp2x_gelu"} for letter in "abc"},
    "2e LoRA, MLP": {"connector_type": "mlp2x_gelu", "lora_rank": 4, "lora_alpha": 8},
    "5 MLP": {"connector_type": "mlp2x_gelu", "text_identifiers": False},
    "5 CMoE": {"router_input": "token", "text_identifiers": False},
    "5 CMoE, task token": {"text_identifiers": False},
    "5 CMoE, text identifier": {"router_input": "token"},
    "5 CMoE, text identifier & task token": {},
}
for rank in (4, 8, 16, 32, 64):
    pair: dict[str, object] = {} if rank == 8 else {"lora_rank": rank, "lora_alpha": 2 * rank}
    APART[f"2d rank {rank}, MLP"] = {"connector_type": "mlp2x_gelu", **pair}
    APART[f"2d rank {rank}, CMoE hard"] = {"router_type": "hard", **pair}
    APART[f"2d rank {rank}, CMoE soft"] = pair
for connector, own in (
    ("MLP", {"connector_type": "mlp2x_gelu"}),
    ("CMoE hard", {"router_type": "hard"}),
    ("CMoE soft", {}),
):
    APART[f"2e LoRA-MoE, {connector}"] = {"language_tuning": "lora_moe", "lora_rank": 4, "lora_alpha": 8, **own}


def recipe_of(table: str, name: str, base: str = "mini-ablation", seed: int = 42) -> Recipe:
    row = ablation_tables()[table].rows[name]
    return recipe_of_row(base_recipe(base, (), planned=True), row, seed)


def config_of(recipe: Recipe) -> UniMedConfig:
    return _planned_config(recipe.model)[0]


@pytest.mark.parametrize(("table", "name"), EVERY_ROW)
@pytest.mark.parametrize("base", ["mini-ablation", "official"])
def test_every_row_is_a_valid_model_that_differs_as_the_paper_says(table: str, name: str, base: str) -> None:
    whole = config_of(recipe_of("2a", "CMoE, soft, token & task", base))
    assert (whole.connector_type, whole.router_type, whole.router_input) == ("moe", "soft", "token_and_task")
    assert (whole.num_experts, whole.resample_rate, whole.lora_rank, whole.lora_alpha) == (5, 4, 8, 16)
    own = config_of(recipe_of(table, name, base)).to_dict()
    apart = {key: value for key, value in own.items() if value != whole.to_dict()[key]}
    assert apart == APART[f"{table} {name}"]


def test_rows_have_the_names_the_order_and_the_baselines_of_the_published_tables() -> None:
    for table, one in ablation_tables().items():
        published = read_publication(f"table{table}").models
        assert list(one.rows) == list(published)
        assert {name: row.over for name, row in one.rows.items()} == {name: row.over for name, row in published.items()}


def test_rows_that_the_paper_prints_alike_are_one_training_and_others_are_none() -> None:
    by_key: dict[str, set[str]] = {}
    for table, name in EVERY_ROW:
        scores = read_publication(f"table{table}").models[name].scores
        by_key.setdefault(key_of(recipe_of(table, name), {}), set()).add(str(scores))
    assert all(len(printed) == 1 for printed in by_key.values())
    # The MLP is told apart where the paper's Table 5 says that it has no text identifier.
    assert len(by_key) == len({printed for one in by_key.values() for printed in one}) + 1
    assert key_of(recipe_of("5", "MLP"), {}) != key_of(recipe_of("2a", "MLP"), {})


def test_data_seed_and_recipe_make_another_training_but_not_what_is_so_anyway() -> None:
    recipe = recipe_of("2a", "MLP")
    said = replace(recipe, model=replace(recipe.model, unimed={**recipe.model.unimed, "sparse_top_k": 2}))
    assert key_of(said, {"a": "1"}) == key_of(recipe, {"a": "1"})
    others = [key_of(recipe, {"a": "2"}), key_of(replace(recipe, seed=1), {"a": "1"}),
              key_of(replace(recipe, steps=7), {"a": "1"})]  # fmt: skip
    assert len({key_of(recipe, {"a": "1"}), *others}) == 4


def test_what_is_trained_grows_with_rank_and_experts() -> None:
    def part(table: str, name: str, which: str) -> int:
        return parameters_of(meta_model(config_of(recipe_of(table, name))))[which][0]

    assert part("2d", "rank 64, MLP", "LoRA") == 16 * part("2d", "rank 4, MLP", "LoRA")
    assert part("2c", "CMoE, 16 experts", "experts") * 3 == 16 * part("2c", "CMoE, 3 experts", "experts")
    assert (
        config_of(recipe_of("2b", "CMoE, rate 1")).visual_tokens == 4 * config_of(recipe_of("2b", "MLP")).visual_tokens
    )


def test_the_bundled_weights_lie_frozen_beneath_a_fresh_connector() -> None:
    base = BaseWeights(language_model=BUNDLED, vision=BUNDLED).resolved()
    plan = recipe_of("2a", "CMoE, soft, token & task").model
    model = assemble(configure(base, dict(plan.unimed), vision=dict(plan.vision)), base, dtype=torch.float32)
    bundled = read_tensors(MINI / "model.safetensors")
    names = dict(model.named_parameters())
    for part, ours in (("language_model.model.norm.weight",) * 2, ("vision_tower.vit.embeddings.class_embedding",) * 2):
        assert torch.equal(names[ours], bundled[part].float())
        assert not names[ours].requires_grad
    query = "language_model.model.layers.0.self_attn.q_proj"
    assert torch.equal(names[f"{query}.base_layer.weight"], bundled[f"{query}.weight"].float())
    assert torch.equal(model.language_model.lm_head.weight, bundled["language_model.model.embed_tokens.weight"].float())
    assert not torch.equal(names["connector.experts.0.0.weight"], bundled["connector.experts.0.0.weight"].float())
    assert {name.split(".")[0] for name in model.trainable() if "lora_" not in name} == {"connector"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--table", "2f"), "2a"),
        (("--table", "2a", "--rows", "CMoE, hrad"), "CMoE, hard"),
        (("--table", "2c", "--set", "model.unimed.num_experts=4"), "--rows"),
        (("--table", "2d", "--base", "mini"), "mini-ablation"),
        (("--table", "2a", "--base", "nothing"), "no recipe"),
        (("--table", "2a", "--set", "steps=0"), "steps"),
        (("--table", "2a", "--seeds", "0"), "seeds"),
        (("--table", "2a", "--base", "official", "--measure"), "language_model"),
    ],
)
def test_bad_words_are_told_in_a_sentence(words: tuple[str, ...], told: str) -> None:
    done = medbench("ablate", *words, "--dry-run")
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_an_output_is_needed_before_anything_is_done() -> None:
    done = medbench("ablate", "--table", "2a")
    assert done.returncode == 2
    assert "--output" in done.stderr


def test_the_plan_counts_trainings_once_and_adds_what_rows_are_counted_over() -> None:
    done = medbench("ablate", "--table", "2a", "--table", "5", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "33 trainings (6 more are shared by rows), of which 33 are left, 13,200 steps" in " ".join(
        done.stderr.split()
    )
    assert "Time: not known" in done.stderr
    one = medbench("ablate", "--table", "2d", "--rows", "rank 16, CMoE soft", "--seeds", "2", "--dry-run")
    assert "rank 16, MLP" in one.stdout
    assert "rank 8" not in one.stdout
    assert "4 trainings, of which 4 are left" in " ".join(one.stderr.split())
