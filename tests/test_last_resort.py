"""Whatever a command raises, its user sees a sentence, the right exit code, and where the traceback is."""

import errno
import re
from pathlib import Path

import pytest

from medbench.harness import cli
from medbench.tasks.foundation import errors
from medbench.tasks.foundation.last_resort import explained


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (ValueError("no \x1b[2J words"), r"did not foresee: ValueError: no \\x1b\[2J words .*in fails"),
        (
            OSError(errno.EIO, "Input/output error", "runs/a.jsonl"),
            "refused something: Input/output error: runs/a.jsonl",
        ),
        (OSError(errno.ENOLCK, "No locks available"), "refused something: No locks available"),
        (MemoryError(), "Memory ran out"),
        (RecursionError("maximum recursion depth exceeded"), "did not foresee: RecursionError"),
    ],
)
def test_what_nobody_foresaw_is_a_sentence(
    raised: Exception, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**_: object) -> None:
        raise raised

    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(cli.cli, "main", fails)
    assert cli.answer(["tasks"]) == errors.EXIT_FAILED
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" not in shown
    assert re.search(told, " ".join(shown.split()))
    assert "the same command continues" in " ".join(shown.split())
    kept = list(tmp_path.glob("medbench-traceback-*.txt"))
    assert len(kept) == (0 if isinstance(raised, MemoryError) else 1)
    for file in kept:
        assert file.name in "".join(shown.split())
        assert "in fails" in file.read_text(encoding="utf-8")
        assert "\x1b" not in file.read_text(encoding="utf-8")


def test_no_traceback_holds_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-0123456789")
    found = explained(ValueError("it was canary-0123456789 at https://me:canary@host"), tmp_path)
    [kept] = tmp_path.iterdir()
    for text in (found.problem, kept.read_text(encoding="utf-8")):
        assert "it was [secret] at https://[secret]@host" in text
        assert "canary" not in text


def test_a_folder_that_is_gone_keeps_nothing_and_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "gone"))
    found = explained(TypeError("of another kind"))
    assert "TypeError: of another kind" in found.problem
    assert "traceback is in" not in found.hint
