"""Arguments of models: from `NAME=VALUE` on the command line to what a loader gets."""

from collections.abc import Mapping
from pathlib import Path

import click
import pytest
import torch
from command_line import medbench

from medbench.adapters.base import Adapter, AdapterEntry, Argument, LoadOptions, ModelCard, plain_answer
from medbench.adapters.catalog import ChosenModel
from medbench.adapters.hf.entry import ENTRY as HF
from medbench.harness.commands import as_table
from medbench.tasks.answers.box_space import BOX_SPACES
from medbench.tasks.foundation.errors import UsageError

OPTION = click.Option(["--model-arg"])
CONTEXT = click.Context(click.Command("run"))


def load(_: LoadOptions) -> Adapter:
    raise NotImplementedError


ENTRY = AdapterEntry(
    card=ModelCard(name="some", title="Some", kinds=frozenset({"vqa"}), weights="none", licence="MIT"),
    load=load,
    parse=plain_answer,
    arguments={
        "boxes": Argument(help="Space.", default="fraction", choices=tuple(BOX_SPACES)),
        "system": Argument(help="Words."),
    },
    spaces=BOX_SPACES,
    defaults=lambda variant: {"boxes": "percent"} if variant == "special" else {},
)


@pytest.mark.parametrize(
    ("given", "table"),
    [
        ((), None),
        (("a=1",), {"a": "1"}),
        (("a=1", "b=x=y"), {"a": "1", "b": "x=y"}),
        (("a=",), {"a": ""}),
        (('images={"size": 3}',), {"images": '{"size": 3}'}),
    ],
)
def test_pairs_become_a_table(given: tuple[str, ...], table: Mapping[str, str] | None) -> None:
    assert as_table(CONTEXT, OPTION, given) == table


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("a",), "--model-arg a is no pair"),
        (("=1",), "--model-arg =1 is no pair"),
        (("a=1", "a=2"), "--model-arg a was given twice"),
        (("a=1", "a=1"), "given twice"),
    ],
)
def test_what_is_no_table_is_refused(given: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        as_table(CONTEXT, OPTION, given)


@pytest.mark.parametrize(
    ("variant", "given", "boxes"),
    [
        ("", {}, "fraction"),
        ("special", {}, "percent"),
        ("special", {"boxes": "pixels"}, "pixels"),
        ("other", {"boxes": "pixels"}, "pixels"),
    ],
)
def test_what_is_given_beats_the_variant_beats_the_default(variant: str, given: dict[str, str], boxes: str) -> None:
    settled = ENTRY.settled(variant, given)
    assert settled == {"boxes": boxes, "system": ""}
    assert ChosenModel(entry=ENTRY, variant=variant, arguments=settled).boxes is BOX_SPACES[boxes]


def test_unknown_arguments_and_values_are_refused() -> None:
    with pytest.raises(UsageError, match="boxs") as raised:
        ENTRY.settled("", {"boxs": "percent"})
    assert "boxes" in str(raised.value)
    with pytest.raises(UsageError, match="--model-arg boxes=inches is not allowed") as raised:
        ENTRY.settled("", {"boxes": "inches"})
    assert "Allowed: uni-med, fraction" in str(raised.value)
    assert ENTRY.settled("", {"system": "anything at all"})["system"] == "anything at all"


@pytest.mark.parametrize(
    ("name", "boxes"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", "pixels-28"),
        ("Qwen/Qwen3-VL-8B-Instruct", "permille"),
        ("lingshu-medical-mllm/Lingshu-7B", "pixels-28"),
        ("/models/medgemma-4b-it", "permille-yxyx"),
        ("google/paligemma-3b-mix-224", "loc1024"),
        ("someone/something", "fraction"),
    ],
)
def test_a_known_name_brings_its_boxes(name: str, boxes: str) -> None:
    assert HF.settled(name, {})["boxes"] == boxes
    assert HF.settled(name, {"boxes": "percent"})["boxes"] == "percent"


def test_the_command_line_says_what_is_wrong() -> None:
    twice = medbench("run", "--model", "hf:x", "--model-arg", "boxes=percent", "--model-arg", "boxes=pixels")
    assert (twice.returncode, "was given twice" in twice.stderr) == (2, True)
    unknown = medbench("run", "--model", "blind", "--model-arg", "boxes=percent")
    assert (unknown.returncode, "argument of blind" in unknown.stderr) == (2, True)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("gpu", "--device 'gpu' names no device"),
        ("cuda:", "--device 'cuda:' names no device"),
        ("cuda:1", "There is no device 'cuda:1' here"),
        ("cuda:99", "There is no device 'cuda:99' here"),
    ],
)
def test_a_device_is_named_and_there(device: str, said: str, tmp_path: Path) -> None:
    if device == "cuda:1" and torch.cuda.device_count() > 1:
        device, said = "cuda:98", "There is no device 'cuda:98' here"
    ran = medbench("run", "--model", "uni-med", "--device", device, "--tasks", "medqa", "--output-dir", tmp_path)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert "cpu" in ran.stderr
