"""What `benchmarks.soak` runs on: as many invented questions as wanted, and as many finished runs."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import yaml
from PIL import Image

from medbench.harness.results import read_results, write_results
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.files import canonical_json, fingerprint, read_json
from medbench.tasks.prepare import prepare_task
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.spec import Reading

TASK = "path-vqa"
_TO_A_PICTURE = 6
_PICTURES = 2000
_SIDE = 64
_ORGANS = ("kidney", "liver", "spleen", "lung", "thyroid", "pancreas", "bladder")


def prepare(folder: Path, count: int) -> Path:
    """Prepare so many questions of Path-VQA's kind, six to a picture, and return the data folder."""
    source = folder / "native"
    source.mkdir(parents=True, exist_ok=True)
    for number in range(min(_PICTURES, count // _TO_A_PICTURE + 1)):
        colour = (number % 256, 37 * number % 256, 91 * number % 256)
        Image.new("RGB", (_SIDE, _SIDE), colour).save(source / f"{number}.png")
    reading = Reading(samples=tuple(_questions(count)), skipped=(), split_method="given")
    spec = replace(get_task(TASK), reader=lambda *_: reading)
    prepare_task(spec, source, folder / "data", {})
    return folder / "data"


def _questions(count: int) -> Iterator[Sample]:
    for number in range(count):
        group, organ = number // _TO_A_PICTURE, _ORGANS[number % len(_ORGANS)]
        closed = number % 2 == 0
        yield Sample(
            sample_id=f"test/{number:06}", task=TASK, split="test",
            images=(ImageRef(path=f"{group % _PICTURES}.png"),),
            inputs={"question": f"{f'Is the {organ} affected in' if closed else 'What is seen in'} case {number}?"},
            reference=("yes", "no")[number // 2 % 2] if closed else f"the {organ} with change number {number % 977}",
            labels={"answer_type": "CLOSED" if closed else "OPEN"}, groups={"image": str(group)},
        )  # fmt: skip


def multiply(runs: Sequence[Path], count: int, folder: Path) -> None:
    """Make so many runs of some finished ones, each with an identity and a model of its own."""
    for number in range(count):
        source = runs[number % len(runs)]
        document = yaml.safe_load((source / "run.yaml").read_text(encoding="utf-8"))
        document["identity_of"]["code"] = f"copy {number}"
        document["identity"] = identity = fingerprint(document["identity_of"])[:12]
        target = folder / f"model-{number:03}-{identity}"
        shutil.copytree(source, target)
        (target / "run.yaml").write_text(
            yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        results = read_results(source)
        model = replace(results.model, title=f"Model {number:03}")
        write_results(target / "results.json", replace(results, run=identity, model=model))
        audit = target / "audit" / "audit.json"
        audit.write_text(canonical_json({**read_json(audit), "run": identity}), encoding="utf-8")
        (target / "done").write_text(f"{identity}\n", encoding="utf-8")
