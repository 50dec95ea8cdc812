"""Docs that are made from the code are what the code says, and what they point at exists."""

import re
import sys
from pathlib import Path

import pytest
from source_files import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import refresh

PAGES = sorted(refresh.pages())
FORBIDDEN = re.compile(r"/work/|/tmp/|/root/|pypi\.org|files\.pythonhosted")


def test_lists_and_tables_are_fresh() -> None:
    assert [page.name for page in refresh.stale_pages()] == []


def test_a_stale_section_would_be_seen() -> None:
    page = "<!-- begin:commands -->\nnothing\n<!-- end:commands -->"
    assert "medbench run" in refresh.refreshed(page)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_no_page_names_a_machine() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "Makefile"]:
        assert not FORBIDDEN.search(page.read_text(encoding="utf-8")), page


def test_the_readme_names_both_set_up_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in readme
    assert "make test" in readme
