"""Every variant of the connector against the official code's own outputs and gradients."""

import pytest
import torch
from unimed_fixtures import close, connector_config, connector_tasks, connector_variants, document, tensors

from medbench.unimed.configuration import CONNECTOR_TASKS, UniMedConfig
from medbench.unimed.connector import Connector
from medbench.unimed.convert import dead_shapes, from_official, to_official
from medbench.unimed.vision import LN_VISION_EPSILON, resample

VARIANTS = connector_variants()


def connector_of(variant: str, config: UniMedConfig) -> Connector:
    given = tensors(f"connector/{variant}.safetensors")
    official = {name.removeprefix("sd."): tensor for name, tensor in given.items() if name.startswith("sd.")}
    connector = Connector(config)
    names = [f"connector.{name}" for name in connector.state_dict()]
    state = from_official(official, config, names)
    connector.load_state_dict({name.removeprefix("connector."): tensor for name, tensor in state.items()}, strict=True)
    return connector.eval()


def features_of(variant: str, config: UniMedConfig) -> torch.Tensor:
    given = tensors(f"connector/{variant}.safetensors")
    weight, bias = given["sd.ln_vision.weight"], given["sd.ln_vision.bias"]
    seen = torch.nn.functional.layer_norm(given["in.vit_out"], weight.shape, weight, bias, LN_VISION_EPSILON)[:, 1:]
    return resample(seen, method=config.resample_method, rate=config.resample_rate)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_outputs_and_routing_weights_equal_the_official_ones(variant: str) -> None:
    given = tensors(f"connector/{variant}.safetensors")
    config = connector_config(variant)
    connector, features = connector_of(variant, config), features_of(variant, config)
    tasks = connector_tasks(variant)
    assert tasks
    for task in tasks:
        task_ids = torch.full((len(features),), CONNECTOR_TASKS.index(task))
        close(connector(features, task_ids), given[f"out.{task}.inputs_llm"])
        if f"out.{task}.routing_weights" in given:
            close(connector.routing_weights(features, task_ids), given[f"out.{task}.routing_weights"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_equal_the_official_ones(variant: str) -> None:
    given = tensors(f"connector/{variant}.safetensors")
    if "grad.R" not in given:
        # The official gradients were recorded for some variants; for the others autograd is held to differences.
        check_against_differences(variant)
        return
    config = connector_config(variant)
    connector = connector_of(variant, config)
    task_ids = torch.full((len(given["in.vit_out"]),), CONNECTOR_TASKS.index("vqa"))
    (connector(features_of(variant, config), task_ids) * given["grad.R"]).sum().backward()
    gradients = {
        f"connector.{name}": parameter.grad
        for name, parameter in connector.named_parameters()
        if parameter.grad is not None
    }
    ours = to_official(gradients, config)
    ours = {name: tensor for name, tensor in ours.items() if not is_duplicate(name, ours)}
    official = {
        name.removeprefix("grad."): tensor
        for name, tensor in given.items()
        if name.startswith("grad.") and name != "grad.R" and "ln_vision" not in name
    }
    official = {name: tensor for name, tensor in official.items() if not is_duplicate(name, official)}
    assert set(ours) <= set(official)
    for name, gradient in official.items():
        if name not in dead_shapes(config):
            # The official code also computes experts of weight zero; their gradient is then zero, ours is absent.
            close(ours.get(name, torch.zeros_like(gradient)), gradient)


def is_duplicate(name: str, official: dict[str, torch.Tensor]) -> bool:
    return name.startswith("llm_proj.") and name.replace("llm_proj.", "moe_layers.", 1) in official


def check_against_differences(variant: str) -> None:
    config = connector_config(variant)
    connector = connector_of(variant, config).double()
    features = features_of(variant, config).double()
    task_ids = torch.zeros(len(features), dtype=torch.long)
    mix = torch.randn(
        connector(features, task_ids).shape, dtype=torch.double, generator=torch.Generator().manual_seed(0)
    )
    (connector(features, task_ids) * mix).sum().backward()
    for parameter in connector.parameters():
        if parameter.grad is None:
            continue
        place, step = 0, 1e-6
        with torch.no_grad():
            flat = parameter.view(-1)
            values = []
            for sign in (step, -step):
                flat[place] += sign
                values.append((connector(features, task_ids) * mix).sum())
                flat[place] -= sign
        torch.testing.assert_close(
            parameter.grad.view(-1)[place], (values[0] - values[1]) / (2 * step), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_what_is_used_is_owned_and_the_rest_is_accounted_for(variant: str) -> None:
    entry = document("connector/index.json")[variant]
    config = connector_config(variant)
    owned = sum(parameter.numel() for parameter in Connector(config).parameters())
    dead = sum(torch.Size(shape).numel() for shape in dead_shapes(config).values())
    normalisation = sum(
        tensor.numel() for name, tensor in tensors(f"connector/{variant}.safetensors").items() if "sd.ln_vision" in name
    )
    assert owned + dead + normalisation == entry["trainable"]


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_rows_of_different_tasks_may_share_a_batch(variant: str) -> None:
    config = connector_config(variant)
    connector = connector_of(variant, config)
    features = torch.randn(6, config.visual_tokens, config.connector_width, generator=torch.Generator().manual_seed(1))
    tasks = torch.tensor([3, 0, 4, 0, 1, 2])
    alone = torch.cat([connector(features[row : row + 1], tasks[row : row + 1]) for row in range(6)])
    close(connector(features, tasks), alone, 1e-5)


@pytest.mark.parametrize("router", ["hard", "sparse"])
def test_only_the_experts_that_a_router_uses_are_computed(router: str) -> None:
    config = UniMedConfig(
        vision_config={"hidden_size": 8, "image_size": 4, "patch_size": 1, "num_attention_heads": 1,
            "num_hidden_layers": 1},
        text_config={"hidden_size": 12, "num_attention_heads": 1, "vocab_size": 8},
        router_type=router,  # type: ignore[arg-type]
        sparse_top_k=2,
    )  # fmt: skip
    connector = Connector(config)
    computed = [0] * config.num_experts
    for index, expert in enumerate(connector.experts):
        expert.register_forward_hook(lambda _m, args, _o, index=index: computed.__setitem__(index, args[0].numel()))
    features = torch.randn(1, config.visual_tokens, config.connector_width)
    connector(features, torch.tensor([1]))
    used = 1 if router == "hard" else config.sparse_top_k
    assert sum(computed) == used * features.numel()
