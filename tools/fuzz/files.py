"""What reads files: documents, run folders, predictions, datasets, pictures, arrays, archives, training data."""

import gzip
import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from export_runs import invented, write_run
from native_data import NATIVE, busi, covid_ct, mimic_raw, mpx_single, pubmedqa, sa_med2d_raw, slake, slake_download
from PIL import Image

from medbench.harness.judge import read_kept
from medbench.harness.learned import Learned
from medbench.harness.models import refuse_other_weights
from medbench.harness.predictions.formats import FORMATS, read_predictions
from medbench.harness.predictions.matching import match
from medbench.harness.predictions.rows import Source
from medbench.harness.predictions.submission import SUBMISSION_FILE, read_submission
from medbench.harness.probing.reference import Pictures, read_reference
from medbench.harness.probing.targets import Parts
from medbench.harness.results import read_results
from medbench.harness.rundir import read_run
from medbench.harness.settings import load_settings
from medbench.harness.sweep import MODELS, read_sweep
from medbench.leaderboard.audit.data.declared import read_sources
from medbench.leaderboard.audit.data.items import read_ids, row_count, training_rows
from medbench.leaderboard.export.public import public_copy, read_public
from medbench.leaderboard.numbers import read_board
from medbench.leaderboard.pages import board_as_markdown
from medbench.leaderboard.report.document import report_of
from medbench.leaderboard.runs import overlaps_in
from medbench.leaderboard.samples import labels_of, read_score_table
from medbench.leaderboard.site import collect, site_files, write_site
from medbench.tasks.catalog import get_task
from medbench.tasks.datasets.restricted_pickle import load_plain_pickle
from medbench.tasks.download.archives import extract
from medbench.tasks.download.fetch import read_record
from medbench.tasks.foundation.files import (
    decoded,
    json_value,
    parse_yaml_table,
    read_json,
    read_json_lines,
    read_numbered_json_lines,
    read_yaml_table,
    table_rows,
)
from medbench.tasks.images import array_form, image_size, open_image, open_mask, read_array
from medbench.tasks.prepare import prepare_task
from medbench.tasks.prepared import damaged_files, load_prepared
from medbench.tasks.sample import ImageRef
from medbench.tasks.suite import prepare_mini_suite
from medbench.unimed.training.recipe import load_recipe
from tools.fuzz import ROOT
from tools.fuzz.mutations import Form, zipped
from tools.fuzz.probed import ablations, probing
from tools.fuzz.workers import Reader

_TASKS = ("slake-vqa", "dermamnist")


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def documents() -> Iterator[Reader]:
    """Yield the readers of JSON, YAML and tables of any content."""
    tree = {"a": [1, 2.5, None, {"b": "text"}], "c": {"d": True}}
    yield Reader(name="files.json_value", form="json", read=lambda at: json_value((at / "input").read_bytes()), seeds=(_json(tree),),
                 share=20, declared=(ValueError,))  # fmt: skip
    yield Reader(
        name="files.read_json", form="json", read=lambda at: read_json(at / "input"), seeds=(_json(tree),), share=20
    )
    yield Reader(
        name="files.read_json_lines",
        form="lines",
        read=lambda at: list(read_json_lines(at / "input")),
        seeds=(_json(tree) + b"\n" + _json(tree),),
    )
    yield Reader(
        name="files.torn_lines",
        form="lines",
        read=lambda at: list(read_numbered_json_lines(at / "input", torn_tail="drop")),
        seeds=(_json(tree),),
    )
    text = yaml.safe_dump(tree).encode()
    yield Reader(name="files.yaml", form="yaml", read=lambda at: parse_yaml_table(decoded((at / "input").read_bytes(), "input"), "input"),
                 seeds=(text, b"a: &x [1, 2]\nb: *x\nc: {<<: {d: 1}}\n"), share=5)  # fmt: skip
    yield Reader(name="files.table", form="csv", read=lambda at: list(table_rows((at / "input").read_bytes(), "input", lambda row: len(row) == 2)),
                 seeds=(b"a,b\n1,2\n", "sep=;\na;é\n".encode("utf-16"), b'"a"\t"b\n"\n'))  # fmt: skip
    yield Reader(name="files.decoded", form="bytes", read=lambda at: decoded((at / "input").read_bytes(), "input"),
                 seeds=("aé肺".encode(), "aé".encode("utf-16"), "aé".encode("utf-32")))  # fmt: skip
    yield Reader(name="pickle", form="pickle", read=lambda at: load_plain_pickle(at / "input"), share=5,
                 seeds=tuple(pickle.dumps([{"a": "b", "n": 1, "l": [1.5, None]}] * 3, protocol=p) for p in (0, 2, 4)))  # fmt: skip


