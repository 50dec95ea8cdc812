"""What hostile bytes found out, each kind once: a sentence, soon, in little memory, and no code of theirs is run."""

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import llava_med_fixtures
import med_flamingo_fixtures
import numpy as np
import pytest
import radfm_fixtures
import tiny_vlms
import xraygpt_fixtures
from export_runs import invented, write_run
from in_process import Terminal
from native_data import slake
from PIL import Image

from medbench.adapters.base import LoadOptions
from medbench.adapters.catalog import ADAPTERS
from medbench.adapters.clip import read_tower_config
from medbench.adapters.hf.entry import card_of
from medbench.harness.results import read_results
from medbench.leaderboard.audit.data.items import training_rows
from medbench.leaderboard.export.public import PATH, SERVER, Scrubber
from medbench.leaderboard.samples import read_score_table
from medbench.tasks.answers.choice import read_choice
from medbench.tasks.catalog import get_task
from medbench.tasks.datasets.sa_med2d import stream_index
from medbench.tasks.foundation.errors import DataError, MedbenchError, RunError
from medbench.tasks.foundation.files import inside, read_json_object, write_atomically
from medbench.tasks.images import array_form, open_image, read_array
from medbench.tasks.sample import ImageRef
from medbench.unimed.weights import open_shards, read_torch_file, strict_from_pretrained
from tools.fuzz.mutations import zipped

EVIL = b"cos\nsystem\n(S'touch owned'\ntR."
LONG = "a" * 5000


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _npz(shape: str, content: bytes = b"", kind: str = "|u1") -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return zipped({"images.npy": b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + content})


# Texts


def test_paths_are_taken_out_of_a_text_in_a_time_that_grows_as_it_does() -> None:
    scrubber = Scrubber(roots=("/home/somebody",), secrets=())
    assert _seconds(lambda: scrubber.text("a." * 20_000)) < 0.5
    assert scrubber.text("a.b.http://host/x .s3://h at /data/x") == f"{SERVER} .{SERVER} at {PATH}"


@pytest.mark.parametrize("said", ["<answer>", "<answer>A", "\\boxed{", "a.", "A or B "])
def test_a_choice_is_read_in_a_time_that_grows_as_the_answer_does(said: str) -> None:
    choices = {"A": "warfarin", "B": "aspirin"}
    assert _seconds(lambda: read_choice(said * (40_000 // len(said)), choices)) < 0.7


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ("Kizamik", "B"),
        ("The answer is Kizamik.", "B"),
        ("KIZAMIK", "B"),
        ("K\u0131zam\u0131k", "B"),
        ("\u017f", "S"),
        ("warfarin", "A"),
    ],
)
def test_letters_that_patterns_take_for_others_bring_no_reader_down(said: str, taken: str) -> None:
    assert read_choice(said, {"A": "warfarin", "B": "K\u0131zam\u0131k", "S": "none"}) == taken


# Files


def test_names_that_no_file_can_have_are_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="too long"):
        inside(tmp_path, f"x/{LONG}.png")
    source = slake(tmp_path / "native")
    (source / "train.txt").write_text(f"xmlab1 {LONG}", encoding="utf-8")
    missing = [item.item for item in get_task("slake-vqa").reader(source, {}).skipped]
    assert f"imgs/{LONG}" in missing
    told = Terminal(capsys)("run", "--model", "mock", "--data-dir", LONG)
    assert told.code == 2
    assert "too long" in told.err
    assert "raceback" not in told.err
    assert {card_of(name).title for name in (LONG, "~nobody/x")} == {LONG, "~nobody/x"}


def test_a_text_that_no_file_can_hold_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="surrogates"):
        write_atomically(tmp_path / "x", "\ud83d")
    assert list(tmp_path.iterdir()) == []


