"""A model, a task and a metric of your own, in about 40 lines.

Name them in the entry points of your distribution, and `medbench run --model echo --tasks spelling --metric brevity`
finds them:

    [project.entry-points."medbench.adapters"]
    echo = "echo_plugin:ENTRY"

    [project.entry-points."medbench.tasks"]
    spelling = "echo_plugin:TASK"

    [project.entry-points."medbench.metrics"]
    brevity = "echo_plugin:METRIC"
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from medbench.adapters import AdapterEntry, DirectAdapter, Generation, LoadOptions, ModelCard, plain_answer
from medbench.tasks.metrics.asked import MetricEntry, asked_metric
from medbench.tasks.metrics.metric import FloatArray, Scorable, score_statistics
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Reading, TaskSpec

CARD = ModelCard(name="echo", title="Echo", kinds=frozenset({"qa"}), weights="none", licence="Apache-2.0")


class Echo(DirectAdapter):
    """Says the last word of the question."""

    card = CARD
    weights_fingerprint = "echo-1"

    def answer(self, sample: Sample, spec: TaskSpec) -> Generation:
        """Return the last word of the instruction."""
        return Generation(text=spec.instruction(sample).split()[-1])


def load(options: LoadOptions) -> Echo:
    """Return the model; a real one would read `options.checkpoint` and import torch here."""
    del options
    return Echo()


def read_words(source: Path, options: Mapping[str, str]) -> Reading:
    """Read `words.txt`: one word a line, the first half for training."""
    del options
    words = (source / "words.txt").read_text(encoding="utf-8").split()
    samples = tuple(
        Sample(
            sample_id=word,
            task="spelling",
            split="train" if index < len(words) // 2 else "test",
            inputs={"question": word},
            reference=word,
            groups={"document": word},
        )
        for index, word in enumerate(words)
    )
    return Reading(samples=samples, skipped=(), split_method="first half, second half")


def words(scorables: Sequence[Scorable]) -> FloatArray:
    """Return the words of each answer, 50 at most, as statistics of a mean [N, 2]."""
    return score_statistics([min(50, len(one.prediction.split())) for one in scorables])


METRIC = MetricEntry(
    summary="How many words an answer has, of 50.",
    kinds=frozenset({"qa"}),
    cost="nothing",
    build=lambda _: [asked_metric("words", "blanks", words, high=50, higher_is_better=False)],
)
ENTRY = AdapterEntry(card=CARD, load=load, parse=plain_answer)
TASK = TaskSpec(
    name="spelling",
    kind="qa",
    title="Spelling",
    version=1,
    prompt="Please repeat this word: {question}",
    train_prompts=("Repeat: {question}",),
    group_key="document",
    counts={},
    source="invented",
    licence="CC0-1.0",
    layout="words.txt, one word a line",
    reader=read_words,
)