def _run(folder: Path) -> Path:
    return write_run(folder, invented(dict.fromkeys(_TASKS, 0.5), title="A"))


def _path(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.is_dir())


def _in_run(name: str, file: str, read: Callable[[Path], object], form: Form = "json", share: int = 2) -> Reader:
    """Return the reader of a file in the folder of a run."""

    def build(folder: Path) -> None:
        _run(folder).rename(folder / "run")
        (folder / "run" / "audit").mkdir()
        identity = read_run(folder / "run")["identity"]
        finding = {"task": "slake-vqa", "verdict": "strong", "text": "seen", "rate": 0.5, "examples": [{"a": "b"}]}
        audit = {
            "run": identity,
            "verdicts": {"slake-vqa": "strong"},
            "findings": [finding],
            "marks": {"slake-vqa": True},
        }
        (folder / "run" / "audit" / "audit.json").write_bytes(_json(audit))

    return Reader(name=name, form=form, read=lambda at: read(at / "run"), file=f"run/{file}", build=build, share=share)


def _table(run: Path) -> object:
    return labels_of(read_score_table(run, read_results(run), "slake-vqa"))


def _board(run: Path) -> object:
    return board_as_markdown(read_board([run])[0])


def _site(run: Path) -> object:
    return site_files(collect(run.parent, all_reports=True), "t")


def _mark(run: Path) -> None:
    write_site(run, {"index.html": "x"})