def test_json_that_is_no_object_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.json holds a JSON list, not an object"):
        read_json_object(tmp_path / "x.json")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 50_000, "9" * 5000, '{"a": [' + "9" * 40_000 + "]}", "1e" + "9" * 5000]
)
def test_streams_of_json_are_as_bounded_as_documents(text: str, tmp_path: Path) -> None:
    (tmp_path / "i.json").write_text(text, encoding="utf-8")
    (tmp_path / "t.json").write_text(f"[{text}", encoding="utf-8")

    def read() -> None:
        with pytest.raises(DataError, match=r"i\.json"):
            list(stream_index(tmp_path / "i.json"))
        with pytest.raises(DataError, match=r"t\.json"):
            list(training_rows(tmp_path / "t.json", tmp_path))

    assert _seconds(read) < 1


# Runs


@pytest.mark.parametrize("command", ["leaderboard", "report", "export"])
def test_a_task_whose_name_leads_elsewhere_is_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_run(tmp_path, invented({"slake-vqa": 0.5}, title="A"))
    document = json.loads((path / "results.json").read_text(encoding="utf-8"))
    document["tasks"]["../../../x"] = document["tasks"]["slake-vqa"]
    (path / "results.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(DataError, match="field tasks"):
        read_results(path)
    more = ("--format", "parquet", "--output", tmp_path / "x") if command == "export" else ()
    told = Terminal(capsys)(command, path, *more)
    assert told.code == 1
    assert "field tasks" in told.err


def test_statistics_of_several_lengths_are_a_sentence(tmp_path: Path) -> None:
    path = write_run(tmp_path, invented({"slake-vqa": 0.5}, title="A"))
    file = path / "scores" / "slake-vqa.jsonl"
    first, *rest = file.read_text(encoding="utf-8").splitlines()
    record = json.loads(first)
    record["paper"]["bleu1"]["statistics"] = [1.0]
    file.write_text("\n".join([json.dumps(record), *rest]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="several lengths"):
        read_score_table(path, read_results(path), "slake-vqa")


# Pictures and arrays


@pytest.mark.parametrize("shape", ["(4000000000,)", "(60000, 224, 224, 3)", "(10**9,)", "(-1, 2)", "(3, 3"])
def test_an_array_is_no_larger_than_its_file_can_be(shape: str, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(_npz(shape))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"a\.npz"):
        read_array(tmp_path / "a.npz", "images")
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_a_header_of_an_array_is_plain_or_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(_npz("(" * 3000))
    with pytest.raises(DataError, match=r"a\.npz"):
        array_form(tmp_path / "a.npz", "images")


def test_a_picture_of_16_bits_is_painted_in_little_memory(tmp_path: Path) -> None:
    values = (np.arange(1800 * 1800, dtype=np.uint32) % 60_000).astype(np.uint16).reshape(1800, 1800)
    Image.fromarray(values).save(tmp_path / "deep.png", compress_level=1)
    tracemalloc.start()
    image = open_image(tmp_path, ImageRef(path="deep.png"))
    assert tracemalloc.get_traced_memory()[1] < 24 * values.size
    tracemalloc.stop()
    shown = np.asarray(image, dtype=np.float64)[..., 0]
    assert np.abs(shown - (values - values.min()) * (255 / (values.max() - values.min()))).max() <= 0.5


# Models


def _build(name: str, folder: Path) -> Path:
    makers: dict[str, Callable[[Path], object]] = {
        "llava-med": lambda at: llava_med_fixtures.make_v15(at, shards=1), "radfm": radfm_fixtures.write_checkpoint,
        "med-flamingo": med_flamingo_fixtures.write_checkpoint, "xraygpt": xraygpt_fixtures.make_four_files,
        "hf": tiny_vlms.llava,
    }  # fmt: skip
    makers[name](folder)
    return folder


@pytest.mark.parametrize(
    ("name", "file", "inner"),
    [
        ("llava-med", "config.json", ""),
        ("llava-med", "vision_tower/config.json", ""),
        ("radfm", "radfm.json", "language_model"),
        ("med-flamingo", "llama/config.json", ""),
        ("med-flamingo", "clip/config.json", ""),
        ("hf", "config.json", "text_config"),
        ("xraygpt", "xraygpt_sizes.json", "vision_config"),
        ("xraygpt", "Vicuna_Radiology_fp16/config.json", ""),
    ],
)
def test_no_loader_builds_a_model_of_absurd_sizes(name: str, file: str, inner: str, tmp_path: Path) -> None:
    folder = _build(name, tmp_path / "m")
    values = json.loads((folder / file).read_text(encoding="utf-8"))
    of = values[inner] if inner else values
    entry = ADAPTERS.load(name)
    variant = str(folder) if name == "hf" else ""
    options = LoadOptions(
        variant=variant, device="cpu", arguments=entry.settled(variant, {}), checkpoint=None if variant else folder
    )
    for size, number in (("num_hidden_layers", 10**9), ("num_hidden_layers", -1), ("num_attention_heads", 0)):
        before = of.get(size)
        of[size] = number
        (folder / file).write_text(json.dumps(values), encoding="utf-8")
        started = time.process_time()
        with pytest.raises(MedbenchError):
            entry.load(options)
        assert time.process_time() - started < 2
        of[size] = before


def test_a_tower_whose_patches_are_no_length_is_refused_by_the_name_of_its_file(tmp_path: Path) -> None:
    file = _build("llava-med", tmp_path / "m") / "vision_tower" / "config.json"
    for patch in ([14], 10**6):
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"patch_size": patch}), encoding="utf-8")
        with pytest.raises(MedbenchError, match=re.escape(str(file))):
            read_tower_config(file.parent, "")


