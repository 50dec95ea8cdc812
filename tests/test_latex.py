"""LaTeX tables: they fit, they say how, and LaTeX itself agrees."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from in_process import Terminal
from matplotlib import get_data_path
from matplotlib.ft2font import FT2Font, LoadFlags
from report_fixtures import Answer, write_run
from test_leaderboard import declared, metric, results, task

from medbench.harness.results import Results, TaskResult
from medbench.leaderboard import latex
from medbench.leaderboard.ablation.document import read_ablation
from medbench.leaderboard.ablation.pages import as_latex
from medbench.leaderboard.latex import TEXT_WIDTH, Wishes, table_as_latex
from medbench.leaderboard.numbers import Shown, Table, make_board, make_table
from medbench.leaderboard.paper import LAYOUTS, read_publication
from medbench.tasks.catalog import get_task, select_tasks
from medbench.tasks.foundation.errors import EXIT_USAGE
from medbench.tasks.protocols import metric_ids

SAID = re.compile(r"% About (\d+) of (\d+) pt")
NAMES = ("Uni-Med", "LLaVA-Med v1.5 (7B)", "gpt-x (127.0.0.1:8765)", "A_very_long_name_without_any_space")

ALL = select_tasks("all")


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


def all_tasks(value: float) -> Mapping[str, TaskResult]:
    """Return every metric of every task."""
    found = {}
    for name in ALL:
        spec = get_task(name)
        metrics = {one: metric(value) for one in metric_ids(name, spec.kind, "paper")}
        found[name] = replace(task({}), title=spec.title, kind=spec.kind, paper=metrics, strict=metrics)
    return found


def models(count: int) -> list[Results]:
    """Return so many runs of all tasks; the last is known to be zero-shot on one."""
    titles = [NAMES[place % 4] + "x" * (place // 4) for place in range(count)]
    runs = [replace(results(title, 0.5), tasks=all_tasks(0.1 + 0.07 * place)) for place, title in enumerate(titles)]
    return [*runs[:-1], declared(runs[-1], "medqa")]


def shown(count: int, wish: Shown, layout: str | None = None) -> Table:
    runs = models(count)
    leaks = {runs[0].run: frozenset({"dermamnist"})}
    return make_table(make_board(runs, leaks), "paper", shown=wish, layout=LAYOUTS[layout] if layout else None)


def cells_of(line: str) -> int:
    """Return how many columns a line of a table fills."""
    wide = sum(int(found) - 1 for found in re.findall(r"\\multicolumn\{(\d+)\}", line))
    return len(re.findall(r"(?<!\\)&", line)) + 1 + wide


def check(text: str, width: float) -> None:
    """Check that a table says that it fits, and that each of its lines fills its columns."""
    said = SAID.search(text)
    assert said is not None
    assert float(said[1]) <= width
    assert "scaled" not in text
    for head, count, column, body in re.findall(
        r"\\begin\{tabular\}\{@\{\}(l+) \*\{(\d+)\}\{(.*?)\}@\{\}\}\n(.*?)\\end\{tabular\}", text, re.DOTALL
    ):
        columns = len(head) + int(count) * (2 if column.endswith("l") else 1)
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {cells_of(line) for line in lines} == {columns}


@pytest.mark.parametrize("count", [1, 5, pytest.param(12, marks=pytest.mark.slow)])
def test_a_table_is_never_wider_than_the_text(count: int) -> None:
    for primary, intervals, rows in product((True, False), repeat=3):
        table = shown(count, Shown(primary=primary, intervals=intervals))
        check(table_as_latex(table, Wishes(models_as_rows=rows)), TEXT_WIDTH)


def test_the_papers_layouts_fit_with_five_models() -> None:
    for layout in LAYOUTS.values():
        table = shown(5, Shown(), layout.name)
        check(table_as_latex(table, Wishes(models_as_rows=layout.models_as_rows)), TEXT_WIDTH)
        check(table_as_latex(table, Wishes(models_as_rows=layout.models_as_rows, text_width=496)), 496)


def test_letters_are_measured_a_little_too_wide_never_too_narrow() -> None:
    font = FT2Font(f"{get_data_path()}/fonts/ttf/cmr10.ttf")
    font.set_size(10, 72)
    fit = latex._Fit(size="normalsize", digits=2, upright=False, beneath=False)
    for text in (
        *(spec.title for spec in map(get_task, ALL)),
        "Accuracy (closed)",
        "[96.2, 100.0]",
        "43.33",
        *NAMES[:3],
    ):
        true = sum(font.load_char(ord(letter), LoadFlags.NO_HINTING).horiAdvance / 64 for letter in text)
        assert 0.99 * true <= fit.points(text) <= 1.16 * true, text


def test_a_caption_explains_only_what_is_there() -> None:
    plain = make_table(make_board([results("A", 0.5)]), "paper", shown=Shown(intervals=False))
    text = table_as_latex(plain, Wishes(caption="Ours at 100 %", label="tab:ours"))
    assert r"\caption{Ours at 100 \%. Percentages.}" in text
    assert r"\label{tab:ours}" in text
    assert "xcolor" not in text
    assert "S[table-format=2.2]}@{}}" in text
    # In a page with two columns, in one of them, and over both.
    assert "\\begin{table}\n" in text
    assert "\\begin{table}\n" in table_as_latex(shown(2, Shown(primary=True)), Wishes(text_width=230))
    assert "\\begin{table*}\n" in table_as_latex(shown(5, Shown(primary=True)))
    marked = table_as_latex(shown(2, Shown()))
    for told in ("95 \\% intervals", "Best bold", "Shaded", "*: there is evidence", r"\usepackage[table]{xcolor}"):
        assert told in marked
    assert not [word for word in ("ceiling", "of:", "answered") if word in marked]


def test_fewer_decimals_come_before_several_blocks_unless_they_were_asked_for() -> None:
    wish = Shown(primary=True, intervals=False)
    runs = [replace(results(title, 0.5), tasks=all_tasks(0.5 + place / 10)) for place, title in enumerate("ABCDE")]
    table = make_table(make_board(runs), "paper", shown=wish)
    assert "heads upright.\n" in table_as_latex(table, Wishes(models_as_rows=True))
    assert "table-format=2.1" in table_as_latex(table, Wishes(models_as_rows=True))
    asked = table_as_latex(table, Wishes(models_as_rows=True, digits=3))
    assert "table-format=2.3" in asked
    assert "blocks of columns" in asked


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs of one model's name, and one of another that is better."""
    found = []
    for folder, title, rights in (("run-a", "Zeta", 3), ("run-b", "Beta", 6), ("run-c", "Alpha", 9)):
        answers = [Answer(sample_id=f"s{place}", text="x", score=float(place < rights)) for place in range(10)]
        found.append(write_run(tmp_path / folder, {"slake-vqa": answers, "dermamnist": answers}, title=title))
    return found


