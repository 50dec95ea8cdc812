"""Reference nets learn, stop where validation says, never see labels of test samples, and go on after a stop."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, ViTConfig, ViTModel

from medbench.adapters.image_classifiers import pretrained_classifier, small_classifiers
from medbench.harness.probing import reference
from medbench.harness.probing.reference import (
    SMALL,
    Indices,
    Pictures,
    Reference,
    Stated,
    Training,
    balanced_accuracy,
    references,
)
from medbench.harness.probing.targets import Parts
from medbench.tasks.foundation.console import Meter, Silent, heard_by
from medbench.tasks.foundation.errors import DataError, MedbenchError, RunError, UsageError

CLASSES = ("blue", "green", "red")
TRAINING = Training(seeds=2, side=32)


def picture(colour: int, number: int) -> Image.Image:
    """Return a square of a channel somewhere on noise."""
    dice = np.random.default_rng(number)
    values = dice.integers(0, 90, size=(40, 48, 3), dtype=np.uint8)
    top, left = dice.integers(0, 20, size=2)
    values[top : top + 20, left : left + 20, 2 - colour] = 230
    return Image.fromarray(values)


def squares(train: int = 45, rest: int = 12) -> Pictures:
    count = train + 2 * rest
    labels = np.arange(count) % len(CLASSES)
    parts = np.split(np.arange(count), [train, train + rest])
    return Pictures(
        task="squares", names=[f"s{row}" for row in range(count)], open=lambda row: picture(int(labels[row]), row),
        labels=labels.copy(), classes=CLASSES, parts=Parts(train=parts[0], validation=parts[1], test=parts[2]),
        fingerprint="of squares",
    )  # fmt: skip


def right(pictures: Pictures) -> Indices:
    return pictures.labels[pictures.parts.test]


def write_vit(folder: Path, *, classes: int = 0) -> Path:
    """Save a tiny ViT with its image processor: as a classifier if there are classes, else without a head."""
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config: Any = ViTConfig(image_size=16, patch_size=8, **cast("Any", sizes))
    if classes:
        config.num_labels = classes
    model: Any = cast("Any", AutoModelForImageClassification).from_config(config) if classes else ViTModel(config)
    model.save_pretrained(folder)
    shape = {"height": 16, "width": 16}
    written = {
        "image_processor_type": "ViTImageProcessor",
        "size": shape,
        "image_mean": [0.5] * 3,
        "image_std": [0.2] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(written))
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vit(tmp_path_factory.mktemp("tiny") / "tiny-vit")


def only(found: tuple[Reference | Stated, ...]) -> Reference:
    assert len(found) == 1
    assert isinstance(found[0], Reference)
    return found[0]


@pytest.mark.slow
def test_small_nets_learn_coloured_squares(tmp_path: Path) -> None:
    found = references(SMALL, pictures := squares(24, 9), tmp_path, Training(seeds=1, side=32))
    assert [one.name for one in found] == ["small CNN", "small ViT"]
    for one in found:
        assert isinstance(one, Reference)
        assert one.predicted.shape == (1, 9)
        assert one.validation is not None
        assert one.validation > 0.9
        assert balanced_accuracy(right(pictures), one.predicted[0]) > 0.9


def test_small_nets_have_about_a_million_weights() -> None:
    for net in small_classifiers(5, 64):
        model = net.make()
        assert 0.7e6 < sum(one.numel() for one in model.parameters()) < 1.3e6
        assert model(net.pixels(Image.new("L", (70, 30)))[None].repeat(2, 1, 1, 1)).shape == (2, 5)


def test_labels_of_test_samples_are_not_read(vit: Path, tmp_path: Path) -> None:
    pictures = squares()
    labels = pictures.labels.copy()
    labels[pictures.parts.test] = -7
    first = only(references(str(vit), pictures, tmp_path / "a", TRAINING))
    other = only(references(str(vit), replace(pictures, labels=labels), tmp_path / "b", TRAINING))
    assert first.validation == other.validation
    assert (first.predicted == other.predicted).all()
    names = [f"tiny-vit-seed{seed}.json" for seed in (0, 1)]
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == names
    # The fingerprint too: whoever corrects a test label trains nothing anew. And the same training writes these bytes.
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_a_stopped_training_goes_on_with_the_next_seed(
    vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = only(references(str(vit), squares(), tmp_path / "a", TRAINING))
    learned, seeds = reference._learned, list[int]()

    def stopped(*given: Any) -> object:
        seeds.append(given[4])
        if seeds == [0, 1]:
            raise KeyboardInterrupt
        return learned(*given)

    monkeypatch.setattr(reference, "_learned", stopped)
    with pytest.raises(KeyboardInterrupt):
        references(str(vit), squares(), tmp_path / "b", TRAINING)
    resumed = only(references(str(vit), squares(), tmp_path / "b", TRAINING))
    assert seeds == [0, 1, 1]
    assert resumed.validation == straight.validation
    assert (resumed.predicted == straight.predicted).all()
    assert not [file for file in (tmp_path / "b").iterdir() if file.suffix != ".json"]


def _forget_pictures(pictures: Pictures) -> Pictures:
    def closed(row: int) -> Image.Image:
        raise AssertionError(row)

    return replace(pictures, open=closed)


def test_what_is_kept_opens_no_picture_and_what_changed_or_broke_is_trained_anew(vit: Path, tmp_path: Path) -> None:
    pictures, training = squares(9, 3), Training(seeds=1)
    first = only(references(str(vit), pictures, tmp_path, training))
    kept = tmp_path / "tiny-vit-seed0.json"
    again = only(references(str(vit), _forget_pictures(pictures), tmp_path, training))
    assert (first.predicted == again.predicted).all()
    whole = json.loads(kept.read_text())
    parts = replace(pictures.parts, train=pictures.parts.train[:-1])
    for other in (replace(pictures, fingerprint="x"), replace(pictures, parts=parts), replace(pictures, classes="abc")):
        with pytest.raises(AssertionError):
            references(str(vit), _forget_pictures(other), tmp_path, training)
    for broken in ("", "[]", json.dumps({**whole, "predicted": [0]}), json.dumps({**whole, "predicted": [9] * 3})):
        kept.write_text(broken)
        assert (only(references(str(vit), pictures, tmp_path, training)).predicted == first.predicted).all()
        assert json.loads(kept.read_text()) == whole


def test_the_best_epoch_on_validation_answers(vit: Path, tmp_path: Path) -> None:
    """A rate that destroys the net at the end must not cost what it could before."""
    pictures = squares()
    net = replace(pretrained_classifier(vit, len(CLASSES)), epochs=30, rate=3e-3)
    found = reference._trained(net, pictures, tmp_path, Training(seeds=1))
    kept = json.loads((tmp_path / "tiny-vit-seed0.json").read_text())
    assert 1 <= kept["epoch"] <= 30
    assert kept["validation"] == found.validation
    assert found.validation is not None
    assert found.validation > 0.9
    # Another validation chooses another epoch, of the very same training.
    labels = pictures.labels.copy()
    labels[pictures.parts.validation] = 0
    reference._trained(net, replace(pictures, labels=labels), tmp_path, Training(seeds=1))
    assert json.loads((tmp_path / "tiny-vit-seed0.json").read_text())["epoch"] < kept["epoch"]


def test_a_head_is_new_for_each_seed_and_the_rest_is_as_saved(tmp_path: Path) -> None:
    folder = write_vit(tmp_path / "vit", classes=len(CLASSES))
    net = pretrained_classifier(folder, len(CLASSES))
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(net.make().state_dict())
    saved: Any = cast("Any", AutoModelForImageClassification).from_pretrained(folder).state_dict()
    for name, tensor in saved.items():
        same = [torch.equal(state[f"model.{name}"], tensor) for state in states]
        assert same == [not name.endswith("classifier.weight")] * 3 or name == "classifier.bias"
    heads = [state["model.classifier.weight"] for state in states]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_rare_classes_weigh_as_much_as_frequent_ones(vit: Path) -> None:
    net = pretrained_classifier(vit, 3)
    labels = np.array([0] * 9 + [1])
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 3, bias=False)
    before = head.weight.detach().clone()
    pixels = torch.ones(10, 4, 1, 1)
    logits = torch.nn.functional.log_softmax(pixels.flatten(1) @ before.T, dim=1)
    by_class = [-logits[labels == one, one].mean() for one in (0, 1)]
    captured = list[float]()
    original = torch.nn.functional.cross_entropy

    def caught(*given: Any, **named: Any) -> torch.Tensor:
        loss = original(*given, **named)
        captured.append(loss.item())
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "cross_entropy", caught)
        step = reference._stepper(net, torch.nn.Sequential(torch.nn.Flatten(), head), labels, 3)
        step(pixels, labels)
        step(pixels, labels)  # The first only warms up.
    assert captured == pytest.approx([float(sum(by_class)) / 2] * 2, rel=1e-5)
    assert not torch.equal(head.weight, before)


def test_pictures_are_mirrored_only_if_asked() -> None:
    ramp = torch.arange(16.0).expand(64, 3, 16, 16)
    generator = torch.Generator().manual_seed(0)
    rising = [bool((one[0, 8].diff() >= 0).all()) for one in reference._shifted(ramp, generator, flips=False)]
    assert all(rising)
    flipped = [bool((one[0, 8].diff() <= 0).all()) for one in reference._shifted(ramp, generator, flips=True)]
    assert 10 < sum(flipped) < 54
    moved = reference._shifted(ramp, generator, flips=False)[:, 0, 8, 8] - ramp[:, 0, 8, 8]
    assert float(moved.abs().max()) <= 2.0  # An eighth of 16 pixels.
    assert float(moved.abs().max()) > 1.0


def test_balanced_accuracy_is_the_mean_recall() -> None:
    assert balanced_accuracy(np.array([0, 0, 0, 2]), np.array([0, 0, 1, 2])) == pytest.approx((2 / 3 + 1) / 2)
    assert balanced_accuracy(np.array([0] * 99 + [1]), np.array([0] * 100)) == 0.5


HEADER = "sample_id,prediction"
ANSWERS = "s12,blue\ns13,green\ns14,red"


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\ns14,red\ns12,blue\n\ns13,green\n",
        "prediction;note;sample_id\r\nblue;;s12\r\ngreen;x;s13\r\nred;y;s14",
    ],
)
def test_a_table_of_answers_is_read_in_the_order_of_the_test_samples(text: str, tmp_path: Path) -> None:
    pictures, file = squares(9, 3), tmp_path / "resnet.csv"
    file.write_text(text)
    found = only(references(str(file), pictures, tmp_path, TRAINING))
    assert (found.name, found.validation) == ("resnet.csv", None)
    assert found.predicted.tolist() == [right(pictures).tolist()] == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column 'sample_id'"),
        (f"id,prediction\n{ANSWERS}", "no column 'sample_id'"),
        (f"{HEADER}\ns12,blue\ns14,red", "lacks 1 samples that are in the test split of squares: s13."),
        (HEADER, "lacks 3 samples that are in the test split of squares: s12, s13, s14."),
        (
            "\n".join([HEADER, ANSWERS, *(f"t{one},red" for one in range(7))]),
            "has 7 samples that are not in the test split of squares: t0, t1, t2, t3, t4, and 2 more.",
        ),
        (f"{HEADER}\n{ANSWERS}\ns0,red", "has 1 samples that are not in the test split of squares: s0."),
        (f"{HEADER}\n{ANSWERS}\ns12,blue", "line 5 has a sample that an earlier line has."),
        (f"{HEADER}\ns12,purple", "line 2 has a prediction that is no class."),
        (f"{HEADER}\ns12,", "line 2 has a prediction that is no class."),
        (f"{HEADER}\ns12", "line 2 has a prediction that is no class."),
        (f"{HEADER}\ns12,red,extra", "line 2 has more cells than the header."),
        (f'{HEADER}\ns12,"red', "is not a readable CSV file"),
        ("{", "Invalid JSON"),
        ('{"squares": 91}', "less than or equal to 1"),
        ('{"squares": "0.9"}', "valid number"),
        ('{"squares": true}', "valid number"),
        ('{"squares": NaN}', "squares"),
        ('{"dermamnist": 0.9}', "says no balanced accuracy of squares."),
    ],
)
def test_a_file_that_does_not_fit_ends_as_a_sentence(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "told"
    file.write_text(text)
    with pytest.raises(DataError, match="told") as raised:
        references(str(file), squares(9, 3), tmp_path, TRAINING)
    assert said in raised.value.problem
    assert "\n" not in raised.value.problem


def test_no_bytes_at_all_or_of_no_text_end_as_a_sentence(tmp_path: Path) -> None:
    for content in (b"", b"\xff\xfe\x00", b"\x89PNG\r\n\x1a\n\x00\xff", b"sample_id,prediction\ns12,r\xe9d\n"):
        (tmp_path / "told").write_bytes(content)
        with pytest.raises(DataError):
            references(str(tmp_path / "told"), squares(9, 3), tmp_path, TRAINING)


def test_a_stated_number_comes_back_without_answers(tmp_path: Path) -> None:
    file = tmp_path / "published.json"
    file.write_text('{"dermamnist": 0.5, "squares": 1}')
    assert references(str(file), squares(9, 3), tmp_path, TRAINING) == (Stated(name="published.json", accuracy=1.0),)


_ODD_SIZES = '{"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 24}}'


def _written(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _configured(**values: object) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return write


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_without("config.json"), "configuration of"),
        (_without("preprocessor_config.json"), "has no image processor"),
        (_without("model.safetensors"), "cannot be read"),
        (_configured(model_type="llama"), "of which transformers makes no image classifier"),
        (_configured(model_type="mine", auto_map={"AutoConfig": "mine.Mine"}), "configuration of"),
        (_configured(num_hidden_layers=3), "missing: vit.layers.2"),
        (_configured(intermediate_size=40), "does not fit the configuration"),
        (_configured(image_size=32), "1 mismatched: vit.embeddings"),
        (_configured(num_hidden_layers=10**9), "from 0 to 2000 is possible"),
        (_written("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"), "Git LFS"),
        (_written("preprocessor_config.json", _ODD_SIZES), "takes no picture"),
    ],
)
def test_a_folder_that_is_not_whole_ends_as_a_sentence(
    spoil: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    spoil(write_vit(tmp_path / "vit"))
    with pytest.raises(MedbenchError) as raised:
        references(str(tmp_path / "vit"), squares(9, 3), tmp_path / "out", TRAINING)
    assert said in raised.value.problem


class OneAtATime(Silent):
    """A listener that shows one meter at a time, as a terminal does."""

    def __init__(self) -> None:
        self.done = list[tuple[str, int, int]]()
        self.open = False

    @contextmanager
    def meter(self, label: str, total: int, done: int) -> Iterator[Meter]:
        assert not self.open
        self.open = True
        counted = Counted()
        yield counted
        self.open = False
        self.done.append((label, total, done + counted.count))


class Counted(Meter):
    count = 0

    def advance(self, count: int = 1, *, label: str | None = None, status: str | None = None) -> None:
        del label, status
        self.count += count


def test_progress_is_shown_one_meter_at_a_time_to_its_end(vit: Path, tmp_path: Path) -> None:
    with heard_by(heard := OneAtATime()):
        references(str(vit), squares(9, 3), tmp_path, TRAINING)
    assert heard.done == [("squares, pictures", 15, 15), ("squares, tiny-vit", 2 * 10 * 9, 2 * 10 * 9)]


def test_a_processor_that_keeps_shapes_ends_as_a_sentence(vit: Path, tmp_path: Path) -> None:
    net = replace(pretrained_classifier(vit, 3), pixels=lambda image: torch.zeros(3, image.width, image.height))
    pictures = replace(squares(9, 3), open=lambda row: Image.new("RGB", (10 + row % 2, 10)))
    with pytest.raises(DataError, match="several sizes"):
        reference._trained(net, pictures, tmp_path, TRAINING)


def test_a_full_disk_ends_as_a_sentence(vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reference, "TemporaryFile", full)
    with pytest.raises(RunError, match="No space left on device"):
        references(str(vit), squares(9, 3), tmp_path, TRAINING)


@pytest.mark.parametrize("kind", ["nowhere", "smal", "a\0b", "x" * 5000, "~nobody-here/x"])
def test_a_reference_that_is_nothing_ends_as_a_sentence(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        references(kind, squares(9, 3), tmp_path, TRAINING)
    assert "small" in raised.value.hint


def test_sides_and_parts_are_checked(tmp_path: Path) -> None:
    for side in (0, 20, 65, 520):
        with pytest.raises(UsageError, match=str(side)):
            references(SMALL, squares(9, 3), tmp_path, Training(side=side))
    pictures = squares(9, 3)
    for part in ("train", "validation", "test"):
        parts = replace(pictures.parts, **{part: np.array([], dtype=np.intp)})
        with pytest.raises(DataError, match=f"no {part} samples"):
            references(SMALL, replace(pictures, parts=parts), tmp_path, TRAINING)
