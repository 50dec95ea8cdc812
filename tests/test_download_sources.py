"""Where datasets are to be had, what may not be fetched, and what the command says without a network."""

from dataclasses import replace
from pathlib import Path

import pytest
from native_data import NATIVE, ON_REQUEST
from test_download import OLD, run

from medbench.tasks.catalog import get_task, task_names
from medbench.tasks.download.sources import SOURCES, HubSource, ManualSource, WebSource, source_of
from medbench.tasks.foundation.errors import DataError, MedbenchError
from medbench.tasks.prepared import load_prepared


def test_every_task_has_exactly_one_source() -> None:
    assert sorted(SOURCES) == sorted(name for name in task_names() if not get_task(name).variant_of)
    assert len(SOURCES) == 12 + len(ON_REQUEST)
    for name in task_names():
        assert source_of(get_task(name)) is SOURCES[get_task(name).variant_of or name]


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_source_has_the_licence_of_its_task_or_says_why_not(name: str) -> None:
    source = SOURCES[name]
    assert source.licence == get_task(name).licence or source.licence_note


def test_declarations_are_well_formed() -> None:
    families = {source.family: source for source in SOURCES.values()}
    assert all(families[source.family] is source for source in SOURCES.values())
    for source in families.values():
        if isinstance(source, HubSource):
            assert source.revision is None or len(source.revision) == 40
            assert set(source.unpack) <= set(source.paths)
            assert source.repo.count("/") == 1
        elif isinstance(source, WebSource):
            assert all(file.url.startswith("https://") for file in source.files)
            assert {file.digest.partition(":")[0] for file in source.files} <= {"md5", "sha256"}


def test_what_may_not_be_fetched_is_not_fetched() -> None:
    by_hand = {name for name, source in SOURCES.items() if isinstance(source, ManualSource)}
    assert by_hand == {"mimic-cxr", "mpx-single", "path-vqa", *ON_REQUEST}
    assert all(get_task(name).credentialed <= (name in by_hand) for name in SOURCES)


def test_without_a_task_the_command_lists_what_it_would_do() -> None:
    shown = run()
    assert shown.exception is None
    rows = {line.split()[0]: line for line in shown.stdout.splitlines() if not line.startswith(" ")}
    assert set(task_names()) <= set(rows)
    assert "BoKelvin/SLAKE" in rows["slake-rec"]
    assert "about 216 MB" in rows["slake-rec"]
    assert "not pinned" in rows["sa-med2d-reg"]
    assert "by hand" in rows["mimic-cxr"]
    assert "medqa: the card of this copy" in shown.stderr


@pytest.mark.parametrize("name", ["mimic-cxr", "mpx-single", "path-vqa", *ON_REQUEST])
def test_by_hand_means_steps_then_the_same_command_goes_on(tmp_path: Path, name: str) -> None:
    told = run(name, "--source", tmp_path / "native", "--data-dir", tmp_path / "data")
    assert isinstance(told.exception, DataError)
    assert f"medbench data prepare {name} --source {tmp_path / 'native' / name}" in told.stdout
    assert "{folder}" not in told.stdout
    {**NATIVE, **ON_REQUEST}[name](tmp_path / "native" / name)
    assert run(name, "--source", tmp_path / "native", "--data-dir", tmp_path / "data").exception is None
    assert load_prepared(tmp_path / "data", name).manifest.counts["test"] > 0


def test_physionet_is_explained(tmp_path: Path) -> None:
    text = run("mimic-cxr", "--source", tmp_path).stdout
    for word in ("physionet.org/register", "credentialing", "CITI", "data use agreement", "annotation.json"):
        assert word in text


def test_a_task_of_somebody_else_has_steps_too() -> None:
    source = source_of(replace(get_task("slake-vqa"), name="foreign", variant_of=""))
    assert isinstance(source, ManualSource)
    assert source.family == "foreign"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["slake-vqa"], "--source"),
        (["slake-vqx", "--source", "."], "slake-vqa"),
        (["slake-vqa", "medqa", "--source", ".", "--revision", OLD], "one by one"),
        (["mimic-cxr", "--source", ".", "--revision", OLD], "no effect"),
        (["pubmedqa", "--source", ".", "--revision", OLD], "no effect"),
    ],
)
def test_mistakes_end_with_a_hint(arguments: list[str], message: str) -> None:
    mistake = run(*arguments).exception
    assert isinstance(mistake, MedbenchError)
    assert message in str(mistake)