def test_pickles_that_run_code_and_broken_archives_are_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    monkeypatch.chdir(tmp_path)
    folder = xraygpt_fixtures.make_language(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    for content in (
        EVIL,
        b"",
        b"\x80\x02]q\1.",
        zipped({"archive/data.pkl": EVIL, "archive/version": b"3"}),
        b"PK\5\6" + bytes(18),
    ):
        (folder / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            read_torch_file(folder / "pytorch_model.bin")
        with pytest.raises(DataError, match="cannot be read"):
            strict_from_pretrained(LlamaForCausalLM, folder)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "index", ["[]", '{"weight_map": []}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": "../x"}}']
)
def test_an_index_that_is_none_is_a_sentence(index: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    with pytest.raises(DataError):
        open_shards(tmp_path)


def test_a_shard_that_is_broken_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 8)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}', encoding="utf-8")
    shards = open_shards(tmp_path)
    with pytest.raises(DataError, match="a cannot be read"):
        shards.tensor("a")


@pytest.mark.slow
def test_on_a_terminal_too_nobody_is_asked_whether_code_may_run(tmp_path: Path) -> None:
    folder = tiny_vlms.llava(tmp_path / "m")
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    values |= {
        "model_type": "ours",
        "auto_map": {"AutoConfig": "ours.Config", "AutoModelForImageTextToText": "ours.Model"},
    }
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    (folder / "ours.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w').write('x')\n", encoding="utf-8")
    ours, theirs = pty.openpty()
    words = [
        "run",
        "--model",
        f"hf:{folder}",
        "--tasks",
        "slake-vqa",
        "--limit",
        "1",
        "--output-dir",
        str(tmp_path / "runs"),
    ]
    process = subprocess.Popen([sys.executable, "-m", "medbench", *words], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, b"y\ny\n")
    said = io.BytesIO()
    while process.poll() is None or select.select([ours], [], [], 0.2)[0]:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                said.write(os.read(ours, 4096))
            except OSError:
                break
    assert process.wait(60) == 2
    text = said.getvalue().decode(errors="replace")
    assert "never run" in " ".join(text.split())
    assert "[y/N]" not in text
    assert not (tmp_path / "owned").exists()
