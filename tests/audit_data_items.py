"""Items, files and folders for the audits of data and of provenance."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medbench.leaderboard.audit.data.audit import DataToAudit, TaskOverlaps, find_overlaps
from medbench.leaderboard.audit.data.findings import Finding, Overlap
from medbench.leaderboard.audit.data.items import Item, TaskItems
from medbench.tasks.sample import ImageRef
from medbench.tasks.spec import Kind

SLAKE_FILES = ("train", "validate", "test")


def as_task(
    items: Iterable[Item],
    *,
    task: str = "slake-vqa",
    kind: Kind = "vqa",
    decisive: str = "image",
    family: str = "slake",
) -> TaskItems:
    return TaskItems(task=task, kind=kind, family=family, decisive=decisive, items=tuple(items))


def report(number: object, text: str, **fields: Any) -> Item:
    return Item(**{"item_id": str(number), "texts": (text,), "answer": text, **fields})


def vqa(number: object, question: str, answer: str, **fields: Any) -> Item:
    return Item(**{"item_id": str(number), "texts": (question,), "question": question, "answer": answer, **fields})


def slake_items(folder: Path, split: str, language: str = "") -> list[Item]:
    """Real questions of Slake, by picture; of one language or of both."""
    rows = json.loads((folder / "Slake1.0" / f"{split}.json").read_text(encoding="utf-8"))
    return [
        vqa(
            f"{row['img_name']}/{row['qid']}", row["question"], row["answer"],
            groups={"image": row["img_name"].partition("/")[0]}, family="slake",
        )
        for row in rows
        if row["answer"] and language in {"", row["q_lang"]}
    ]  # fmt: skip


def path_vqa_items(folder: Path, split: str) -> list[Item]:
    """Real questions of Path-VQA."""
    pictures = json.loads((folder / f"pvqa_{split}.json").read_text(encoding="utf-8"))
    return [
        vqa(f"{picture['img_id']}/{place}", question, next(iter(answer)), groups={"image": picture["img_id"]})
        for picture in pictures
        for place, (question, answer) in enumerate(
            zip(picture["sentf"]["pvqa"], picture["labelf"]["pvqa"], strict=True)
        )
    ]


def vqa_rad_items(folder: Path, split: str) -> list[Item]:
    """Real questions of VQA-RAD with their pictures, and no ids."""
    rows = json.loads((folder / f"{split}set.json").read_text(encoding="utf-8"))
    return [
        vqa(
            row["question_id"], row["question"], str(row["answer"]),
            images=(ImageRef(path=row["image_name"]),), source=folder / "images",
        )
        for row in rows
    ]  # fmt: skip


def compared(test: TaskItems, *train: TaskItems, **given: Any) -> TaskOverlaps:
    """Compare one task's test items with training items."""
    (found,) = find_overlaps(DataToAudit(test=[test], train=train, **given))
    return found


def against(audit: TaskOverlaps, corpus: str) -> Overlap:
    return next(one for one in audit.overlaps if one.corpus.name == corpus)


def check(overlap: Overlap, name: str) -> Finding:
    return next(one for one in overlap.findings if one.check == name)


def noise(path: Path, seed: int, size: tuple[int, int] = (96, 80)) -> Path:
    """Write a picture of coarse noise: no two seeds look alike, in pixels or in low frequencies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (16, 16), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def jsonl(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def slake_tree(root: Path, realdata: Path, train: Sequence[str], test: Sequence[str]) -> Path:
    """Write Slake's native layout: real questions, drawn pictures, and a split by picture of our choice."""
    for split in SLAKE_FILES:
        text = (realdata / "Slake1.0" / f"{split}.json").read_text(encoding="utf-8")
        (root / f"{split}.json").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{split}.json").write_text(text, encoding="utf-8")
    for number, name in enumerate((*train, *test)):
        noise(root / "imgs" / name / "source.jpg", number, (64, 64))
    (root / "train.txt").write_text(" ".join(train), encoding="utf-8")
    (root / "test.txt").write_text(" ".join(test), encoding="utf-8")
    return root


def slake_pictures(realdata: Path, split: str, language: str) -> list[str]:
    """Names of the pictures of one official split of one language, in order."""
    return sorted({item.groups["image"] for item in slake_items(realdata, split, language)})
