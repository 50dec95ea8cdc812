"""`python -m tools.notebook`: runs the notebook of the docs and keeps what its cells show."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs" / "notebook.ipynb"


def main() -> int:
    """Run all cells in an empty folder and write the notebook back; where there is a page, its plain text goes."""
    notebook = nbformat.reads(NOTEBOOK.read_text(encoding="utf-8"), as_version=4)  # type: ignore[no-untyped-call]
    with TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell["metadata"] = {}
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop("image/jpeg", None)
            if "text/html" in output.get("data", {}):
                # The plain text names the run's folder, which is another one after every edit of the code.
                output["data"] = {"text/html": output["data"]["text/html"]}
    nbformat.write(notebook, NOTEBOOK)  # type: ignore[no-untyped-call]
    return 0


if __name__ == "__main__":
    sys.exit(main())
