"""Slake: questions about, and boxes in, 642 CT, MRI and X-ray images; English half of a bilingual dataset.

Source: Liu et al., SLAKE, ISBI 2021 (https://www.med-vqa.com/slake). Licence: CC BY 4.0. Files, as the official Uni-Med
code reads them or as they are downloaded, and samples: docs/data.md.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from medbench.tasks.datasets.native import Found, Native, collect, filled, is_litter, left_out, ranked_split
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.sample import ImageRef, Sample, Split
from medbench.tasks.spec import Reading, Skipped
from medbench.tasks.validation import MaybeText, NativeRow, parse_json_file, read_text_bytes

_PARTS = 7
_QUESTION_FILES = (("train.json",), ("validate.json", "validation.json"), ("test.json",))


class _Question(NativeRow):
    qid: int
    question: MaybeText
    answer: MaybeText
    q_lang: MaybeText
    answer_type: MaybeText
    modality: MaybeText = ""
    content_type: MaybeText = ""

    @property
    def problem(self) -> str:
        if self.q_lang.strip().lower() != "en":
            return "question is not in English"
        if not self.question.strip():
            return "question is empty"
        return "" if self.answer else "answer is empty"

    @property
    def labels(self) -> dict[str, str]:
        answer_type = self.answer_type.strip().upper()
        return filled(answer_type=answer_type, modality=self.modality, content_type=self.content_type)


class _NamedQuestion(_Question):
    img_name: str


def read_questions(native: Native) -> Reading:
    """Read Slake-VQA; a DataError if the layout is another one or a file is broken."""
    root, folders = _root(native)
    shared, skipped = _shared_questions(root, folders)

    def questions(folder: Path, split: Split) -> Found:
        path, name = folder / "question.json", folder.name
        rows = parse_json_file(list[_Question], path) if path.is_file() else shared.get(name)
        if rows is None:
            yield Skipped(item=f"{name}/question.json", reason="file is missing")
        image = ImageRef(path=native.relative(folder / "source.jpg"))
        for row in rows or ():
            item = f"{name}/q{row.qid}"
            yield left_out(item, row.problem) or Sample(
                sample_id=item, task=native.task, split=split, images=(image,), inputs={"question": row.question},
                reference=row.answer, labels=row.labels, groups={"image": name},
            )  # fmt: skip

    return _read(native, root, folders, questions, skipped)


def read_regions(native: Native) -> Reading:
    """Read Slake-REC or Slake-REG; raises like `read_questions`."""

    def regions(folder: Path, split: Split) -> Found:
        image, name = folder / "source.jpg", folder.name
        called, groups = f"{name}/{image.name}", {"image": name}
        return native.detections(image, folder / "detection.json", name, called, split, labels={}, groups=groups)

    return _read(native, *_root(native), regions)


def _root(native: Native) -> tuple[Path, list[str]]:
    """Return where the files are, and the folders of images."""
    root = native.root("Slake1.0", "imgs")
    images = root / "imgs"
    found = images.iterdir() if images.is_dir() else ()
    folders = sorted(path.name for path in found if path.is_dir() and not is_litter(path.name))
    if not folders:
        raise native.other_layout("imgs/<name>")
    return root, folders


def _read(
    native: Native, root: Path, folders: Sequence[str], items: Callable[[Path, Split], Found],
    skipped: Sequence[Skipped] = (),
) -> Reading:  # fmt: skip
    splits, method = _splits(native, root, folders)
    known = frozenset(folders)

    def found() -> Iterator[Found]:
        for name, split in splits.items():
            missing = Skipped(item=f"imgs/{name}", reason="folder is missing")
            yield items(root / "imgs" / name, split) if name in known else iter([missing])
        unlisted = [name for name in folders if name not in splits]
        yield (Skipped(item=f"imgs/{name}", reason="in neither train.txt nor test.txt") for name in unlisted)
        yield iter(skipped)

    return collect(chain.from_iterable(found()), method)


def _splits(native: Native, root: Path, folders: Sequence[str]) -> tuple[Mapping[str, Split], str]:
    train, test = root / "train.txt", root / "test.txt"
    if not train.exists() and not test.exists():
        seed = native.seed()
        method = f"ours, not the authors': random {_PARTS - 1}:1 by image, seed {seed}"
        return dict(sorted(ranked_split(folders, seed=seed, parts=_PARTS).items())), method
    native.refuse_options(["seed"], "the split is given by train.txt and test.txt")
    trained, tested = (read_text_bytes(path).decode().split() for path in (train, test))
    if both := sorted(set(trained).intersection(tested)):
        problem = f"{root}: {len(both)} images are in train.txt and in test.txt, {both[0]!r} for one."
        raise DataError(problem, "Restore the authors' lists, or remove both for a split of our own.")
    splits: dict[str, Split] = {**dict.fromkeys(trained, "train"), **dict.fromkeys(tested, "test")}
    return splits, "authors' lists train.txt and test.txt"


def _shared_questions(root: Path, folders: Sequence[str]) -> tuple[dict[str, list[_NamedQuestion]], list[Skipped]]:
    """Read the files with the questions of all images, if an image needs them: rows by folder, and what is missing."""
    candidates = [[root / name for name in names] for names in _QUESTION_FILES]
    files = [next((path for path in paths if path.is_file()), paths[0]) for paths in candidates]
    present = [path for path in files if path.is_file()]
    if not present or all((root / "imgs" / name / "question.json").is_file() for name in folders):
        return {}, []
    rows: dict[str, list[_NamedQuestion]] = {}
    skipped = [Skipped(item=path.name, reason="file is missing") for path in files if path not in present]
    named = [parse_json_file(list[_NamedQuestion], path) for path in present]
    for row in chain.from_iterable(named):
        name = row.img_name.partition("/")[0]
        if name in folders:
            rows.setdefault(name, []).append(row)
        else:
            skipped.append(Skipped(item=f"{name}/q{row.qid}", reason="folder is missing"))
    return rows, skipped
