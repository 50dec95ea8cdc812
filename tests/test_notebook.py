"""The notebook of the docs runs from its first cell to its last, in an empty folder."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from source_files import ROOT


@pytest.mark.slow
def test_the_notebook_runs_and_shows_tables(tmp_path: Path) -> None:
    notebook = nbformat.reads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"), as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pages = [output["data"]["text/html"] for output in shown if "text/html" in output.get("data", {})]
    assert len(pages) > 6
    assert all("<table" in page for page in pages)
    assert [output["text"] for output in shown if output["output_type"] == "stream"] != []
    assert "slake-vqa" in shown[-1]["text"]