def runs() -> Iterator[Reader]:
    """Yield the readers of what a run left, which may be another's or broken."""
    for file in (
        "results.json",
        "run.yaml",
        "env.json",
        "audit/audit.json",
        "scores/slake-vqa.jsonl",
        "generations/slake-vqa.jsonl",
    ):
        form: Form = "lines" if file.endswith("jsonl") else "yaml" if file.endswith("yaml") else "json"
        for name, read in (
            ("board", _board),
            ("report", lambda run: list(report_of([run], budget=None))),
            ("site", _site),
            ("export", lambda run: public_copy(read_public(run))),
        ):
            yield _in_run(f"{name}: {file}", file, read, form, share=1)
    yield _in_run("results.json", "results.json", read_results, share=10)
    yield _in_run("run.yaml", "run.yaml", read_run, "yaml")
    yield _in_run(
        "run.yaml: settings",
        "run.yaml",
        lambda run: load_settings(run / "run.yaml", {"model": "mock", "output_dir": "x", "model_args": {}}),
        "yaml",
    )
    yield _in_run("scores", "scores/slake-vqa.jsonl", _table, "lines")
    yield from ablations()
    yield from probing()
    yield _in_run("audit of data", "audit/audit.json", lambda run: overlaps_in(run / "audit" / "audit.json"))
    yield Reader(
        name="site: mark", form="json", read=_mark, file="medbench-site.json", seeds=(_json({"files": ["a.html"]}),)
    )
    yield Reader(
        name="sweep", form="yaml", read=lambda at: read_sweep(at / "s.yaml", {}) if MODELS in read_yaml_table(at / "s.yaml") else None,
        file="s.yaml", seeds=(b"models: [blind, {model: mock, seed: [0, 1]}]\ntasks: [medqa]\nlimit: [2, 4]\n",),
    )  # fmt: skip
    said = b"name: M\ntasks: {medqa: a.csv}\nparameters: 7B\nreleased: 2024-05\ntrained_on: []\n"
    yield Reader(
        name="submission", form="yaml", read=lambda at: read_submission(at / SUBMISSION_FILE), file=SUBMISSION_FILE,
        seeds=(said,),
    )  # fmt: skip
    reply = {"key": "a", "reply": "x", "stop": "eos", "model": "m", "prompt_tokens": 1, "cost": 0.5}
    yield Reader(name="judge", form="lines", read=lambda at: read_kept(at / "input"), seeds=(_json(reply),))
    yield Reader(name="learned", form="json", read=lambda at: Learned(at / "input").known, seeds=(_json({"rows": 3}),))
    yield Reader(
        name="weights of a run",
        form="json",
        read=lambda at: refuse_other_weights(at, {"m": "x"}),
        file="weights.json",
        seeds=(_json({"m": "x"}),),
    )
    yield Reader(name="recipe", form="yaml", read=lambda at: load_recipe(str(at / "recipe.yaml"), planned=True), file="recipe.yaml",
                 seeds=tuple(file.read_bytes() for file in sorted((ROOT / "unimed" / "recipes").glob("*.yaml"))), share=3)  # fmt: skip
    yield Reader(name="sources of an audit", form="yaml", read=lambda at: read_sources(at / "s.yaml"), file="s.yaml",
                 seeds=(yaml.safe_dump({"datasets": {"d": {"tasks": ["medqa"]}}, "models": {"m": {"note": "n", "trained_on": [{"dataset": "d"}]}}}).encode(),))  # fmt: skip


_LM_EVAL = {
    "doc_id": 0, "doc": {"id": 1, "question": "q"}, "target": "1", "filter": "none", "filtered_resps": [["-1.5", "False"]],
    "resps": [[["-1.5", "False"]], [["-2.5", "True"]]],
    "arguments": {"gen_args_0": {"arg_0": "q", "arg_1": " A"}, "gen_args_1": {"arg_0": "q", "arg_1": " B"}},
}  # fmt: skip
_INSPECT = {
    "id": 1, "epoch": 1, "input": [{"role": "user", "content": [{"type": "text", "text": "q"}]}], "target": ["A"],
    "choices": ["x", "y"], "attachments": {"a": "long"},
    "output": {"completion": "attachment://a", "choices": [{"message": {"content": "x"}, "stop_reason": "stop"}]},
}  # fmt: skip


def _tables() -> Iterator[Reader]:
    task = get_task("slake-rec")
    parquet = io.BytesIO()
    pd.DataFrame([{"id": 1, "response": "x", "bbox": [1.0, 2.0, 3.0, 4.0], "image_size": [9, 9]}]).to_parquet(parquet)
    text = b'id,response,bbox,image_size\n1,"[1, 2, 3, 4]","[1, 2, 3, 4]","9, 9"\n'
    log = zipped({"header.json": b"{}", "samples/1_epoch_1.json": _json(_INSPECT)})
    seeds: dict[str, tuple[Form, bytes]] = {
        "csv": ("csv", text),
        "parquet": ("bytes", parquet.getvalue()),
        "zip": ("zip", log),
    }
    for name, (form, seed) in seeds.items():
        yield Reader(
            name=f"predictions as {name}", form=form, seeds=(seed,),
            read=lambda at: read_predictions(Source(path=at / "input"), task),
        )  # fmt: skip
    yield Reader(
        name="predictions as a run", form="lines", read=_imported, file="answers.jsonl",
        seeds=(_json({"id": "xmlab15/q1500", "question": "q", "image": "a.jpg", "response": "x", "gt": "The right bronchus"}),),
    )  # fmt: skip


