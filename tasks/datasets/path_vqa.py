"""Path-VQA: questions about pathology images from textbooks and the PEIR library. Files and samples: docs/data.md.

Source: He et al., PathVQA, 2020 (https://github.com/UCSD-AI4H/PathVQA). Licence: texts MIT; the images stay
the property of the textbooks' publishers and of PEIR.
"""

from pathlib import Path

from medbench.tasks.datasets.native import Found, Native, collect, filled, lacking, left_out
from medbench.tasks.datasets.restricted_pickle import load_plain_pickle
from medbench.tasks.sample import SPLITS, ImageRef, Sample, Split
from medbench.tasks.spec import Reading
from medbench.tasks.validation import MaybeText, NativeRow, parse_value


class _Row(NativeRow):
    img_id: str
    question_id: int
    sent: MaybeText
    label: dict[str | int, float] | None
    answer_type: MaybeText
    question_type: MaybeText = ""

    @property
    def labels(self) -> dict[str, str]:
        closed = self.answer_type.strip().lower() == "yes/no"
        return filled(answer_type="CLOSED" if closed else "OPEN", question_type=self.question_type)


def read_questions(native: Native) -> Reading:
    """Read Path-VQA; a DataError if the layout is another one, or a pickle is broken or asks for code."""
    root = native.root("pvqa", "qas")

    def samples(split: Split, path: Path) -> Found:
        images = native.relative(root / "images" / split)
        for row in parse_value(list[_Row], load_plain_pickle(path), str(path)):
            item = f"{row.img_id}/q{row.question_id}"
            unusable = lacking(item, question=row.sent) if row.label else left_out(item, "label has no answer")
            yield unusable or Sample(
                sample_id=item, task=native.task, split=split, images=(ImageRef(path=f"{images}/{row.img_id}.jpg"),),
                inputs={"question": row.sent}, reference=str(next(iter(row.label or ()))), labels=row.labels,
                groups={"image": row.img_id},
            )  # fmt: skip

    files = {split: root / f"qas/{split}_vqa.pkl" for split in SPLITS}
    return collect(native.by_split(files, samples), "the dataset's own train and test files")
