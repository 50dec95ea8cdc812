"""What looks wrong in a task's answers, in words: told once of a run, wherever its numbers stand."""

from collections.abc import Iterator, Sequence

from medbench.adapters.catalog import ChosenModel
from medbench.adapters.function import IMPORTED
from medbench.harness.workload import TaskLoad
from medbench.tasks.answers.box_space import BoxSpace, doubt_about_boxes
from medbench.tasks.protocols import Item
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

_FEWEST = 10  # answers of which it is no chance that all are the same


def doubts_of_run(load: TaskLoad, items: Sequence[Item], model: ChosenModel) -> list[str]:
    """Return the doubts about a task of a run; that a baseline says one thing for everything is none."""
    entry = model.entry
    declared_by = "--model-arg boxes=NAME" if "boxes" in entry.arguments else f"the adapter {entry.card.name}"
    declared_by = "--boxes NAME" if entry.card.name == IMPORTED else declared_by
    return doubts_of(load.spec, load.samples, items, model.boxes, declared_by, constant=entry.card.constant)


def doubts_of(
    spec: TaskSpec, samples: Sequence[Sample], items: Sequence[Item], space: BoxSpace | None, declared_by: str, *,
    constant: bool = False,
) -> list[str]:  # fmt: skip
    """Return what to doubt: nothing was answered, answers are all empty, or alike if none is `constant`, empty boxes.

    No answer is quoted: it may repeat data that are under an agreement.
    """
    answers = [(item, sample) for item, sample in zip(items, samples, strict=True) if item.state != "error"]
    if items and not answers:
        return [f"{spec.name}: all {len(items)} samples failed, so that it has no number. --retry-errors asks again."]
    return [*_alike(spec, answers, constant=constant), *_boxes(spec, answers, space, declared_by)]


def _alike(spec: TaskSpec, answers: Sequence[tuple[Item, Sample]], *, constant: bool) -> Iterator[str]:
    said = {(item.scorable.prediction.strip(), item.scorable.predicted_box) for item, _ in answers}
    if answers and said == {("", None)}:
        yield (
            f"{spec.name}: all {len(answers)} answers are empty. Do the model's prompt and --max-new-tokens fit? "
            "In generations/ stands what it wrote."
        )
    elif constant or len(said) > 1 or len(answers) < _FEWEST:
        return
    elif len({(one.reference, one.box) for _, one in answers}) > 1:
        yield (
            f"{spec.name}: all {len(answers)} answers are the same, though the right ones differ. Does the model see "
            "the question and the image?"
        )


def _boxes(
    spec: TaskSpec, answers: Sequence[tuple[Item, Sample]], space: BoxSpace | None, declared_by: str
) -> Iterator[str]:
    if space is None or spec.kind != "rec":
        return
    pairs = ((item.scorable.predicted_box, one.image_size) for item, one in answers)
    read = [(box, size) for box, size in pairs if box is not None and size is not None]
    if doubt := doubt_about_boxes(spec.name, read, space=space.name, declared_by=declared_by):
        yield doubt
