"""Memory that runs out while weights are loaded is a sentence, in every loader."""

import errno
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import llava_med_fixtures
import med_flamingo_fixtures
import pytest
import radfm_fixtures
import torch
import transformers
import xraygpt_fixtures
from tiny_vlms import llava

from medbench.adapters import uni_med
from medbench.adapters.base import LoadOptions
from medbench.adapters.hf.entry import ENTRY as HF
from medbench.tasks.foundation.errors import DataError, RunError
from medbench.tasks.foundation.model_files import HINT, room_for
from medbench.tasks.foundation.shortages import ran_out_of_memory

CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.OutOfMemoryError(),
        CPU,
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_every_way_to_say_it_is_one_sentence(error: Exception) -> None:
    with pytest.raises(RunError, match=r"^X does not fit into the memory that is free: \w+") as told, room_for("X"):
        raise error
    assert told.value.hint == HINT
    with pytest.raises(RunError, match="does not fit"), room_for("X"):
        raise DataError("The file cannot be read.") from error


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.ENOENT, "no file"), RuntimeError("size mismatch")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert ran_out_of_memory(error) is None
    with pytest.raises(type(error)), room_for("X"):
        raise error
    with pytest.raises(RunError, match=r"^As it was$"), room_for("X"):
        raise RunError("As it was") from MemoryError()


def _hf(folder: Path) -> Callable[[], object]:
    llava(folder)
    options = LoadOptions(variant=str(folder), device="cpu", arguments=HF.settled(str(folder), {}))
    return lambda: HF.load(options)


def _uni_med(_: Path) -> Callable[[], object]:
    return lambda: uni_med.load(LoadOptions(device="cpu"))


def _made(fixture: ModuleType, make: str) -> Callable[[Path], Callable[[], object]]:
    def prepare(folder: Path) -> Callable[[], object]:
        made = getattr(fixture, make)(folder)
        return lambda: fixture.load(made)

    return prepare


LOADERS = {
    "hf": _hf,
    "uni-med": _uni_med,
    "llava-med": _made(llava_med_fixtures, "make_v15"),
    "xraygpt": _made(xraygpt_fixtures, "make_four_files"),
    "radfm": _made(radfm_fixtures, "write_checkpoint"),
    "med-flamingo": _made(med_flamingo_fixtures, "write_checkpoint"),
}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), CPU], ids=["cuda", "cpu"])
@pytest.mark.parametrize("name", LOADERS)
def test_no_loader_ends_with_a_traceback(
    name: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def no_room(*_: object, **__: object) -> torch.Tensor:
        tried.append(name)
        raise error

    load = LOADERS[name](tmp_path / "weights")
    weight_by_weight = name in {"radfm", "med-flamingo"}
    monkeypatch.setattr(torch.Tensor if weight_by_weight else torch.nn.Module, "to", no_room)
    with pytest.raises(RunError, match="does not fit"):
        load()
    assert tried


def test_memory_that_runs_out_while_files_are_read_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = llava(tmp_path)

    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", no_room)
    with pytest.raises(RunError, match="does not fit into the memory that is free"):
        HF.load(LoadOptions(variant=str(folder), device="cpu", arguments=HF.settled(str(folder), {})))
