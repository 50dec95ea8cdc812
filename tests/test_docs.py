"""Docs that are made from the code are what the code says, and what they point at exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from source_files import ROOT

from medbench.tasks.catalog import get_task
from tools import docs_pages

PAGES = sorted(docs_pages.pages())
FORBIDDEN = re.compile(r"/work/|/tmp/|/root/|pypi\.org|files\.pythonhosted")


def test_lists_and_tables_are_fresh() -> None:
    # In a process of its own: click keeps the help option of whoever asked a command first.
    command = [sys.executable, "-m", "tools.docs_pages", "--check"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert checked.returncode == 0, checked.stderr


def test_a_stale_section_would_be_seen() -> None:
    page = "<!-- begin:commands -->\nnothing\n<!-- end:commands -->"
    assert "medbench run" in docs_pages.refreshed(page)


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


@pytest.mark.slow
def test_the_site_builds_and_no_link_is_broken(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert built.returncode == 0, built.stderr
    assert "medbench.run" in (tmp_path / "api.html").read_text(encoding="utf-8")


def test_the_layout_in_the_tutorial_for_own_data_is_one_that_is_read(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"question\.json\s+# (\[\{.*\}), \.\.\.\]", page)
    for name in ("case1", "case2"):
        folder = tmp_path / "imgs" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "source.jpg")
        (folder / "question.json").write_text(f"{shown}]")
    (tmp_path / "train.txt").write_text("case1\n")
    (tmp_path / "test.txt").write_text("case2\n")
    assert len(get_task("slake-vqa").reader(tmp_path, {}).samples) == 2
