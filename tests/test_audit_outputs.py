"""Who is accused and who is not: the nasty cases of outputs."""

import random
from dataclasses import replace

import pytest
from audit_cells import answered, cell, report, reports, verdict_of

from medbench.leaderboard.audit.outputs import verdict
from medbench.leaderboard.audit.outputs.answers import refuse_unequal
from medbench.leaderboard.audit.outputs.cells import THRESHOLDS, Answered, Cell, make_cell
from medbench.leaderboard.audit.outputs.evidence import find_evidence
from medbench.leaderboard.audit.outputs.verdict import (
    Peer,
    Share,
    audit_outputs,
    matches_by_chance,
    run_controls,
    sentence_skill,
    shuffle,
)
from medbench.tasks.foundation.errors import UsageError

REST = "the ureters are dilated to the level of the bladder, where a thick wall points at an obstruction of the outlet"
PAPER = [
    ("Neuroradiology Quiz", "Neuroradiology Quiz"),
    (
        "Sagittal and axial CT images show a fracture through the C2 vertebral body",
        "sagittal and axial CT images show a fracture through the C2 vertebral body.",
    ),
    (f"There is bi-lateral hydronephrosis - {REST}", f"There is bilateral hydronephrosis - {REST}"),
]


def memorised(references: list[str], share: float, seed: int = 1) -> list[str | None]:
    """Return other texts, and the references of a share of the cases in capital letters."""
    draw = random.Random(seed)
    seen = set(draw.sample(range(len(references)), round(share * len(references))))
    return [one.upper() if place in seen else report(draw) for place, one in enumerate(references)]


def test_three_anecdotes_of_403_are_no_verdict() -> None:
    references = [reference for reference, _ in PAPER] + reports(400)
    found = verdict_of(cell(references, [answer for _, answer in PAPER] + reports(400, seed=9)))
    assert found.exact == 3
    assert found.exact_by_reason == {"eligible": 2, "short": 1}
    assert found.verdict == "no_evidence"


def test_a_memoriser_of_a_tenth_of_the_cases_is_found() -> None:
    references = reports(300)
    found = verdict_of(cell(references, memorised(references, 0.1), train=reports(500, seed=5)))
    assert (found.verdict, found.k, found.K) == ("strong", 30, 300)
    assert found.attribution == "unseen_references"
    assert found.detectable_rate is not None
    assert found.detectable_rate < 0.05
    assert found.p < 1e-20


def test_a_split_by_picture_is_no_leak_of_the_model() -> None:
    references = reports(300)
    train = [*references[:150], *reports(200, seed=3)]
    answers: list[str | None] = [*references[:150], *reports(150, seed=4)]
    found = verdict_of(cell(references, answers, train=train))
    assert found.exact == 150
    assert found.exact_by_reason == {"in_train_refs": 150}
    assert (found.verdict, found.k, found.K) == ("no_evidence", 0, 150)
    assert found.attribution == "train_references"
    assert found.ref_in_train == 0.5
    assert found.in_train == Share(matches=150, of=150)
    assert found.not_in_train == Share(matches=0, of=150)


def test_without_the_training_references_the_same_answers_would_be_flagged() -> None:
    references = reports(300)
    answers: list[str | None] = [*references[:150], *reports(150, seed=4)]
    found = verdict_of(cell(references, answers))
    assert (found.verdict, found.attribution, found.ref_in_train) == ("strong", "unknown", None)


@pytest.mark.parametrize("accuracy", [0.6, 0.8, 1.0])
@pytest.mark.parametrize("labels", [("yes", "no"), ("melanocytic nevi", "basal cell carcinoma", "dermatofibroma")])
def test_closed_questions_are_never_testable(accuracy: float, labels: tuple[str, ...]) -> None:
    draw = random.Random(0)
    references = [draw.choice(labels) for _ in range(1000)]
    answers = [one if draw.random() < accuracy else draw.choice(labels) for one in references]
    found = verdict_of(cell(references, answers, [f"i{place // 4}" for place in range(1000)]))
    assert (found.verdict, found.K, found.k, found.rate, found.ci) == ("not_testable", 0, 0, None, None)
    assert found.exact >= 600
    assert set(found.exact_by_reason) == {"short"}
    assert found.detectable_rate is None


