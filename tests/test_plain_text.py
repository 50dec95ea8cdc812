"""Plain text: what only dresses words goes, what belongs to names stays."""

import pytest
from cpu_growth import QUADRATIC, growth
from hypothesis import given, settings
from hypothesis import strategies as st

from medbench.tasks.answers.texts import plain_text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("**Yes**", "Yes"),
        ("***Yes***", "Yes"),
        ("*Liver*", "Liver"),
        ("__B__", "B"),
        ("_Option B_", "Option B"),
        ("`B`", "B"),
        ("**Answer:** B", "Answer: B"),
        ("**Answer: C", "Answer: C"),
        ("### Answer\n**B**", "Answer\nB"),
        ("* B", "B"),
        ("<b>B</b>", "B"),
        ("```json\n{}\n```", "{}"),
        ("$\\text{B}$", "B"),
        ("\\(B\\)", "B"),
        ("\\textbf{\\text{B}}", "B"),
        ("&lt;5 mm &amp; more", "<5 mm & more"),
        ("\uff22", "B"),
        ("\uff08\uff22\uff09", "(B)"),
        ("B\uff1a", "B:"),
        ("\U0001d401", "B"),
        ("T2\u2011weighted", "T2-weighted"),
        ("T1\u2013weighted", "T1-weighted"),
        ("yes\u2014it", "yes - it"),
        ("Crohn\u2019s", "Crohn's"),
        ("Crohn\u00b4s", "Crohn's"),
        ("\u201cLiver\u201d", '"Liver"'),
        ("Me\u0301nie\u0300re", "M\u00e9ni\u00e8re"),
        ("\ufb01brosis", "fibrosis"),
        ("5 \u00b5m", "5 \u03bcm"),
        ("\u200bLiver", "Liver"),
        ("10\u2075", "10^5"),
        ("10<sup>5</sup>", "10^5"),
        ("1\u00bd", "1 1/2"),
    ],
)
def test_what_dresses_words_goes(text: str, plain: str) -> None:
    assert plain_text(text) == plain


@pytest.mark.parametrize(
    "text",
    [
        "x_1",
        "left_kidney",
        "T2*",
        "T2*-weighted and T2*",
        "a*b",
        "a*b*c",
        "HLA-B*27 and HLA-B*57",
        "CD4+",
        "5-HT",
        "<5 mm",
        "> 5 mm",
        "p < 0.05",
        "p = 0.03*",
        "costs $5 and $10",
        "2**3",
        "a <b and c> d",
        "{1, 2}",
        "~5 mm",
        "50%",
        "#3",
        "5'",
    ],
)
def test_marks_of_names_and_numbers_stay(text: str) -> None:
    assert plain_text(text) == text


@given(
    st.lists(st.sampled_from(["liver", "T2*", "**bold**", "x_1", "<5", "*", "_", "`code`", "$5", "(B)", "\n", "# "]))
)
@settings(deadline=None, max_examples=300)
def test_no_word_is_deleted(words: list[str]) -> None:
    plain = plain_text(" ".join(words))
    for word in ("liver", "T2", "bold", "x_1", "5", "code", "B"):
        assert plain.count(word) >= sum(word in given_word for given_word in words)


@pytest.mark.parametrize("piece", ["*a ", "**a", "_b ", "$x ", "`a", "<b>", "\\text{", "~~", "&lt;", "\n# "])
def test_taking_markup_out_takes_linear_time(piece: str) -> None:
    assert growth(plain_text, piece) < QUADRATIC
