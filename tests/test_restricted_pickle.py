"""Pickles may hold plain data and nothing else."""

import collections
import datetime as dt
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medbench.tasks.datasets.restricted_pickle import load_plain_pickle
from medbench.tasks.foundation.errors import DataError

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
_PLAIN = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.frozensets(st.integers(), max_size=4)
        | st.sets(st.text(), max_size=4)
    ),
    max_leaves=12,
)


class _RunsOnLoad:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._reduced = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._reduced


# Protocols below 3 spell empty bytes as a class, which is refused.
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=_PLAIN, protocol=st.sampled_from([3, 4, 5]))
def test_plain_data_loads_as_it_was(tmp_path: Path, value: object, protocol: int) -> None:
    path = tmp_path / "plain.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    assert load_plain_pickle(path) == value


@pytest.mark.parametrize("protocol", range(6))
def test_the_rows_of_path_vqa_load_from_every_protocol(tmp_path: Path, protocol: int) -> None:
    rows = [{"img_id": "train_0422", "question_id": 100422000, "label": {"in the canals of hering": 1}}]
    path = tmp_path / "rows.pkl"
    path.write_bytes(pickle.dumps(rows, protocol=protocol))
    assert load_plain_pickle(path) == rows


def test_texts_of_python_2_load(tmp_path: Path) -> None:
    path = tmp_path / "old.pkl"
    path.write_bytes(b"(lp0\nS'caf\\xc3\\xa9'\np1\na.")
    assert load_plain_pickle(path) == ["café"]


@pytest.mark.parametrize(
    ("hostile", "name"),
    [
        (_RunsOnLoad(os.system, "exit 7"), "system"),
        (_RunsOnLoad(eval, "1"), "builtins.eval"),
        (_RunsOnLoad(getattr, "x", "y"), "builtins.getattr"),
        (_RunsOnLoad(bytearray, 10), "builtins.bytearray"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (dt.date(2020, 1, 1), "datetime.date"),
        (Path("x"), "PosixPath"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_every_class_and_function_is_refused_by_name(tmp_path: Path, hostile: object, name: str, protocol: int) -> None:
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps([1, hostile], protocol=protocol))
    expected = name.replace("builtins.", "") if protocol < 3 else name
    with pytest.raises(DataError) as caught:
        load_plain_pickle(path)
    assert expected in caught.value.problem
    assert str(path) in caught.value.problem
    assert "refused" in caught.value.problem


def test_nothing_runs_before_the_refusal(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps(_RunsOnLoad(os.mkdir, str(witness))))
    with pytest.raises(DataError, match="mkdir"):
        load_plain_pickle(path)
    assert not witness.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        b"\x80\x05",
        b"\x80\x63.",
        pickle.dumps(list(range(100)))[:-20],
        b"]a.",
        b"c\xff\xfe\nx\n.",
        b"S'\\x'\n.",
        b"Pid\n.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"}K\x01b.",
        b"h\x05.",
    ],
)
def test_broken_pickles_are_data_errors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.pkl"):
        load_plain_pickle(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60))
def test_random_bytes_are_plain_data_or_a_data_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "random.pkl"
    path.write_bytes(content)
    try:
        value = load_plain_pickle(path)
    except DataError:
        return
    assert type(value).__module__ == "builtins"


def test_a_missing_pickle_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.pkl"):
        load_plain_pickle(tmp_path / "nowhere.pkl")
