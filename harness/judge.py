"""The metric `judge`: a served model that is asked whether open answers say the same as the right ones.

It goes through the adapter of served models with all that belongs to it: keys, certificates, retries, several servers.
Every reply is kept as it comes, also one that cannot be read: at temperature 0 it would come again. A failure is not.
"""

import math
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from medbench.adapters.base import LoadOptions, StopReason
from medbench.adapters.openai import entry
from medbench.adapters.remote import RemoteAdapter, ServedGeneration, Usage
from medbench.harness.remote.asking import Finished, Question
from medbench.harness.remote.serving import changes_in, in_background, other_machines
from medbench.harness.remote.sharing import Fleet
from medbench.harness.rundir import append_lines, open_whole_lines
from medbench.harness.verdicts import PROMPT_FINGERPRINT, Judged, prompt_of, read_verdict
from medbench.tasks.answers.texts import normalise_strictly
from medbench.tasks.foundation.console import say, warn
from medbench.tasks.foundation.errors import RunError, UsageError
from medbench.tasks.foundation.files import encodable, fingerprint, read_numbered_json_lines
from medbench.tasks.foundation.printable import printable
from medbench.tasks.metrics.asked import MetricEntry, MetricOptions, asked_metric
from medbench.tasks.metrics.metric import FloatArray, Metric, Scorable
from medbench.tasks.metrics.table import is_closed
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Reading, TaskSpec

VERDICTS_FILE = "verdicts.jsonl"
_DIGITS = 12
_SHOWN = 200
# What is settled by the prompt, or of no use to a model that sees no images and writes one verdict.
_SETTLED = frozenset({"boxes", "max_pixels", "stop", "system", "top_p"})
# The adapter speaks of what a run's model is given.
_IN_OUR_WORDS = {
    "--model-arg ": "--metric-arg judge:", "--model openai:": "--metric judge:", "model 'openai'": "metric 'judge'",
    "questions and images of this run": "open questions of this run, their right answers and what the models answered",
}  # fmt: skip
_ASKED = TaskSpec(
    name="judge", kind="qa", title="Verdicts", version=1, prompt="{prompt}", train_prompts=(), max_new_tokens=2048,
    group_key="document", counts={}, source="", licence="", layout="",
    reader=lambda *_: Reading(samples=(), skipped=(), split_method=""),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class KeptReply(Usage):
    """What a judge said, and what it took: a line of `verdicts.jsonl`."""

    key: str  # A hash over the judge and its prompt.
    reply: str
    stop: StopReason
    model: str  # The model that answered, in the server's words.

    @classmethod
    def of(cls, finished: Finished, said: ServedGeneration) -> "KeptReply":
        """Return what is kept of an answered question."""
        return cls(
            key=finished.question.sample.sample_id, reply=encodable(said.text), stop=said.stop, model=said.served.model,
            **asdict(finished.reply.usage),
        )  # fmt: skip


def is_judged(scorable: Scorable) -> bool:
    """Return whether a question is an open one, in words of its own."""
    return bool(scorable.question) and not scorable.choices and not is_closed(scorable)


def judge_answers(options: MetricOptions, scorables: Sequence[Scorable]) -> FloatArray:
    """Return the statistics [N, 2] of N answers; a row of NaN for one without a verdict.

    Each distinct answer to a question is asked about once, and one that is empty or equals the right one never.
    RunError if the server is gone, or refuses everything: what it said until then is kept.
    """
    judged = [Judged(one.question, one.reference, one.prediction) for one in scorables]
    scores = {one: _without_asking(one) for one in judged}
    if unknown := [one for one, score in scores.items() if score is None]:
        with _in_our_words():
            scores |= _verdicts(options, unknown)
    rows = [(math.nan, math.nan) if (score := scores[one]) is None else (score, 1.0) for one in judged]
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), 2)


def _without_asking(judged: Judged) -> float | None:
    if not judged.answer.strip():
        return 0.0
    return 1.0 if normalise_strictly(judged.answer) == normalise_strictly(judged.reference) else None


def _verdicts(options: MetricOptions, judged: Sequence[Judged]) -> dict[Judged, float | None]:
    """Return the score of each answer by the judge's verdict, None where there is none, and say so."""
    judge, name = _load(options), _id_of(options)
    prompts = {one: prompt_of(one) for one in judged}
    keys = {one: fingerprint({"judge": judge.weights_fingerprint, "prompt": text}) for one, text in prompts.items()}
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(TemporaryDirectory()))
        asked = {keys[one]: text for one, text in prompts.items()}
        kept, errors = _replies(judge, name, asked, folder / VERDICTS_FILE)
    said = {one: kept[key] for one, key in keys.items() if key in kept}
    scores = {one: _score(said[one], one) if one in said else None for one in judged}
    _tell_of_missing(name, len(judged), [said[one].reply for one in said if scores[one] is None], errors)
    return scores


def _score(kept: KeptReply, judged: Judged) -> float | None:
    # What was cut off may have gone on with another verdict.
    verdict = None if kept.stop == "length" else read_verdict(kept.reply, judged)
    return None if verdict is None else float(verdict)