def _reference(at: Path) -> object:
    some = np.arange(1)
    parts = Parts(train=some, validation=some, test=some)
    pictures = Pictures(
        task="t", names=["a"], open=lambda _: Image.new("L", (1, 1)), labels=some, classes=["x"], parts=parts,
        fingerprint="",
    )  # fmt: skip
    return read_reference(at / "input", pictures)


def _imported(at: Path) -> object:
    found = read_predictions(Source(path=at / "answers.jsonl"), get_task("slake-vqa"))
    return match(found, load_prepared(prepare_mini_suite(), "slake-vqa").samples("test"), "slake-vqa")


def predictions() -> Iterator[Reader]:
    """Yield the readers of other people's predictions and training data."""
    rows = [
        {
            "prediction": "liver",
            "reference": "liver",
            "sample_id": "a",
            "question_id": 1,
            "text": "x",
            "answer": "x",
            "pred": "a",
        }
    ]
    conversation = {
        "id": "1",
        "image": "a.jpg",
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "x"}],
    }
    for name, form in FORMATS.items():
        task = get_task("slake-vqa" if "vqa" in form.kinds else "mimic-cxr")

        def read(at: Path, name: str = name, needs: bool = form.references == "always") -> object:
            references = at / "references.jsonl" if needs else None
            return read_predictions(Source(path=at / "input", form=name, references=references), task)  # noqa: B023

        seeds = {
            "table": b"\n".join(map(_json, rows)),
            "lm-eval": _json(_LM_EVAL), "lmms-eval": _json({"doc_id": 0, "target": "x", "filtered_resps": ["y"], "input": "q"}),
            "inspect": _json({"version": 2, "status": "success", "samples": [_INSPECT]}),
            "medevalkit": _json([{"prompt": "Is it?", "response": "<answer>yes</answer>", "answer": "yes", "choices": [], "answer_type": "CLOSED"}]),
            "multimedeval": b"correct,predicted,F1,BLEU,recall,correct tokens,predicted tokens\nliver,the liver,1,1,1,a,b\n",
            "llava-med": _json({"question_id": 1, "text": "liver", "prompt": "Where?"}),
            "uni-med": _json([{"image_id": "xmlab1", "question_id": 1001, "answer_gt": "liver", "answer_pred": "the liver", "answer_type": "OPEN"}]),
        }  # fmt: skip
        forms: dict[str, Form] = {"multimedeval": "csv", "inspect": "json", "medevalkit": "json", "uni-med": "json"}
        yield Reader(
            name=f"predictions: {name}",
            form=forms.get(name, "lines"),
            read=read,
            seeds=(seeds[name],),
            build=_references,
        )
    yield from _tables()
    yield Reader(name="reference: answers", form="csv", read=_reference, seeds=(b"sample_id,prediction\na,x\n",))
    yield Reader(name="reference: accuracies", form="json", read=_reference, seeds=(_json({"t": 0.5}),))
    yield Reader(name="references: llava-med", form="lines", file="references.jsonl",
                 read=lambda at: read_predictions(Source(path=at / "input", form="llava-med", references=at / "references.jsonl"), get_task("slake-vqa")),
                 build=lambda at: (at / "input").write_bytes(_json({"question_id": 1, "text": "liver", "prompt": "Where?"})),
                 seeds=(_json({"question_id": 1, "gpt4_answer": "x", "answer": "liver", "answer_type": "OPEN", "text": "q"}),))  # fmt: skip
    yield Reader(name="training rows (lines)", form="lines", read=lambda at: [*training_rows(at / "t.jsonl", at), row_count(at / "t.jsonl")], file="t.jsonl",
                 seeds=(_json(conversation), _json({"question": "q", "answer": "a", "image_path": ["a.jpg"], "groups": {"patient": 3}})))  # fmt: skip
    yield Reader(
        name="training rows (list)",
        form="json",
        read=lambda at: list(training_rows(at / "t.json", at)),
        file="t.json",
        seeds=(_json([conversation] * 2),),
    )
    yield Reader(name="ids of samples", form="lines", read=lambda at: read_ids([at / "i.jsonl"]), file="i.jsonl",
                 seeds=(_json({"task": "dermamnist", "sample_id": "test/12", "lesion": "HAM_1"}),))  # fmt: skip


