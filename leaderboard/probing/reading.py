"""What probing found, in words and tables: where the signal is lost, what is not shown, what cannot be tested. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medbench.harness.probing.document import MODES, Mode, PlaceScores, Probed, Score, TargetFound
from medbench.leaderboard.probing.figures import Curves
from medbench.leaderboard.render import markdown_code, markdown_table, markdown_text, p_text
from medbench.tasks.foundation.files import read_yaml_table

WORDS: Mapping[str, Any] = read_yaml_table(Path(__file__).with_name("words.yaml"))


def distinct(models: Sequence[Probed]) -> list[Probed]:
    """Return models whose titles tell them apart: with the label where several share one."""
    titles = [one.title for one in models]
    return [one if titles.count(one.title) == 1 else replace(one, title=f"{one.title} ({one.label})") for one in models]


def by_target(models: Sequence[Probed]) -> list[Curves]:
    """Return each target with the models that have it."""
    found: dict[str, list[tuple[str, TargetFound]]] = {}
    for model in models:
        for one in model.targets:
            found.setdefault(one.name, []).append((model.title, one))
    return list(found.values())


def losses(found: TargetFound) -> list[tuple[Score, Mode]]:
    """Return the losses that are shown, the largest first."""
    return sorted((pair for pair in _shown(found) if pair[0].value > 0), key=lambda pair: -pair[0].value)


def _shown(found: TargetFound) -> list[tuple[Score, Mode]]:
    return [(one.difference, one) for one in found.modes if one.difference and one.verdict == "shown"]


def headlines(models: Sequence[Probed]) -> list[str]:
    """Return a sentence for each model: on how many targets a loss is shown, and where the largest one is."""
    said = []
    for model in models:
        ranked = sorted(
            ((lost[0], found) for found in model.targets if (lost := losses(found))), key=lambda one: -one[0][0].value
        )
        text = f"{model.title}: a loss is shown on {len(ranked) or 'none'} of {len(model.targets)} targets"
        if ranked:
            (score, mode), found = ranked[0]
            text += f", the largest on {found.name} between {' and '.join(_sides(mode))} ({_number(score.value)})"
        said.append(f"{text}.")
    return said


def where_lost(model: str, found: TargetFound) -> str:
    """Return in a sentence or two where a model loses most of a target, or how large a loss would have been shown."""
    tested, shown = [one for one in found.modes if one.difference], losses(found)
    if not tested:
        return f"On {found.name} nothing of {model} can be tested."
    if shown:
        score, mode = shown[0]
        first, second = _sides(mode, found)
        form = WORDS["lost"].get(mode.name, WORDS["lost"]["other"])
        text = str(form).format(target=found.name, model=model, first=first, second=second, difference=_score(score))
        text += "".join(f" Shown too: {' over '.join(_sides(one))}, {_score(more)}." for more, one in shown[1:])
    else:
        text = f"On {found.name} no loss of {model} is shown in {len(tested)} of {len(found.modes)} tests"
        text = f"{text}; {_power(tested)}."
    # Of the one test that looks both ways.
    if better := next((score for score, _ in _shown(found) if score.value < 0), None):
        text += f" Its answers tell more than a probe of its last token: {_score(_turned(better))}."
    return text


def _least(tested: Sequence[Mode]) -> float:
    """Return the loss that all of the tests would have shown 8 times of 10."""
    return max((one.would_show for one in tested if one.would_show is not None), default=1.0)


def _power(tested: Sequence[Mode]) -> str:
    if (least := _least(tested)) >= 1:
        return "so few samples could not have shown any"
    return f"a loss of {least:.2f} would have been, 8 times of 10"


def glance_table(models: Sequence[Probed]) -> str:
    """Return the largest loss of each target and model that is shown."""
    rows = []
    for curves in by_target(models):
        own = dict(curves)
        cells = [_glance(own[one.title]) if one.title in own else "" for one in models]
        rows.append([markdown_text(curves[0][1].name), *cells])
    return markdown_table(["target", *(markdown_text(one.title) for one in models)], rows)


def _glance(found: TargetFound) -> str:
    tested = [one for one in found.modes if one.difference]
    if lost := losses(found):
        return f"**{lost[0][1].name}** {_score(lost[0][0])}"
    return f"none ({_number(_least(tested))})" if tested else "cannot be tested"


def mode_table(curves: Curves) -> str:
    """Return a row for each mode and model of a target."""
    rows = [
        [name, *([markdown_text(model)] if len(curves) > 1 else []), *_cells(found, one)]
        for name in MODES for model, found in curves for one in found.modes if one.name == name
    ]  # fmt: skip
    models = ["model"] if len(curves) > 1 else []
    heads = ["mode", *models, "verdict", "difference [95 %]", "p (Holm)", "would show", "compared"]
    return markdown_table(heads, rows, merged=True)


def _cells(found: TargetFound, mode: Mode) -> list[str]:
    if mode.difference is None:
        return [mode.verdict, "", "", "", markdown_text(mode.why)]
    first, second = (f"{name}{_told(found, name)}" for name in (mode.first, mode.second))
    failed = found.answers.failed if found.answers and mode.name == "answer" else 0
    left = f"; {failed} failed answers left out" if failed else ""
    return [
        f"**{mode.verdict}**" if mode.verdict == "shown" else mode.verdict, _score(mode.difference),
        "" if mode.p is None else p_text(mode.p), _number(mode.would_show),
        markdown_text(f"{first} against {second}{left}"),
    ]  # fmt: skip


def samples_text(curves: Curves) -> str:
    """Return what probes of a target learned from and were scored on, once if it is the same for all models."""
    told = {model: _samples(found) for model, found in curves}
    if len(set(told.values())) == 1:
        return markdown_text(next(iter(told.values())))
    lines = [f"- {markdown_text(f'{model}: {text}')}" for model, text in told.items()]
    return "\n".join([f"**{WORDS['unlike']}**", "", *lines])


def _samples(found: TargetFound) -> str:
    left = "; ".join(f"{count} {why}" for why, count in found.left_out.items())
    scale = WORDS["scale"][found.kind].format(
        classes=len(found.classes), chance=found.chance, majority=100 * found.majority
    )
    return str(WORDS["samples"]).format(
        both=found.train + found.validation, validation=found.validation, test=found.test, clusters=found.clusters,
        scale=scale, left=f" Left out: {left}." if left else "",
    ).strip()  # fmt: skip


def place_table(found: TargetFound) -> str:
    """Return a row for each place, each reference network, and the answers."""
    heads = ["place", "width", "score [95 %]", "validation", "random weights", "permuted", "equal width", "strength"]
    published = any(one.paper is not None for one in found.places)
    rows = []
    for one in found.places:
        more = [one.validation, one.random, one.permuted, one.narrow]
        row = [markdown_text(label_of(one)), str(one.width), _score(one.score), *map(_number, more)]
        rows.append([*row, f"{one.strength:g}", *([_number(one.paper)] if published else [])])
    named = (*found.references, *([found.answers] if found.answers else []))
    empty = [""] * (len(heads) - 4 + published)
    rows += [[markdown_text(one.name), "", _score(one.score), _number(one.validation), *empty] for one in named]
    return markdown_table([*heads, *(["published probe, accuracy"] if published else [])], rows)


def health_table(curves: Curves) -> str:
    """Return the published health scores of modules; empty if nobody asked for them."""
    rows = [
        [markdown_text(model), one.module, *map(_number, (one.score, one.gain, one.smoothness, one.floor))]
        for model, found in curves
        for one in found.health
    ]
    heads = ("model", "module", "health score", "gain", "smoothness", "smoothness of a flat curve")
    return markdown_table(heads, rows, merged=True) if rows else ""


def how_measured(models: Sequence[Probed]) -> str:
    """Return what was probed of each model, and how."""
    return "\n".join(
        f"- {markdown_text(one.title)}: {markdown_text(one.dtype)}, weights {markdown_code(one.weights[:19])}, "
        f"{one.refits} trainings of each probe of a test on resampled clusters, seed {one.seed}, losses up to "
        f"{one.margin:g} count as none." + (f" medbench {markdown_text(one.medbench)}." if one.medbench else "")
        for one in models
    )


def label_of(place: PlaceScores) -> str:
    """Return what tells a place from all others of its model, as modes name it."""
    return f"{place.name}, last token" if place.readout == "last" else place.name


def _sides(mode: Mode, found: TargetFound | None = None) -> list[str]:
    """Return in words what a mode compares, with the scores that were found."""
    named = zip(WORDS["sides"][mode.name], (mode.first, mode.second), strict=True)
    return [text.format(name=name) + (_told(found, name) if found else "") for text, name in named]


def _told(found: TargetFound, name: str) -> str:
    """Return the score of a side in brackets, if the document has it."""
    scores = {one.name: one.score for one in found.references} | {label_of(one): one.score for one in found.places}
    score = found.answers.score if found.answers and name == found.answers.name else scores.get(name)
    return f" ({_number(score.value)})" if score else ""


def _turned(score: Score) -> Score:
    ends = [None if one is None else -one for one in (score.high, score.low)]
    return Score(value=-score.value, low=ends[0], high=ends[1])


def _score(score: Score) -> str:
    interval = "" if score.low is None or score.high is None else f" [{_number(score.low)}, {_number(score.high)}]"
    return f"{_number(score.value)}{interval}"


def _number(value: float | None) -> str:
    """Return a number with two decimals, none of them a negative zero; nothing where there is none."""
    return "" if value is None else f"{round(value, 2) + 0.0:.2f}"
