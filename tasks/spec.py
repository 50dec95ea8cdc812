"""A task as a declaration: one frozen object drives loading, prompts, scoring, docs and tests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import fingerprint
from medbench.tasks.sample import Sample, Split

Kind = Literal["qa", "vqa", "report", "rec", "reg", "cls"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """An item of the native data that became no sample, and why."""

    item: str
    reason: str  # The same words for all items of a kind.
    looked_for: str = ""  # The file, relative to the source folder, where it is one that is missing.


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a reader found in a source folder."""

    samples: tuple[Sample, ...]  # Of both splits in a stable order.
    skipped: tuple[Skipped, ...]  # Everything that was left out.
    split_method: str  # How train and test were told apart, e.g. `authors' lists train.txt and test.txt`.
    warnings: tuple[str, ...] = ()  # What is odd about the data as a whole.


Reader = Callable[[Path, Mapping[str, str]], Reading]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One of the benchmarks; docs/own-task.md says what each field is for."""

    name: str  # On the command line and on disk.
    kind: Kind  # Decides the metrics (`medbench.tasks.protocols`).
    title: str  # In tables, as in the paper.
    version: int  # Raised by hand whenever an edit changes scores; `tasks/versions.lock.json` holds that.
    prompt: str  # At evaluation; fields in braces are the sample's inputs and `box`.
    train_prompts: tuple[str, ...]  # For training, one drawn per sample.
    max_new_tokens: int = 100
    limit_chosen: bool = False  # By a user; then the limit also stands above what a model's authors used.
    group_key: str  # Which of the sample's groups is the unit of resampling for intervals.
    counts: Mapping[Split, int]  # Samples of the paper's Table 4.
    source: str
    licence: str
    credentialed: bool = False  # Access needs a signed agreement; such texts and images never leave the machine.
    layout: str  # One line on the native layout that `reader` expects.
    reader: Reader
    options: Mapping[str, str] = field(default_factory=dict)  # Of the reader, with their meaning.
    choices: tuple[str, ...] = ()  # The answers, where they are the same for all questions; samples carry their own.
    shows: str = ""  # What its images show, where a metric has to know it: `chest X-ray`.
    variant_of: str = ""  # The task whose data this one asks about in another way; variants run only when named.
    on_request: bool = False  # Whether it runs only when named though it is no variant: data beside the benchmark.

    @property
    def only_by_name(self) -> bool:
        """Whether `all`, kinds and patterns leave it out."""
        return self.on_request or bool(self.variant_of)

    def choices_by_key(self) -> dict[str, str]:
        """Return `choices` as a sample has them: words stand for themselves, of letters the texts are not known."""
        return {key: key if len(key) > 1 else "" for key in self.choices}

    def instruction(self, sample: Sample, *, box: str = "", template: str | None = None) -> str:
        """Return the instruction text for `sample`; a DataError if it lacks a field of the template.

        `box` is the sample's box as text in the coordinate space of the model that is asked (REG only); `template` is
        one of `train_prompts`, the evaluation prompt by default.
        """
        try:
            return (template or self.prompt).format_map({**sample.inputs, "box": box})
        except KeyError as error:
            raise DataError(
                f"Sample {sample.sample_id!r} of {self.name} lacks the input {error.args[0]!r}.",
                f"Prepare the task again: medbench data prepare {self.name} --source DIR",
            ) from error

    def fingerprint(self) -> str:
        """Return the identity of everything in the declaration that can change a score."""
        deciding = ("name", "kind", "prompt", "train_prompts", "max_new_tokens", "group_key")
        return fingerprint({name: getattr(self, name) for name in deciding})
