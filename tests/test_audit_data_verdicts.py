"""From counts to a verdict of the audit of data: what is shared, what the null shares, what was not seen."""

from dataclasses import replace

import pytest

from medbench.leaderboard.audit.data.findings import Finding, Null, judge
from medbench.leaderboard.audit.document import strongest


def finding(check: str, shared: int, of: int = 1000, null: float | None = None) -> Finding:
    return Finding(check=check, title=check, state="checked", shared=shared, of=of, null=null)


DECISIVE = Null(unit="patient", decisive=True, items=1000, shares={})


LOOSE = Null(unit="image", decisive=False, items=1000, shares={})


@pytest.mark.parametrize(
    ("one", "null", "verdict"),
    [
        (finding("item", 11), None, "strong"),
        (finding("item", 10), None, "suspicious"),
        (finding("item", 0), None, "no_evidence"),
        (finding("image", 11, null=0.5), DECISIVE, "strong"),
        (finding("near_image", 30, null=0.0), DECISIVE, "strong"),
        (finding("near_image", 30, null=0.03), DECISIVE, "no_evidence"),
        (finding("near_image", 30, null=0.0), LOOSE, "suspicious"),
        (finding("near_image", 30, null=0.03), LOOSE, "suspicious"),
        (finding("text", 350, null=0.30), DECISIVE, "no_evidence"),
        (finding("text", 400, null=0.30), DECISIVE, "strong"),
        (finding("text", 40, null=0.0), DECISIVE, "no_evidence"),
        (finding("text", 900, null=0.30), LOOSE, "suspicious"),
        (finding("text", 900), None, "suspicious"),
    ],
)
def test_what_a_count_comes_to(one: Finding, null: Null | None, verdict: str) -> None:
    assert judge([one], null, 1000)[0] == verdict


@pytest.mark.parametrize("check", ["near_image", "near_item"])
def test_one_near_picture_in_sixty_is_no_strong_evidence(check: str) -> None:
    null = replace(DECISIVE, items=60)
    assert judge([finding(check, 1, of=60, null=0.0)], null, 60)[0] == "suspicious"
    assert judge([finding(check, 1, of=60, null=1 / 60)], null, 60)[0] == "no_evidence"
    assert judge([finding(check, 12, of=60, null=1 / 60)], null, 60)[0] == "strong"


@pytest.mark.parametrize("null", [DECISIVE, LOOSE])
@pytest.mark.parametrize("check", ["near_image", "near_item", "text", "near_text"])
@pytest.mark.parametrize(("of", "units", "others"), [(60, 60, 60), (60, 10, 60), (400, 400, 100)])
def test_more_found_is_never_less_and_more_in_the_null_never_more(
    check: str, null: Null, of: int, units: int, others: int
) -> None:
    order = ("no_evidence", "suspicious", "strong")
    grid = [
        [
            order.index(
                judge([finding(check, shared, of=of, null=held / others)], replace(null, items=others), units)[0]
            )
            for shared in range(of + 1)
        ]
        for held in range(0, others + 1, max(1, others // 20))
    ]
    assert all(row == sorted(row) for row in grid)
    assert all(list(column) == sorted(column, reverse=True) for column in zip(*grid, strict=True))
    assert {0, 1} <= {level for row in grid for level in row}


def test_unknown_never_turns_into_no_evidence() -> None:
    unknown = Finding(check="id:lesion", title="lesions", state="unknown", note="no ids")
    assert judge([finding("item", 0), unknown], None, 10)[0] == "not_testable"
    assert judge([finding("item", 1), unknown], None, 10)[0] == "suspicious"
    assert strongest(["no_evidence", "not_testable"]) == "not_testable"
    assert strongest(["not_testable", "suspicious"]) == "suspicious"
    assert strongest([]) == "not_testable"
    assert strongest(["no_evidence", "not_testable"], incomplete=False) == "no_evidence"
    assert strongest(["no_evidence", "no_evidence"], incomplete=True) == "not_testable"
    assert strongest(["suspicious"], incomplete=True) == "suspicious"
    assert strongest(["not_testable"], incomplete=False) == "not_testable"


def test_groups_of_a_small_share_of_items_count() -> None:
    patients = Finding(
        check="id:patient", title="patients", state="checked", shared=5, of=1000, groups=5, of_groups=100, null=0.0
    )
    assert judge([patients], DECISIVE, 100)[0] == "strong"
