"""Scoring 2,000 reports by both protocols in one process, set-ROUGE against the package of the official scripts.

Prints CPU seconds of 500 and of 2,000 pairs (twice as many pairs should take twice as long, not four times) and, where
there is one, the package's time on the same pairs. Run it on a quiet machine: `make bench`.
"""

import random
import resource
from collections.abc import Callable, Sequence

from rouge import Rouge

from medbench.tasks.foundation.console import emit_table, say
from medbench.tasks.metrics.answers import sentence_bleu1
from medbench.tasks.metrics.java import tokenise
from medbench.tasks.metrics.metric import Scorable
from medbench.tasks.metrics.reports import GOOGLE_ROUGE, SET_ROUGE
from medbench.tasks.protocols import PROTOCOLS, Item, metrics_for, scored_items, tokenise_together

SMALL, LARGE = 500, 2000
SENTENCES = (
    "the heart size is normal",
    "there is a small left pleural effusion",
    "no pneumothorax is seen",
    "the lungs are clear without focal consolidation",
    "bibasilar atelectasis is unchanged",
    "a right sided central line ends in the superior vena cava",
    "degenerative changes are present in the thoracic spine",
)
Pairs = Sequence[tuple[str, str]]


def main() -> None:
    """Measure and print one row per part of the scoring."""
    say("CPU seconds, Java included, METEOR excluded; invented reports of four to seven sentences")
    rows = [_row("all text metrics, both protocols", _all_metrics, None)]
    rows.append(_row("PTB tokens", _ptb, None))
    rows.append(_row("ROUGE-1/2/L on sets, paper (package rouge)", _own(*SET_ROUGE.values()), _package_rouge))
    rows.append(_row("ROUGE-1/2/L, strict (by rouge_score)", _own(*GOOGLE_ROUGE.values()), None))
    rows.append(_row("sentence BLEU-1 (by nltk)", _own(sentence_bleu1), None))
    emit_table(["what", f"{SMALL} pairs", f"{LARGE} pairs", "package", "package / ours"], rows)


def _row(name: str, ours: Callable[[Pairs], None], package: Callable[[Pairs], None] | None) -> list[str]:
    small, large = (_cpu_seconds(ours, _pairs(count)) for count in (SMALL, LARGE))
    if package is None:
        return [name, f"{small:.2f}", f"{large:.2f}", "", ""]
    theirs = _cpu_seconds(package, _pairs(LARGE))
    return [name, f"{small:.2f}", f"{large:.2f}", f"{theirs:.2f}", f"{theirs / large:.1f}"]


def _pairs(count: int) -> Pairs:
    draw = random.Random(count)
    return [(_report(draw), _report(draw)) for _ in range(count)]


def _report(draw: random.Random) -> str:
    sentences = draw.sample(SENTENCES, draw.randint(4, len(SENTENCES)))
    return f"{'. '.join(sentences)}. study {draw.randrange(10**9)}."


def _cpu_seconds(work: Callable[[Pairs], None], pairs: Pairs) -> float:
    before = _clock()
    work(pairs)
    return _clock() - before


def _clock() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _all_metrics(pairs: Pairs) -> None:
    items = [Item(state="ok", scorable=Scorable(prediction=first, reference=second)) for first, second in pairs]
    tokenise_together([("mimic-cxr", "report", items)])
    for protocol in PROTOCOLS:
        _, scorables = scored_items(protocol, "report", items)
        for metric in metrics_for("mimic-cxr", "report", protocol):
            if metric.metric_id != "meteor":
                metric.statistics(scorables)


def _ptb(pairs: Pairs) -> None:
    tokenise([f"{text} again" for pair in pairs for text in pair])


def _own(*scores: Callable[[str, str], float]) -> Callable[[Pairs], None]:
    def work(pairs: Pairs) -> None:
        for score in scores:
            for first, second in pairs:
                score(first, second)

    return work


def _package_rouge(pairs: Pairs) -> None:
    Rouge().get_scores([first for first, _ in pairs], [second for _, second in pairs])


if __name__ == "__main__":
    main()