def _replies(
    judge: RemoteAdapter, name: str, prompts: Mapping[str, str], path: Path
) -> tuple[dict[str, KeptReply], list[str]]:
    """Return the replies to prompts by their keys, those that are not kept asked for and kept, and failures' words."""
    kept = {key: one for key, one in read_kept(path).items() if key in prompts}
    missing = {key: text for key, text in prompts.items() if key not in kept}
    if not missing:
        return kept, []
    told = " ".join(judge.made_of.values())
    say(f"{name} is asked for {len(missing):,} verdicts ({len(kept):,} are kept){f'; it is {told}' if told else ''}.")
    new, errors = list[KeptReply](), list[str]()
    with closing(open_whole_lines(path)) as stream, closing(_asked(judge, missing)) as batches:
        for finished in batches:
            came = [KeptReply.of(one, said) for one in finished if (said := one.reply.generation)]
            append_lines(stream, map(asdict, came))
            new += came
            errors += [one.reply.error for one in finished if one.reply.error]
    kept |= {one.key: one for one in new}
    _say_what_it_took(name, new)
    marks = {"models": Counter(one.model for one in kept.values() if one.model),
             "fingerprints": Counter(one.fingerprint for one in kept.values() if one.fingerprint)}  # fmt: skip
    for change in changes_in(marks):
        warn(f"{name}: {change}")
    return kept, errors


def read_kept(path: Path) -> dict[str, KeptReply]:
    """Return the replies that a file holds, by their keys; one torn last line is ignored.

    DataError if another line is broken, RunError if it is no reply.
    """
    kept = {}
    for number, line in read_numbered_json_lines(path, torn_tail="drop") if path.exists() else ():
        try:
            one = KeptReply(**line)
        except ValidationError as error:
            hint = "Put the file back as it was, or delete the line: its answer is judged again then."
            raise RunError(f"{path}, line {number} is no reply of a judge.", hint) from error
        kept[one.key] = one
    return kept


def _asked(judge: RemoteAdapter, prompts: Mapping[str, str]) -> Generator[list[Finished], None, None]:
    samples = (
        Sample(sample_id=key, task=_ASKED.name, split="test", inputs={"prompt": text}, reference="")
        for key, text in prompts.items()
    )
    questions = [Question(sample=sample, spec=_ASKED, source=Path()) for sample in samples]

    async def work(put: Callable[[Finished], None]) -> None:
        await Fleet(judge.servers, put).ask(questions)

    return in_background(work)


def _say_what_it_took(name: str, new: Sequence[KeptReply]) -> None:
    costs = [one.cost for one in new if one.cost is not None]
    read, written = sum(one.prompt_tokens for one in new), sum(one.output_tokens for one in new)
    cost = f", cost {math.fsum(costs):,.4f}" if costs else ""
    say(f"{name}: {len(new):,} replies, {read:,} tokens read and {written:,} written{cost}.")


def _tell_of_missing(name: str, judged: int, unreadable: Sequence[str], errors: Sequence[str]) -> None:
    if unreadable:
        example = printable(" ".join(unreadable[0].split())[:_SHOWN]) or "(nothing)"
        warn(f"{name}: {len(unreadable):,} of {judged:,} verdicts cannot be read, so no score. The first: {example}")
    if errors:
        first = printable(_ours(errors[0]).partition("\n")[0][:_SHOWN])
        warn(f"{name}: {len(errors):,} of {judged:,} requests failed; the same command asks again. The first: {first}")


@contextmanager
def _in_our_words() -> Iterator[None]:
    """Let errors of the adapter speak of the metric and its arguments."""
    try:
        yield
    except (UsageError, RunError) as error:
        raise type(error)(_ours(error.problem), _ours(error.hint)) from error


def _ours(text: str) -> str:
    for theirs, ours in _IN_OUR_WORDS.items():
        text = text.replace(theirs, ours)
    return text


def _chosen(options: MetricOptions) -> entry.Address:
    """Return the judge's address; UsageError if it or an argument is wrong."""
    with _in_our_words():
        address = entry.read_address(options.variant)
        temperature = entry.read_options(options.arguments, address).temperature
    if temperature:
        hint = "Leave it out, or say --metric-arg judge:temperature=unset for a model that takes none."
        raise UsageError(f"A judge is asked at temperature 0, not {temperature:g}.", hint)
    return address


def _load(options: MetricOptions) -> RemoteAdapter:
    """Return the judge, to which nothing is sent yet; UsageError as well if its key is not there."""
    _chosen(options)
    with _in_our_words():
        return cast(
            "RemoteAdapter", entry.ENTRY.load(LoadOptions(variant=options.variant, arguments=options.arguments))
        )


def _id_of(options: MetricOptions) -> str:
    return f"judge:{_chosen(options).model}"


def _build(options: MetricOptions) -> tuple[Metric, ...]:
    greedy, others = _load(options).greedy, {
        name: value for name, value in sorted(options.arguments.items())
        if (declared := entry.ARGUMENTS[name]).changes_answers and value != declared.default
    }  # fmt: skip
    signature = (
        f"model={_chosen(options).model}|prompt={PROMPT_FINGERPRINT}|temperature={0 if greedy else 'unset'}|"
        f"options={fingerprint(others)[:_DIGITS] if others else 'default'}|empty=0|equal=1"
    )
    return (asked_metric(_id_of(options), signature, partial(judge_answers, options), applies=is_judged),)


def _refuses(spec: TaskSpec, options: MetricOptions) -> str:
    if spec.choices:
        return "its answers are those of a closed list"
    judge = _load(options)
    elsewhere = other_machines(judge)
    if not spec.credentialed or not elsewhere or judge.may_send_credentialed:
        return ""
    return (
        f"its data are under a signed agreement and must not be sent to {elsewhere}; serve the judge on this machine, "
        "or, if your agreement covers that server, say --metric-arg judge:credentialed=send"
    )


def _notice(options: MetricOptions) -> str:
    return " ".join(map(_ours, _load(options).notices))


JUDGE = MetricEntry(
    summary="whether a served model says that an open answer means the same as the right one",
    kinds=frozenset({"qa", "vqa"}), cost="a request for each distinct answer: some 200 tokens and the three texts",
    build=_build, refuses=_refuses,
    arguments={name: one.help for name, one in entry.ARGUMENTS.items() if name not in _SETTLED},
    variant="MODEL@BASE-URL", notice=_notice,
)  # fmt: skip