def heads(page: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.startswith("| Task"))
    return [cell.strip() for cell in line.split("|")[3:-1]]


def test_runs_are_named_and_ordered_in_every_form(terminal: Terminal, runs: list[Path]) -> None:
    def page(*words: object) -> str:
        told = terminal("leaderboard", *runs, *words)
        assert told.code == 0, told.err
        return told.out

    ours = "--name", "run-a=Our M&M"
    assert heads(page()) == ["Zeta", "Beta", "Alpha"]
    assert heads(page(*ours, "--order", "name")) == ["Alpha", "Beta", "Our M&M"]
    assert (
        heads(page(*ours, "--order", "rank")) == heads(page(*ours, "--order", "mean")) == ["Alpha", "Beta", "Our M&M"]
    )
    assert r"{\shortstack[c]{Our\\M\&M}}" in page("--format", "latex", *ours, "--no-intervals")
    assert "Our M&M" in page("--format", "csv", *ours)
    few = page("--primary", "--no-intervals", "--digits", "1", "--tasks", "cls", "--protocol", "paper")
    assert "| DermaMNIST | Accuracy | 30.0 | <u>60.0</u> | **90.0** |" in few
    assert "Slake-VQA" not in few.partition("## ")[0]
    rows = page("--models-as-rows", "--primary", "--protocol", "paper", "--order", "rank")
    assert rows.index("| Alpha |") < rows.index("| Beta |") < rows.index("| Zeta |")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--name", "run-x=A"), "'run-x' is no run of these. There are run-a (Zeta)"),
        (("--name", "run-a"), "Write --name NAME=VALUE."),
        (("--name", "run-a= "), "gives an empty name"),
        (("--caption", "x"), "--caption says nothing of markdown. It is for --format latex."),
        (("--format", "csv", "--digits", "1"), "--digits says nothing of csv."),
        (("--format", "latex", "--label", "a b"), "'a b' is no label."),
        (("--tasks", "rec"), "There is none of rec."),
    ],
)
def test_mistakes_are_told(terminal: Terminal, runs: list[Path], words: tuple[str, ...], says: str) -> None:
    told = terminal("leaderboard", *runs, *words)
    assert told.code == EXIT_USAGE
    assert says in " ".join(told.err.split())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed: no table is compiled")
def test_latex_compiles_every_layout_without_an_overfull_box(tmp_path: Path) -> None:
    table3 = make_table(None, "paper", published=[read_publication("table3")], layout=LAYOUTS["table3"])
    texts = {"published": table_as_latex(table3), "wide": table_as_latex(shown(5, Shown()), Wishes(text_width=496))}
    for count, primary, intervals, rows in product((1, 5, 12), (True, False), (True, False), (True, False)):
        table = shown(count, Shown(primary=primary, intervals=intervals))
        texts[f"{count}-{primary}-{intervals}-{rows}"] = table_as_latex(table, Wishes(models_as_rows=rows))
    texts["ablation"] = as_latex(read_ablation(Path(__file__).parent.parent / "docs/ablation/2a/ablation.json"))
    for layout in LAYOUTS.values():
        wish = Wishes(models_as_rows=layout.models_as_rows, caption="Layout of the paper")
        texts[layout.name] = table_as_latex(shown(5, Shown(), layout.name), wish)
    for name, text in texts.items():
        # What the table says it needs is all that is loaded.
        preamble = "\n".join(line[2:] for line in text.splitlines() if line.startswith(r"% \usepackage"))
        wide = "\\setlength{\\textwidth}{496pt}" if name == "wide" else ""
        (tmp_path / f"{name}.tex").write_text(
            f"\\documentclass{{article}}\n{preamble}\n{wide}\n\\begin{{document}}\n{text}\n\\end{{document}}\n",
            encoding="utf-8",
        )
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", f"{name}.tex"], cwd=tmp_path, capture_output=True, text=True,
            check=False, timeout=120, errors="replace",
        )  # fmt: skip
        assert done.returncode == 0, (name, done.stdout[-2000:])
        assert not re.findall(r"Overfull.*|.*too large.*", done.stdout), name
