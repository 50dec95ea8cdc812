"""Path-VQA: questions about pathology pictures from textbooks and the PEIR library.

Source: He et al., PathVQA, 2020 (https://github.com/UCSD-AI4H/PathVQA). Licence: texts MIT; the pictures stay
the property of the textbooks' publishers and of PEIR.

Native layout (`pvqa` or its parent is given)::

    qas/train_vqa.pkl, qas/test_vqa.pkl   a pickled list of
        {"img_id": "train_0422", "question_id": 100422000, "question_type": "where",
         "sent": "where are liver stem cells (oval cells) located?", "answer_type": "other",
         "label": {"in the canals of hering": 1}}
    images/train/train_0422.jpg, images/test/test_0001.jpg   (some are CMYK)

The pickles are read by an unpickler that knows plain data only.

Samples: one per row, `train_0422/q100422000`. The answer is the first key of `label`. `answer_type` is CLOSED
exactly where the native type is `yes/no`, else OPEN, as in the official evaluation.

Split: the authors' train and test (19755 / 6761); the validation part is not used, as in the paper.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

from pydantic import TypeAdapter

from medbench.tasks.datasets.native import collect, find_root, lacking, prefix, present_splits
from medbench.tasks.datasets.restricted_pickle import load_plain_pickle
from medbench.tasks.sample import SPLITS, ImageRef, Sample, Split
from medbench.tasks.spec import Reading, Skipped
from medbench.tasks.validation import MaybeText, NativeRow, parse_value


class _Row(NativeRow):
    img_id: str
    question_id: int
    sent: MaybeText
    label: dict[str | int, float] | None
    answer_type: MaybeText
    question_type: MaybeText = ""


_ROWS = TypeAdapter(list[_Row])


def read_questions(source: Path, _options: Mapping[str, str], *, task: str, layout: str) -> Reading:
    """Read Path-VQA; see the module's docstring.

    Raises:
        DataError: If the layout is another one, or a pickle is broken or asks for code.
    """
    root = find_root(source, ["pvqa"], ["qas"], layout)
    present, missing = present_splits({split: root / f"qas/{split}_vqa.pkl" for split in SPLITS}, source, layout)
    images = f"{prefix(source, root)}images"
    parts = (_samples(f"{images}/{split}", split, path, task) for split, path in present.items())
    return collect(chain(missing, *parts), "the dataset's own train and test files")


def _samples(images: str, split: Split, path: Path, task: str) -> Iterator[Sample | Skipped]:
    for row in parse_value(_ROWS, load_plain_pickle(path), str(path)):
        sample_id = f"{row.img_id}/q{row.question_id}"
        reason = lacking(question=row.sent) if row.label else "label has no answer"
        if reason:
            yield Skipped(item=sample_id, reason=reason)
            continue
        labels = {"answer_type": "CLOSED" if row.answer_type.strip().lower() == "yes/no" else "OPEN"}
        if row.question_type:
            labels["question_type"] = row.question_type
        yield Sample(
            sample_id=sample_id,
            task=task,
            split=split,
            images=(ImageRef(path=f"{images}/{row.img_id}.jpg"),),
            inputs={"question": row.sent},
            reference=str(next(iter(row.label or ()))),
            labels=labels,
            groups={"image": row.img_id},
        )
