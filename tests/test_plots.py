"""Figures of runs: what is in them, the same bytes, and what is said where none can be drawn."""

import re
import sys
from pathlib import Path

import pytest
from in_process import Terminal
from report_fixtures import Answer, write_run

from medbench.leaderboard.plots import KINDS
from medbench.leaderboard.render import asset
from medbench.tasks.foundation.errors import EXIT_USAGE
from medbench.tasks.protocols import STATES

ROUTED = {"engine": {"routing": {"vqa": [0.25, 0.75], "cls": [0.5, 0.5]}}}
TASKS = ("slake-vqa", "path-vqa", "dermamnist")
NAME = "$x$ <b>&|"


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs, of which the second is better and recorded its routing."""
    found = []
    for folder, title, rights in (("run-a", "Model A", 3), ("run-b", NAME, 8)):
        answers = [
            Answer(sample_id=f"s{place}", text="x", score=float(place < rights), state=STATES[place // 9])
            for place in range(10)
        ]
        environment = ROUTED if folder == "run-b" else None
        found.append(write_run(tmp_path / folder, dict.fromkeys(TASKS, answers), title=title, environment=environment))
    return found


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_figure_keeps_text_as_text_and_has_the_same_bytes_again(
    terminal: Terminal, runs: list[Path], tmp_path: Path, kind: str
) -> None:
    pages = []
    for name in ("one.svg", "two.svg"):
        told = terminal("plot", kind, *runs, "--output", tmp_path / name, "--width", "column", "--name", "run-a=Ours")
        assert told.code == 0, told.err
        pages.append((tmp_path / name).read_text(encoding="utf-8"))
    assert pages[0] == pages[1]
    assert "$x$ &lt;b&gt;&amp;|</text>" in pages[0]
    assert (">Ours</text>" in pages[0]) == (kind != "routing")
    assert not re.search(r"\d{4}-\d{2}-\d{2}|<script|/tmp/", pages[0])
    titles = {"routing": ("vqa", "cls", "expert 2"), "coverage": ("Slake-VQA", "ok", "unparsed")}
    for text in titles.get(kind, ("BLEU-1", "protocol paper")):
        assert text in pages[0]


def test_a_run_has_the_colour_that_it_has_in_the_report(terminal: Terminal, runs: list[Path], tmp_path: Path) -> None:
    assert terminal("plot", "forest", *runs, "--output", tmp_path / "a.svg").code == 0
    drawn = (tmp_path / "a.svg").read_text(encoding="utf-8")
    light = asset("report/report.css").partition("}")[0]
    for run in (0, 1):
        assert re.findall(rf"--run-{run}: (#\w+)", light)[0] in drawn


def test_a_heatmap_has_the_best_in_bold(terminal: Terminal, runs: list[Path], tmp_path: Path) -> None:
    assert terminal("plot", "heatmap", *runs, "--tasks", "cls", "--output", tmp_path / "a.svg").code == 0
    drawn = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert re.findall(r'style="[^"]*700[^"]*"[^>]*>([\d.]+)<', drawn) == ["80.0"]
    assert "Slake-VQA" not in drawn


@pytest.mark.parametrize(("form", "start"), [("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_other_formats_have_their_fonts_and_no_date(
    terminal: Terminal, runs: list[Path], tmp_path: Path, form: str, start: bytes
) -> None:
    file = tmp_path / f"a.{form}"
    assert terminal("plot", "coverage", runs[0], "--format", form, "--output", file).code == 0
    assert file.read_bytes().startswith(start)
    assert b"CreationDate" not in file.read_bytes()
    assert (b"/FontFile2" in file.read_bytes()) == (form == "pdf")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("radar", "--tasks", "vqa"), "A radar of 2 tasks has no area. Draw three or more, or a forest."),
        (("forest", "--format", "svg", "--output", "a.pdf"), "a.pdf is no .svg. Write --output a.svg."),
        (("forest", "--output", "a.gif"), "It must end in .svg, .pdf, .png."),
        (("forest", "--tasks", "rec"), "There is none of rec."),
    ],
)
def test_mistakes_are_told(terminal: Terminal, runs: list[Path], words: tuple[str, ...], says: str) -> None:
    told = terminal("plot", words[0], *runs, *words[1:])
    assert told.code == EXIT_USAGE
    assert says in " ".join(told.err.split())
    assert not list(Path().glob("a.*"))


def test_a_run_without_routing_is_left_out_and_no_routing_is_an_error(
    terminal: Terminal, runs: list[Path], tmp_path: Path
) -> None:
    told = terminal("plot", "routing", *runs, "--output", tmp_path / "a.svg")
    assert (told.code, "Not drawn: Model A: the run recorded no routing." in told.err) == (0, True)
    told = terminal("plot", "routing", runs[0], "--output", tmp_path / "b.svg")
    assert (told.code, (tmp_path / "b.svg").exists()) == (EXIT_USAGE, False)
    assert "medbench run --model uni-med" in " ".join(told.err.split())


def test_without_matplotlib_it_is_said_what_to_install(
    terminal: Terminal, runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    told = terminal("plot", "forest", *runs)
    assert told.code == EXIT_USAGE
    assert "pip install 'medbench[plot]'" in " ".join(told.err.split())