def _references(folder: Path) -> None:
    (folder / "references.jsonl").write_bytes(
        _json({"question_id": 1, "answer": "liver", "answer_type": "OPEN", "text": "q"})
    )


def _dataset(name: str, task: str, file: str, form: Form, make: Callable[[Path], object], **more: Any) -> Reader:
    share = more.pop("share", 1)
    return Reader(
        name=f"{name}: {file.rpartition('/')[2]}", form=form, file=f"native/{file}", build=lambda at: make(at / "native"),
        read=lambda at: get_task(task).reader(at / "native", more), share=share,
    )  # fmt: skip


def datasets() -> Iterator[Reader]:
    """Yield the readers of datasets, fed with each of their files in turn."""
    questions, folders = "imgs/xmlab1/question.json", ("train.txt", "test.txt")
    yield _dataset("slake", "slake-vqa", questions, "json", slake, share=4)
    yield _dataset("slake", "slake-rec", "imgs/xmlab1/detection.json", "json", slake, share=4)
    yield from (_dataset("slake", "slake-vqa", file, "text", slake) for file in folders)
    yield _dataset("slake as downloaded", "slake-vqa", "train.json", "json", slake_download, share=2)
    yield _dataset("path-vqa", "path-vqa", "qas/train_vqa.pkl", "pickle", NATIVE["path-vqa"], share=4)
    yield _dataset("mimic-cxr", "mimic-cxr", "annotation.json", "json", NATIVE["mimic-cxr"], share=4)
    yield _dataset("mimic-cxr as published", "mimic-cxr", "mimic-cxr-2.0.0-split.csv", "csv", mimic_raw, share=3)
    yield _dataset(
        "mimic-cxr as published", "mimic-cxr", "mimic-cxr-2.0.0-split.csv.gz", "bytes", _packed_split, share=3
    )
    yield _dataset(
        "mimic-cxr as published", "mimic-cxr", "files/p10/p10000001/s50000001.txt", "text", mimic_raw, share=2
    )
    yield _dataset("mpx", "mpx-single", "MedPix_single_train.csv", "csv", mpx_single, share=4)
    yield _dataset("sa-med2d", "sa-med2d-rec", "SAMed2D_v1.json", "json", lambda at: sa_med2d_raw(at, 2))
    yield _dataset(
        "sa-med2d", "sa-med2d-rec", "SAMed2D_v1_class_mapping_id.json", "json", lambda at: sa_med2d_raw(at, 2)
    )
    yield _dataset(
        "sa-med2d, a part",
        "sa-med2d-reg",
        "regions_small_train/ct/ct--Abdomen--Case_00001--z_0007.json",
        "json",
        NATIVE["sa-med2d-reg"],
        share=2,
    )
    yield _dataset("medmnist", "dermamnist", "dermamnist_224.npz", "npz", NATIVE["dermamnist"], share=4)
    yield _dataset("covid-ct", "covid-ct", "Data-split/COVID/trainCT_COVID.txt", "text", covid_ct, share=2)
    yield _dataset("busi", "busi", "benign/benign (1).png", "picture", busi)
    yield _dataset("medqa", "medqa", "questions/US/train.jsonl", "lines", NATIVE["medqa"], share=5)
    yield _dataset("pubmedqa", "pubmedqa", "ori_pqal.json", "json", pubmedqa, share=5)
    yield _dataset("pubmedqa", "pubmedqa", "test_ground_truth.json", "json", pubmedqa)
    parts: dict[str, Form] = {
        "manifest.json": "json", "test.jsonl": "lines", "skipped.jsonl": "lines", "images.sha256": "text",
    }  # fmt: skip
    for file, form in parts.items():
        yield Reader(
            name=f"prepared: {file}", form=form, file=f"data/slake-vqa/{file}", build=_prepared, read=_read_prepared,
            share=3,
        )  # fmt: skip
    yield Reader(name="download.json", form="json", read=read_record, file="download.json",
                 seeds=(_json({"source": "a", "revision": "b", "licence": "c", "files": {}, "unpacked": {}}),))  # fmt: skip


