"""Clinical metrics of reports on chest X-rays: the findings that CheXbert labels, the entities that RadGraph marks.

Both models come from the library radeval, which is installed beside medbench (`medbench[clinical]`) and fetches their
weights when a metric scores for the first time. docs/clinical.md has the exact definitions.
"""

import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from io import StringIO
from types import SimpleNamespace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from medbench.tasks.foundation.console import meter
from medbench.tasks.foundation.errors import RunError, UsageError, described, unknown_name
from medbench.tasks.metrics.asked import MetricEntry, MetricOptions, asked_metric
from medbench.tasks.metrics.metric import FloatArray, Metric, Scorable, score_statistics
from medbench.tasks.metrics.table import whole_texts
from medbench.tasks.spec import TaskSpec

Findings = Sequence[int]
"""Of each label: 1 positive, -1 uncertain, 0 negative or not mentioned."""
Marks = frozenset[tuple[str, ...]]
Graph = tuple[Marks, Marks, Marks]
"""What is compared of a text's entities at each of `LEVELS`, in lower case."""
Reader = Callable[[Sequence[str]], Sequence[Any]]
"""What a model reads in each of some texts; None where it could read nothing."""

LABELS = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices", "No Finding",
)  # fmt: skip
"""CheXbert's 14 labels, in the order of its heads."""
FIVE = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
"""The labels of CheXpert's competition."""
LEVELS = ("simple", "partial", "complete")
_Average = Literal["micro_f1", "macro_f1"]
_DEVICES = ("auto", "cpu", "cuda")
_UNCERTAIN = ("positive", "negative")
_WEIGHTS = ("radgraph-xl", "radgraph", "modern-radgraph-xl")
_BATCH_SIZE = "64"
_NO_MARKS: Marks = frozenset()
_NO_GRAPH: Graph = (_NO_MARKS, _NO_MARKS, _NO_MARKS)
# What each model read in a text, in this process: metrics, tasks and bounds share texts, and models are slow.
_KNOWN: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A model that reads texts, as it was asked for."""

    name: str  # `chexbert`, or the weights of RadGraph.
    device: str  # One of `_DEVICES`.
    batch_size: int  # Texts that it reads at once.


def _read(model: _Model, texts: Sequence[str]) -> Mapping[str, Any]:
    """Return, by text, what a model reads in texts; each is read once in a process, one without words never.

    The model is loaded for the texts that are new and let go behind them: the next model to answer needs its memory.
    """
    known = _KNOWN.setdefault(model.name, {})
    new = sorted({text for text in texts if text} - known.keys(), key=lambda text: (len(text), text))
    if new:
        device = _device(model)
        reader = _loaded(model, device)
        with warnings.catch_warnings(action="ignore"), meter(f"{model.name} reads reports", len(new)) as progress:
            for start in range(0, len(new), model.batch_size):
                batch = new[start : start + model.batch_size]
                known.update(zip(batch, reader(batch), strict=True))
                progress.advance(len(batch))
        del reader
        if device == "cuda":
            import_module("torch").cuda.empty_cache()
    return known


def _device(model: _Model) -> str:
    import torch

    has_cuda = torch.cuda.is_available()
    if model.device == "cuda" and not has_cuda:
        raise RunError(f"There is no CUDA device for {model.name}.", "Leave out device=cuda.")
    return model.device if model.device != "auto" else "cuda" if has_cuda else "cpu"


def _loaded(model: _Model, device: str) -> Reader:
    """Return the reader of a model without a word of the library's; RunError if its weights cannot be had."""
    try:
        with _quiet():
            is_chexbert = model.name == "chexbert"
            return load_chexbert(device, model.batch_size) if is_chexbert else load_radgraph(device, model.name)
    except Exception as error:
        raise RunError(f"{model.name} cannot be loaded: {described(error)}.", _way_out(model.name)) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Let nothing be written; nor does radeval fetch data of nltk, as it does when it is imported: we need none."""
    nltk: Any = import_module("nltk")
    download, nltk.download = nltk.download, _unheard
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        nltk.download = download


def _way_out(name: str) -> str:
    file, where, base = f"{name}.tar.gz", f"radgraph/0.1.18/{name}, unpacked", "the encoder that its config.json names"
    if name == "chexbert":
        file, where, base = "chexbert.pth", "chexbert, in the hub's own folders", "bert-base-uncased"
    return (
        f"It takes {file} of StanfordAIMI/RRG_scorers on the Hugging Face Hub, kept below ~/.cache (XDG_CACHE_HOME) in "
        f"{where}, and {base}, kept in the hub's cache. Without a network, copy both from a machine that used this "
        f"metric; of a download that broke off, delete the first."
    )


def load_chexbert(device: str, batch_size: int) -> Reader:
    """Return what gives the `Findings` of each of some texts. Source: radeval, whose weights are `bert-base-uncased`'s.

    Texts beyond 512 tokens are cut there, by the library.
    """
    labeller = import_module("radeval.metrics.f1chexbert").F1CheXbert(device=device, batch_size=batch_size)
    return partial(labeller.get_labels, mode="classification")


def load_radgraph(device: str, weights: str) -> Reader:
    """Return what gives the `Graph` of each of some texts, None where the library left the text out."""
    # Inside of RadGraph radeval 2.2.1 imports itself as `RadEval`, which only a file system that does not tell letter
    # cases apart can find.
    sys.modules.setdefault("RadEval", import_module("radeval"))
    vendored = import_module("RadEval.metrics.radgraph")
    # It prints a traceback for each text that it leaves out, in the middle of our progress.
    utils = import_module("RadEval.metrics.radgraph._vendor.utils")
    vars(utils).update(print=_unheard, traceback=SimpleNamespace(print_exc=_unheard))
    return partial(_graphs, vendored.RadGraph(model_type=weights, cuda=-1 if device == "cpu" else 0))


def _unheard(*_: object, **__: object) -> None:
    """Do nothing."""


def _graphs(radgraph: Callable[[list[str]], Mapping[str, Any]], texts: Sequence[str]) -> list[Graph | None]:
    annotations = (radgraph([text]).get("0") for text in texts)
    return [graph_of(one["entities"]) if one is not None else None for one in annotations]


def graph_of(entities: Mapping[str, Any]) -> Graph:
    """Return what is compared of RadGraph's entities (by number: tokens, label, relations to numbers).

    An entity counts as its words with its label; at `partial` also whether it has a relation; at `complete` once for
    each relation, with its kind and the words at its other end. Source: F1-RadGraph's rewards, with the letter case of
    its pull request 15, which radeval lacks: all words in lower case.
    """
    simple: set[tuple[str, ...]] = set()
    partially, complete = simple.copy(), simple.copy()
    for entity in entities.values():
        mark = (str(entity["tokens"]).lower(), str(entity["label"]))
        relations = entity["relations"]
        simple.add(mark)
        partially.add((*mark, "related") if relations else mark)
        complete |= {(*mark, kind, str(entities[end]["tokens"]).lower()) for kind, end in relations} or {mark}
    return frozenset(simple), frozenset(partially), frozenset(complete)


def _f1(said: Marks, wanted: Marks) -> float:
    """Return F1 of two sets; 0 if one is empty, also where both are, as in the library."""
    return 2 * len(said & wanted) / ((len(said) + len(wanted)) or 1)


def _of_entities(model: _Model, level: int, scorables: Sequence[Scorable]) -> FloatArray:
    pairs = [tuple(text.lower() for text in whole_texts(scorable)) for scorable in scorables]
    known = {"": _NO_GRAPH, **_read(model, [text for pair in pairs for text in pair])}
    graphs = [(known[said], known[wanted]) for said, wanted in pairs]
    scores = [_f1(said[level], wanted[level]) if said and wanted else np.nan for said, wanted in graphs]
    statistics = score_statistics(scores)
    statistics[np.isnan(statistics[:, 0])] = np.nan
    return statistics


def _of_findings(
    model: _Model, labels: Sequence[str], positive: Sequence[int], average: _Average, scorables: Sequence[Scorable]
) -> FloatArray:
    """Return [N, 3] hits, false alarms and misses over the labels, or [N, 3 * C] of each label for a macro average."""
    texts = [text for scorable in scorables for text in whole_texts(scorable)]
    known = {"": [0] * len(LABELS), **_read(model, texts)}
    chosen = [LABELS.index(label) for label in labels]
    found = np.asarray([known[text] for text in texts], dtype=np.int64).reshape(-1, 2, len(LABELS))[:, :, chosen]
    said, wanted = np.moveaxis(np.isin(found, positive), 1, 0)
    counts: npt.NDArray[np.bool_] = np.stack([said & wanted, said & ~wanted, wanted & ~said], axis=1)
    by_label = counts.astype(np.float64)
    return by_label.sum(axis=2) if average == "micro_f1" else by_label.reshape(len(scorables), 3 * len(labels))


def _chexbert(options: MetricOptions) -> tuple[Metric, ...]:
    library, device = _library("chexbert"), _one_of("device", options, _DEVICES)
    uncertain = _one_of("uncertain", options, _UNCERTAIN)
    model = _Model(name="chexbert", device=device, batch_size=_positive("batch_size", options, _BATCH_SIZE))
    positive = (1, -1) if uncertain == "positive" else (1,)
    averages: tuple[_Average, ...] = get_args(_Average)
    return tuple(
        asked_metric(
            f"chexbert_{average}{suffix}",
            f"{library}|chexbert.pth|{len(labels)}-labels|uncertain={uncertain}|empty=no-label|uncased|plain"
            + ("|reference-classes" if average == "macro_f1" else ""),
            partial(_of_findings, model, labels, positive, average), aggregate=average,
        )
        for suffix, labels in (("", LABELS), ("_5", FIVE))
        for average in averages
    )  # fmt: skip


def _radgraph(options: MetricOptions) -> tuple[Metric, ...]:
    library, device = _library("radgraph"), _one_of("device", options, _DEVICES)
    weights = _one_of("weights", options, _WEIGHTS)
    model = _Model(name=weights, device=device, batch_size=1)  # The library reads one text at a time.
    signature = f"{library}|weights={weights}|f1|sets|empty=0|lower-case|plain"
    return tuple(
        asked_metric(f"radgraph_{level}", signature, partial(_of_entities, model, place))
        for place, level in enumerate(LEVELS)
    )


def _library(metric: str) -> str:
    """Return the library with its version, for signatures; RunError if it is not installed."""
    if find_spec("radeval") is None:
        raise RunError(f"The metric {metric} needs radeval, which is missing.", "pip install 'medbench[clinical]'")
    return f"radeval{version('radeval')}"


def _one_of(name: str, options: MetricOptions, allowed: Sequence[str]) -> str:
    """Return the value of an argument, by default the first that is allowed."""
    said = options.arguments.get(name, allowed[0])
    if said not in allowed:
        raise unknown_name(f"{name} of this metric", said, allowed)
    return said


def _positive(name: str, options: MetricOptions, default: str) -> int:
    said = options.arguments.get(name, default)
    if not re.fullmatch(r"[1-9][0-9]{0,4}", said):
        raise UsageError(f"{name}={said} is no number of texts.", "Write a whole number from 1 to 99999, such as 64.")
    return int(said)


def _refuses(spec: TaskSpec, *_: object) -> str:
    return "" if spec.shows == "chest X-ray" else "it reads reports on chest X-rays and nothing else"


_DEVICE = f"where its model reads: {', '.join(_DEVICES)} (default auto: CUDA if there is a device)"
CHEXBERT = MetricEntry(
    summary="Whether a report names the findings of its reference: F1 over CheXpert's labels, read by CheXbert.",
    kinds=frozenset({"report"}), build=_chexbert, refuses=_refuses,
    cost="1.8 ms with its reference on an A100 (radeval's authors), 0.3 s on one CPU core (ours, random weights)",
    arguments={
        "uncertain": f"what a finding is that may or may not be there: {' or '.join(_UNCERTAIN)} (default positive)",
        "device": _DEVICE, "batch_size": f"texts that CheXbert reads at once (default {_BATCH_SIZE})",
    },
)  # fmt: skip
RADGRAPH = MetricEntry(
    summary="Whether a report has the entities and relations of its reference: F1 of each report, read by RadGraph.",
    kinds=frozenset({"report"}), build=_radgraph, refuses=_refuses,
    cost="0.16 s with its reference on an A100 (radeval's authors), 0.8 s on one CPU core (ours, random weights)",
    arguments={"weights": f"of RadGraph: {', '.join(_WEIGHTS)} (default {_WEIGHTS[0]})", "device": _DEVICE},
)  # fmt: skip