@pytest.mark.parametrize("words", [3, 8])
def test_controls_of_what_cannot_prove_anything_are_what_the_long_way_finds(
    words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    references = [" ".join(one.split()[:words]) for one in reports(60)]
    found = cell(references, [*references[:30], *[None] * 30])
    short = run_controls(found).brief()
    monkeypatch.setattr(verdict, "OF_THE_REFERENCE", frozenset())
    assert run_controls(found).brief() == short


def test_a_long_answer_from_a_list_proves_nothing() -> None:
    references = reports(100)
    items = [replace(item, closed=True) for item in answered(references, references)]
    found = verdict_of(make_cell(items, train_references=None))
    assert (found.verdict, found.exact_by_reason) == ("not_testable", {"closed": 100})


def test_a_reference_that_stands_in_the_question_proves_nothing() -> None:
    references = reports(100)
    items = [
        replace(item, question=f"Is this right: {item.reference} Answer!") for item in answered(references, references)
    ]
    found = verdict_of(make_cell(items, train_references=None))
    assert found.exact_by_reason == {"in_the_question": 100}


def test_one_report_for_all_is_a_template() -> None:
    constant = "The heart size is normal and the lungs are clear."
    references = [constant] * 4 + reports(200)
    found = verdict_of(cell(references, [constant] * 204))
    assert (found.exact, found.k, found.verdict) == (4, 0, "no_evidence")
    assert found.exact_by_reason == {"shared_across_clusters": 4}


def test_stock_phrases_that_each_equal_one_reference_are_templates() -> None:
    phrases = reports(30)
    references = phrases + reports(270, seed=1)
    answers: list[str | None] = [phrases[place % 30] for place in range(300)]
    found = verdict_of(cell(references, answers))
    assert found.exact == 30
    assert found.exact_by_reason == {"model_repeats_itself": 30}
    assert (found.k, found.verdict) == (0, "no_evidence")


def test_references_that_cases_share_are_not_counted() -> None:
    placeholder = "replace this description of the image or findings"
    siblings = reports(20)
    references = [placeholder] * 5 + siblings * 2 + reports(100, seed=2)
    answers: list[str | None] = [placeholder, *reports(4, seed=6), *siblings, *reports(120, seed=7)]
    found = verdict_of(cell(references, answers))
    assert found.exact == 21
    assert found.exact_by_reason == {"shared_across_clusters": 21}
    assert (found.K, found.k, found.verdict) == (100, 0, "no_evidence")


def test_sharing_is_seen_in_the_whole_split_although_few_items_were_answered() -> None:
    references = reports(40)
    whole = [(one, f"other{place}") for place, one in enumerate(references)]
    found = make_cell(answered(references, references), train_references=None, whole_split=whole)
    assert verdict_of(found).items_by_reason == {"shared_across_clusters": 40}


def test_pictures_of_one_case_are_one_match() -> None:
    references = [one for one in reports(60) for _ in range(3)]
    groups = [f"p{place // 3}" for place in range(180)]
    answers: list[str | None] = [*references[:12], *reports(168, seed=4)]
    found = verdict_of(cell(references, answers, groups))
    assert (found.n, found.cases, found.K, found.k) == (180, 60, 60, 4)
    assert found.exact == 12
    assert found.verdict == "suspicious"


def test_a_retriever_with_many_long_matches_in_train_is_honest() -> None:
    references = reports(300)
    known = references[:80]
    answers: list[str | None] = [*known[:26], *reports(274, seed=8)]
    found = verdict_of(cell(references, answers, train=[*known, *reports(500, seed=3)]))
    assert (found.exact, found.k, found.verdict) == (26, 0, "no_evidence")


def test_garbage_never_matches() -> None:
    references: list[str | None] = ["None", "nan", "", None, "NaN", *reports(40)]
    answers: list[str | None] = [None, "nan", "", None, "None", *[None] * 20, *reports(20, seed=5)]
    found = verdict_of(cell(references, answers))
    assert found.exact == 0
    assert found.items_by_reason == {"no_reference": 4, "short": 1, "missing": 20, "eligible": 20}
    assert found.verdict == "no_evidence"


def test_a_model_that_says_nothing_cannot_be_tested() -> None:
    found = verdict_of(cell(reports(200), [None] * 200))
    assert (found.verdict, found.K) == ("not_testable", 0)


def test_answers_that_were_cut_cannot_match_and_do_not_count() -> None:
    references = reports(100, words=30)
    items = [
        replace(item, truncated=True, prediction=" ".join((item.reference or "").split()[:20]))
        for item in answered(references, references)
    ]
    found = make_cell(items, train_references=None)
    assert verdict_of(found).items_by_reason == {"truncated": 100}
    assert verdict_of(found).verdict == "not_testable"
    counts = audit_outputs({"": found})[""].counts
    assert find_evidence(found, counts, None).cut_alike == 100


def test_too_few_cases_are_not_testable_however_many_match() -> None:
    references = reports(19)
    found = verdict_of(cell(references, references))
    assert (found.verdict, found.k, found.p_holm) == ("not_testable", 19, None)
    assert verdict_of(cell(reports(20), reports(20))).verdict == "strong"


def test_holm_counts_the_tasks_that_could_be_tested() -> None:
    leaking = cell(reports(200), memorised(reports(200), 0.03))
    alone = audit_outputs({"a": leaking})["a"]
    clean = {f"c{place}": cell(reports(50), reports(50, seed=9)) for place in range(40)}
    closed = {f"n{place}": cell(["yes"] * 50, ["yes"] * 50) for place in range(40)}
    beside = audit_outputs({"a": leaking, **clean})["a"]
    assert alone.p == beside.p
    assert alone.p_holm == alone.p
    assert beside.p_holm == pytest.approx(41 * alone.p)
    assert (alone.verdict, beside.verdict) == ("strong", "suspicious")
    assert audit_outputs({"a": leaking, **closed})["a"].p_holm == alone.p


def test_rows_and_tasks_in_another_order_change_nothing() -> None:
    references = reports(120)
    items = answered(references, memorised(references, 0.1), [f"p{place // 2}" for place in range(120)])
    mixed = random.Random(3).sample(items, len(items))
    one, two = (make_cell(rows, train_references=None) for rows in (items, mixed))
    other = cell(reports(50), reports(50, seed=2))
    first = audit_outputs({"a": one, "b": other})
    second = audit_outputs({"b": other, "a": two})
    assert first["a"] == second["a"]
    assert first["b"] == second["b"]
    assert one.fingerprint() == two.fingerprint()
    assert run_controls(one) == run_controls(two)


def peer(matches: int, of: int, name: str = "peer") -> Peer:
    return Peer(name=name, run=name, matches=matches, of=of, exact=matches)


def test_peers_raise_the_tolerated_rate_and_both_are_reported() -> None:
    references = reports(200)
    leaking = cell(references, memorised(references, 0.04))
    peers = [peer(8, 200, f"peer {place}") for place in range(3)]
    found = audit_outputs({"a": leaking}, {"a": peers})["a"]
    assert found.p0_source == "peers"
    assert 0.04 < found.p0 < 0.07
    assert found.p_default < 1e-4
    assert found.p > 0.1
    assert found.verdict == "no_evidence"
    few = audit_outputs({"a": leaking}, {"a": peers[:2]})["a"]
    assert (few.p0_source, few.p0, few.verdict) == ("default", THRESHOLDS.tolerated_rate, "strong")


def test_many_peers_without_matches_leave_the_default() -> None:
    peers = [peer(0, 1000, f"peer {place}") for place in range(3)]
    found = audit_outputs({"a": cell(reports(50), reports(50, seed=1))}, {"a": peers})["a"]
    assert (found.p0, found.p0_source) == (0.005, "default")


def test_peers_on_a_task_without_cases_that_count_change_nothing() -> None:
    found = audit_outputs({"a": cell(["yes"] * 50, ["yes"] * 50)}, {"a": [peer(0, 0, str(n)) for n in range(3)]})
    assert (found["a"].p0, found["a"].p0_source) == (0.005, "default")


def test_where_all_peers_match_everywhere_nothing_is_surprising() -> None:
    references = reports(50)
    same = [peer(50, 50, str(place)) for place in range(3)]
    found = audit_outputs({"a": cell(references, references)}, {"a": same})["a"]
    assert (found.p0, found.p, found.verdict, found.detectable_rate) == (1.0, 1.0, "no_evidence", None)
    assert found.p_default < 1e-50


def test_other_items_and_other_cases_are_refused() -> None:
    references = reports(30)
    ours = cell(references, references)
    fewer = cell(references[:27], references[:27])
    with pytest.raises(UsageError, match=r"3 are missing, 0 are too many; the first is 's0027'"):
        refuse_unequal("mimic-cxr", ours, fewer, "peer")
    with pytest.raises(UsageError, match="other cases"):
        refuse_unequal("mimic-cxr", ours, cell(references, references, ["p"] * 30), "peer")


def composed(draw: random.Random, sentences: list[str]) -> str:
    return " ".join(draw.sample(sentences, 3))


def composing(right: float, cases: int = 250, seed: int = 0) -> Cell:
    """Return answers of a model that knows every sentence and chooses each one rightly with a probability."""
    draw = random.Random(seed)
    pool = [f"Sentence number {place} says something of the heart." for place in range(60)]
    references = [composed(draw, pool) for _ in range(cases)]
    answers: list[str | None] = [
        " ".join(f"{one}." if draw.random() < right else draw.choice(pool) for one in reference.rstrip(".").split(". "))
        for reference in references
    ]
    return cell(references, answers)


def test_a_model_that_composes_reports_from_sentences_is_not_accused() -> None:
    flagged = [verdict_of(composing(0.4, seed=seed)).verdict for seed in range(60)]
    assert flagged.count("strong") == 0
    assert flagged.count("suspicious") <= 2
    found = verdict_of(composing(0.4))
    assert found.skill is not None
    assert found.p_skill is not None
    assert 0.35 < found.skill < 0.5
    assert found.p < 0.001
    assert found.p_skill > 0.01


def test_skill_at_sentences_does_not_hide_a_memoriser() -> None:
    honest = composing(0.2, seed=4)
    references = [item.reference or "" for item in honest.items]
    seen = random.Random(0).sample(range(250), 50)
    items = [
        replace(item, prediction=references[place].upper() if place in seen else item.prediction)
        for place, item in enumerate(honest.items)
    ]
    assert verdict_of(make_cell(items, train_references=None)).verdict == "strong"


def test_no_skill_is_read_from_few_answers() -> None:
    references = [f"It is so and so. {one}" for one in reports(30)]
    found = cell(references, references)
    assert sentence_skill(found, audit_outputs({"": found})[""].counts) is None


def test_the_planted_leak_is_found_and_the_dealt_answers_are_not() -> None:
    controls = run_controls(cell(reports(200), reports(200, seed=1)))
    assert (controls.planted_cases, controls.planted.k) == (20, 20)
    assert controls.planted.verdict == "strong"
    assert controls.shuffled.verdict == "no_evidence"
    assert controls.testable
    assert controls.outcome == "found"


def test_a_leak_that_could_not_be_found_is_not_called_missed() -> None:
    for references in (reports(20), ["yes"] * 200):
        controls = run_controls(cell(references, references))
        assert not controls.testable


def test_dealt_answers_belong_to_other_cases() -> None:
    references = reports(40)
    groups = [f"p{place // 4}" for place in range(40)]
    dealt = shuffle(cell(references, references, groups))
    assert sorted(item.said or "" for item in dealt.items) == sorted(item.right or "" for item in dealt.items)
    own = {item.right: item.group for item in dealt.items}
    assert all(own[item.said] != item.group for item in dealt.items)


def test_matches_by_chance_are_the_mean_over_all_ways_to_deal() -> None:
    references = ["a", "b", "a", "c", "b"]
    answers: list[str | None] = ["a", "a", "b", None, "b"]
    groups = ["p", "p", "q", "r", "s"]
    found = matches_by_chance(cell(references, answers, groups), 8)
    by_hand = 0.0
    for place, reference in enumerate(references):
        others = [answers[other] for other in range(5) if groups[other] != groups[place]]
        by_hand += sum(said == reference for said in others) / len(others)
    assert found["exact"] == pytest.approx(by_hand)
    assert found["long"] == 0.0


def test_evidence_holds_the_longest_the_weakest_some_at_random_and_near_misses() -> None:
    draw = random.Random(0)
    references = [report(draw, words) for words in range(10, 50)] + reports(60, seed=4)
    near = [f"{one.rstrip('.').rsplit(' ', 1)[0]} elsewhere" for one in references[40:43]]
    answers: list[str | None] = [*references[:40], *near, *reports(57, seed=5)]
    found = cell(references, answers, train=[f"Something else before. {references[39]}"])
    evidence = find_evidence(found, audit_outputs({"": found})[""].counts, [f"Before. {references[39]}"])
    reasons = [example.facts["why"] for example in evidence.examples]
    assert [reasons.count(why) for why in ("longest", "weakest", "random", "near")] == [5, 3, 5, 3]
    longest = evidence.examples[0]
    assert (longest.facts["words"], longest.facts["similarity"], longest.facts["run"]["words"]) == (49, 1.0, 49)
    assert longest.facts["nearest"] == pytest.approx(49 / 50)
    assert longest.texts["nearest training reference"] == f"Before. {references[39]}"
    assert evidence.near_matches == 3
    assert evidence.similarities[-1] == 40
    assert sum(evidence.similarities) == 100


def test_one_answer_of_a_case_without_a_reference_is_harmless() -> None:
    items = [Answered(sample_id="a", group="a", prediction="x", reference=None)]
    assert verdict_of(make_cell(items, train_references=frozenset())).verdict == "not_testable"
    assert verdict_of(make_cell([], train_references=None)).n == 0
