"""Free-text reports: where findings and impression begin and end. All reports are invented."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medbench.tasks.datasets.mimic_cxr import ReportSections, split_report

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old with cough  // pneumonia?

 FINDINGS:

 The lungs are   clear. ___ was told at ___.
 The heart is normal.

 IMPRESSION:

 No acute process.

 NOTIFICATION:  Nobody was called.
"""


def test_a_usual_report_is_split_and_its_white_space_made_single() -> None:
    found = split_report(REPORT)
    assert found.findings == "The lungs are clear. ___ was told at ___. The heart is normal."
    assert found.impression == "No acute process."
    assert found.text("findings") == found.findings
    assert found.text("impression") == found.impression
    assert found.text("both") == f"{found.findings} {found.impression}"


@pytest.mark.parametrize(
    "header",
    ["FINDINGS:", " FINDINGS:", "\tFINDINGS :", "Findings:", "FINDING:", "FiNDINGS:", "FINDINGS:\r"],
)
def test_headers_of_findings(header: str) -> None:
    assert split_report(f"{header}\n Clear.\n\n COMPARISON: None.").findings == "Clear."


@pytest.mark.parametrize(
    "header",
    ["IMPRESSION:", "Impression:", "IMPRESSIONS:", "CONCLUSION:", "CONCLUSIONS :", "IMPRESSION AND RECOMMENDATIONS:"],
)
def test_headers_of_impressions(header: str) -> None:
    assert split_report(f" HISTORY: None.\n {header}1. Clear.").impression == "1. Clear."


@pytest.mark.parametrize(
    "header",
    [
        "FINDINGS AND IMPRESSION:",
        "FINDINGS/IMPRESSION:",
        "FINDINGS / IMPRESSION:",
        "FINDINGS & IMPRESSION:",
        "Findings  and  Impression:",
        "IMPRESSION/FINDINGS:",
    ],
)
def test_a_section_for_both_stands_for_each_and_counts_once(header: str) -> None:
    found = split_report(f"{header} Clear.")
    assert found == ReportSections(findings="Clear.", impression="Clear.", one_section=True)
    assert found.text("both") == "Clear."


def test_a_section_of_its_own_goes_before_the_one_for_both() -> None:
    found = split_report("FINDINGS AND IMPRESSION: All.\nCONCLUSION: Normal.")
    assert found == ReportSections(findings="All.", impression="Normal.")
    assert found.text("both") == "All. Normal."


def test_equal_findings_and_impression_are_still_two_sections() -> None:
    assert split_report("FINDINGS: Clear.\nIMPRESSION: Clear.").text("both") == "Clear. Clear."


@pytest.mark.parametrize(
    ("report", "findings", "impression"),
    [
        ("", "", ""),
        (" \n\n", "", ""),
        ("The lungs are clear.", "", ""),
        ("FINDINGS: Clear.", "Clear.", ""),
        ("IMPRESSION: Clear.", "", "Clear."),
        ("FINDINGS:\n\n IMPRESSION:\n Clear.", "", "Clear."),
        ("FINDINGS: First.\nTECHNIQUE: One view.\nFINDINGS: Second.", "Second.", ""),
        ("FINDINGS: First.\nFINDINGS:\n", "First.", ""),
    ],
)
def test_missing_empty_and_repeated_sections(report: str, findings: str, impression: str) -> None:
    found = split_report(report)
    assert (found.findings, found.impression) == (findings, impression)
    assert found.text("both") == ""


def test_only_what_follows_the_final_report_counts() -> None:
    report = " WET READ: ___\n FINDINGS: Preliminary.\n IMPRESSION: Early.\n ____\n Final Report\n IMPRESSION: Final."
    assert split_report(report) == ReportSections(findings="", impression="Final.")
    assert split_report("FINDINGS: The final report: clear.").findings == "The final report: clear."
    assert split_report("FINDINGS: Clear.\n FINAL REPORT\r\n").findings == ""
    assert split_report("FINDINGS: Clear.\n Final report to follow.").findings == "Clear. Final report to follow."


def test_lines_that_only_look_like_headers_stay_in_their_section() -> None:
    report = "FINDINGS: As in\n findings: before.\n LUNGS: Clear, see FINDINGS: above.\n Comparison: None."
    assert split_report(report).findings == "As in findings: before. LUNGS: Clear, see FINDINGS: above."


@pytest.mark.parametrize(
    "header",
    [
        "RECOMMENDATION(S):",
        "RECOMMENDATIONS:",
        "NOTIFICATION:",
        "Clinical History:",
        "REASON FOR EXAM:",
        "PROVISIONAL FINDINGS IMPRESSION (PFI):",
        "WET READ:",
        "ADDENDUM:",
        "TYPE OF EXAMINATION:",
    ],
)
def test_other_headers_end_a_section(header: str) -> None:
    assert split_report(f"IMPRESSION: Clear.\n {header} Something else.").impression == "Clear."


@given(
    findings=st.text(st.characters(exclude_characters=":", exclude_categories=["Cs"])),
    impression=st.text(st.characters(exclude_characters=":", exclude_categories=["Cs"])),
)
def test_texts_without_a_colon_come_back_whole(findings: str, impression: str) -> None:
    found = split_report(f" FINAL REPORT\n FINDINGS: {findings}\n IMPRESSION: {impression}")
    assert found.findings == " ".join(findings.split())
    assert found.impression == " ".join(impression.split())


@given(report=st.text())
def test_any_text_is_split_without_an_error(report: str) -> None:
    found = split_report(report)
    assert found.findings == " ".join(found.findings.split())
