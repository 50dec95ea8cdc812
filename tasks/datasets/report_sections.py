"""A chest X-ray report as free text, split into its findings and its impression.

A section starts at a line that begins with its name and a colon (`FINDINGS:`, ` Findings :`) and ends at the next
such line. Only the names listed here count, since findings may have lines of that look of their own
(`LUNGS: clear.`). Of several sections of one name the last that is not empty counts, as in the parser that
MIMIC-CXR's authors published.

A preliminary reading may stand before the report: where a line says `FINAL REPORT`
and no more, only what follows it is read.
"""

import re
from dataclasses import dataclass
from typing import Literal

SectionName = Literal["findings", "impression", "both"]

_NAMES = {
    "findings": "FINDINGS?",
    "impression": "IMPRESSIONS?|CONCLUSIONS?|IMPRESSION AND RECOMMENDATIONS?",
    "combined": r"FINDINGS?(?: AND |\s*[&/]\s*)IMPRESSIONS?|IMPRESSIONS?(?: AND |\s*[&/]\s*)FINDINGS?",
    # What else ends a section: the frequent names in MIMIC-CXR.
    "other": (
        r"ADDENDUM|ATTENDING|CLINICAL (?:HISTORY|INDICATION|INFORMATION)|COMMENTS?|COMPARISONS?"
        r"|COMPARISON (?:EXAM|FILM)|DATE|EXAM|EXAMINATION|HISTORY|INDICATIONS?|NOTIFICATION|PATIENT HISTORY|PROCEDURE"
        r"|PROVISIONAL FINDINGS IMPRESSION \(PFI\)|REASON FOR EXAM(?:INATION)?|RECOMMENDATION(?:S|\(S\))?"
        r"|REFERENCE EXAM|TECHNIQUE|TYPE OF EXAMINATION|WET READ"
    ),
}


def _header_pattern() -> re.Pattern[str]:
    # A name in small letters is the middle of a wrapped sentence.
    names = "|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _NAMES.items()).replace(" ", r"[ \t]+")
    return re.compile(rf"^[ \t]*(?=[A-Z])(?i:{names})[ \t]*:", re.MULTILINE)


_HEADER = _header_pattern()
_FINAL_REPORT = re.compile(r"^[ \t]*FINAL REPORT[ \t\r]*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ReportSections:
    """The two parts of a report that say what is seen and what it means.

    Attributes:
        findings: White space made single; empty if the report has none.
        impression: The same.
        one_section: Whether both are the text of one section (`FINDINGS AND IMPRESSION:`).
    """

    findings: str
    impression: str
    one_section: bool = False

    def text(self, section: SectionName) -> str:
        """Return the text of `section`; `both` is empty where one of the two is."""
        if section == "findings":
            return self.findings
        if section == "impression" or self.one_section:
            return self.impression
        return f"{self.findings} {self.impression}" if self.findings and self.impression else ""


def split_report(report: str) -> ReportSections:
    """Return findings and impression of a report; the marks `___` of de-identification are kept.

    A section for both at once stands for each of the two that has no section of its own.
    """
    final = _FINAL_REPORT.search(report)
    found = _sections(report[final.end() :] if final else report)
    findings, impression, combined = (found.get(kind, "") for kind in ("findings", "impression", "combined"))
    return ReportSections(
        findings=findings or combined,
        impression=impression or combined,
        one_section=bool(combined) and not findings and not impression,
    )


def _sections(text: str) -> dict[str, str]:
    headers = list(_HEADER.finditer(text))
    ends = [*(header.start() for header in headers[1:]), len(text)]
    found: dict[str, str] = {}
    for header, end in zip(headers, ends, strict=False):
        content = " ".join(text[header.end() : end].split())
        if content:
            found[header.lastgroup or ""] = content
    return found