def _packed_split(folder: Path) -> None:
    mimic_raw(folder)
    plain = folder / "mimic-cxr-2.0.0-split.csv"
    plain.with_name(f"{plain.name}.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()


def _prepared(folder: Path) -> None:
    prepare_task(get_task("slake-vqa"), slake(folder / "native"), folder / "data", {})


def _read_prepared(folder: Path) -> object:
    found = load_prepared(folder / "data", "slake-vqa")
    return found.samples("test"), found.skipped, found.image_hashes, damaged_files(found)


def _pictures() -> Sequence[bytes]:
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8) * 900
    deep = Image.fromarray(grey)
    plain = Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
    forms = [
        ("PNG", deep),
        ("TIFF", deep),
        ("TIFF", Image.fromarray(grey.astype(np.float32))),
        ("PNG", plain.convert("RGBA")),
        ("PNG", plain.convert("P")),
    ]
    forms += [(form, plain) for form in ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "WEBP", "PPM")]
    found = []
    for form, image in forms:
        stream = io.BytesIO()
        image.save(stream, form)
        found.append(stream.getvalue())
    return found


def _arrays() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, train_images=np.zeros((3, 8, 8, 3), np.uint8), train_labels=np.zeros((3, 1), np.uint8))
    return stream.getvalue()


def _tar(names: Sequence[str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"text"))
    return stream.getvalue()


def _unpack(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        shutil.rmtree(folder / "out", ignore_errors=True)
        (folder / "out").mkdir()
        return extract(folder / name, folder / "out", max_bytes=10**7)

    return read


def binaries() -> Iterator[Reader]:
    """Yield the readers of pictures, arrays and archives."""
    pictures = _pictures()
    ref = ImageRef(path="input")
    yield Reader(name="images.open_image", form="picture", read=lambda at: open_image(at, ref), seeds=pictures)
    yield Reader(name="images.open_mask", form="picture", read=lambda at: open_mask(at / "input"), seeds=pictures)
    yield Reader(name="images.image_size", form="picture", read=lambda at: image_size(at / "input"), seeds=pictures)
    yield Reader(
        name="images.array_form",
        form="npz",
        read=lambda at: array_form(at / "input", "train_images"),
        seeds=(_arrays(),),
    )
    yield Reader(
        name="images.read_array",
        form="npz",
        read=lambda at: read_array(at / "input", "train_images"),
        seeds=(_arrays(),),
    )
    row = ImageRef(path="input", member="train_images", index=1)
    yield Reader(name="images.row", form="npz", read=lambda at: open_image(at, row), seeds=(_arrays(),))
    yield Reader(
        name="archives.zip",
        form="zip",
        read=_unpack("a.zip"),
        file="a.zip",
        seeds=(zipped({"a/b.txt": b"x", "c": b"y" * 300}),),
        share=3,
    )
    yield Reader(
        name="archives.tar",
        form="bytes",
        read=_unpack("a.tar.gz"),
        file="a.tar.gz",
        seeds=(_tar(["a/b", "c"]), _tar(["../x"]), _tar(["/x"])),
        share=3,
    )


def readers() -> Iterator[Reader]:
    """Yield the readers of files."""
    for room in (documents, runs, predictions, datasets, binaries):
        yield from room()
