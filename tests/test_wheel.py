"""What is installed: one package, beside whatever else is called `tasks` or `adapters`."""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    [made] = folder.glob("*.whl")
    return made


def test_the_wheel_brings_one_package(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"medbench"}
    committed = subprocess.run(["git", "ls-files", "tasks", "adapters", "harness", "leaderboard", "unimed"], cwd=ROOT,
                               check=True, capture_output=True, text=True).stdout.split("\n")  # fmt: skip
    assert {f"medbench/{name}" for name in committed if name} <= set(names)


@pytest.mark.slow
def test_modules_of_the_same_names_in_the_folder_change_nothing(wheel: Path, tmp_path: Path) -> None:
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    theirs = tmp_path / "theirs"
    (theirs / "adapters").mkdir(parents=True)
    (theirs / "adapters" / "__init__.py").write_text("raise ImportError('this is AdapterHub')\n")
    (theirs / "tasks.py").write_text("raise ImportError('this is a task runner')\n")
    command = [sys.executable, "-m", "medbench", "run", "--model", "blind", "--tasks", "pubmedqa", "--limit", "3"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONSAFEPATH": ""}
    done = subprocess.run(
        command, cwd=theirs, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "PubMedQA" in done.stdout
    where = [sys.executable, "-c", "import medbench; print(medbench.__file__)"]
    found = subprocess.run(where, cwd=theirs, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.startswith(str(tmp_path / "site"))
