"""What is installed is what is locked, byte for byte; a silent index is not taken for a clean bill."""

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from tools import audit_packages

ROOT = Path(__file__).parent.parent
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)", re.MULTILINE)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pins(file: str) -> dict[str, str]:
    return {_plain(name): version for name, version in PIN.findall((ROOT / file).read_text(encoding="utf-8"))}


def test_the_lock_has_the_versions_that_are_tested_and_names_no_server() -> None:
    locked, tested = _pins("requirements.lock"), _pins("constraints.txt")
    other = {name: (version, tested[name]) for name, version in locked.items() if tested.get(name, version) != version}
    assert not other, "make lock"
    # What is locked beside the tested is torch's own for GPUs, which the tests' build for CPUs does without.
    beside = {name for name in locked.keys() - tested.keys() if not name.startswith(("nvidia-", "cuda-"))}
    assert beside <= {"triton", "setuptools"}, beside
    assert "://" not in (ROOT / "requirements.lock").read_text(encoding="utf-8")


def test_every_package_that_is_asked_for_is_locked_with_a_hash() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [
        *project["dependencies"],
        *project["optional-dependencies"]["dev"],
        *project["optional-dependencies"]["docs"],
    ]
    names = {_plain(re.split(r"[<>=\[; ]", one)[0]) for one in asked}
    assert names <= _pins("requirements.lock").keys(), "make lock"
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text(encoding="utf-8").strip())
    assert [block for block in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}", block)] == []


def test_torch_is_one_whose_reader_of_weights_runs_no_code() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "torch>=2.10" in project["dependencies"]


SILENT = {"dependencies": [{"name": "jinja2", "skip_reason": "not found"}]}
WEAK = {"dependencies": [{"name": "jinja2", "version": "2.4.1", "vulns": [{"id": "PYSEC-1"}]}]}
CLEAN = {"dependencies": [{"name": "numpy", "version": "2.4.6", "vulns": []}]}


@pytest.mark.parametrize(
    ("control", "locked", "code", "told"),
    [
        (SILENT, SILENT, 0, "nothing was audited"),
        (CLEAN, CLEAN, 0, "nothing was audited"),
        ("no JSON", CLEAN, 0, "nothing was audited"),
        (WEAK, "no JSON", 0, "nothing was audited"),
        (WEAK, CLEAN, 0, "No known weakness in 1 packages"),
        (WEAK, WEAK, 1, "jinja2 2.4.1: PYSEC-1"),
    ],
)
def test_a_weakness_fails_and_a_silent_index_is_told(
    control: object, locked: object, code: int, told: str, tmp_path: Path
) -> None:
    program = tmp_path / "pip-audit"
    answers = {"--no-deps": control, "--require-hashes": locked}
    said = {word: one if isinstance(one, str) else json.dumps(one) for word, one in answers.items()}
    program.write_text(
        f"#!{sys.executable}\nimport sys\nprint({said!r}[sys.argv[-1]])\nsys.exit(1)\n", encoding="utf-8"
    )
    program.chmod(0o755)
    found = audit_packages.audit(str(program))
    assert found[0] == code
    assert told in found[1]
