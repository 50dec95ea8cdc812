"""Whatever a model says, every adapter's parser returns an answer."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medbench.adapters.catalog import ADAPTERS
from medbench.tasks.catalog import benchmark_names, get_task
from medbench.tasks.sample import Box, Sample

TEXTS = st.text(max_size=80) | st.text(alphabet="{}<>[]()0123456789.,-eE xyabloc_|\\\"'\n", max_size=80)
SIZES = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


@pytest.mark.parametrize("model", list(ADAPTERS))
@given(text=TEXTS, size=SIZES)
@settings(deadline=None, max_examples=120)
def test_no_text_breaks_a_parser(model: str, text: str, size: tuple[int, int]) -> None:
    parse = ADAPTERS.load(model).parse
    for name in benchmark_names():
        spec = get_task(name)
        sample = Sample(sample_id="1", task=name, split="test", reference="x", box=Box(0, 0, 1, 1), image_size=size)
        answer = parse(text, sample, spec)
        assert answer.text == answer.text.strip()
        assert answer.box is None or (spec.kind == "rec" and all(map(math.isfinite, answer.box)))
