"""Tens of thousands of samples are written, read, planned and packed without opening an image."""

from pathlib import Path
from typing import NoReturn

import pytest
from PIL import Image
from task_helpers import one_task, question

from medbench.adapters.base import LoadOptions
from medbench.adapters.mock import RandomMock
from medbench.harness.engine.requests import in_order
from medbench.harness.generate import make_plan, requests_of
from medbench.harness.phases import Phases
from medbench.harness.workload import TaskLoad
from medbench.tasks import prepare
from medbench.tasks.prepare import prepare_task
from medbench.tasks.prepared import load_prepared
from medbench.tasks.sample import ImageRef, Sample

MANY = 30_000


def sample(number: int) -> Sample:
    asked = {"question": f"What is odd about picture {number}?"}
    return question(number, images=(ImageRef(path=f"imgs/x{number}/source.jpg"),), inputs=asked)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many prepared samples of pictures that do not exist."""
    folder = tmp_path_factory.mktemp("many")
    spec = one_task(*(sample(number) for number in range(MANY)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "locate", lambda *_: Path(__file__))
        prepare_task(spec, folder, folder / "data", {}, image_hashes="none")
    return folder / "data"


@pytest.fixture
def no_image_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", fail)


@pytest.mark.usefixtures("no_image_is_opened")
def test_many_samples_are_read_without_their_images(data: Path) -> None:
    prepared = load_prepared(data, "slake-vqa")
    samples = prepared.samples("test")
    assert len(samples) == prepared.manifest.counts["test"] == MANY
    assert samples[-1] == sample(MANY - 1)
    assert not (prepared.source / samples[0].images[0].path).exists()


@pytest.mark.slow
@pytest.mark.usefixtures("no_image_is_opened")
def test_many_samples_are_planned_and_packed_without_their_images(data: Path) -> None:
    prepared = load_prepared(data, "slake-vqa")
    load = TaskLoad(spec=prepared.spec, prepared=prepared, samples=prepared.samples("test"))
    adapter = RandomMock(LoadOptions())
    plan = make_plan((load,), {load.spec.name: {}})
    assert plan.total == MANY
    requests = requests_of(plan, adapter, Phases(), [])
    windows = in_order(requests, share=True, window_tokens=10_000)
    assert sum(len(window) for window in windows) == MANY
