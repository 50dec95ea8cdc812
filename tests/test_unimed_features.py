"""What a training keeps beside its checkpoints: the cache of frozen features, and the log."""

import json
from pathlib import Path

import pytest
import torch

from medbench.tasks.foundation.errors import RunError
from medbench.unimed.training.corpus import FeatureCache, feature_folder, features_of
from medbench.unimed.training.folder import Tally, TrainingLog, draw_curve

SHAPE = (4, 6)
BYTES_EACH = 4 * 6 * 4


def cache_in(folder: Path, limit: int = 10**6, dtype: torch.dtype = torch.float32) -> FeatureCache:
    return FeatureCache(folder=folder, shape=SHAPE, dtype=dtype, limit=limit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_features_come_back_bit_by_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    features = torch.randn(SHAPE).to(dtype)
    cache_in(tmp_path, dtype=dtype).put("ab12", features)
    again = cache_in(tmp_path, dtype=dtype).get("ab12")
    assert again is not None
    assert torch.equal(again, features)
    assert cache_in(tmp_path, dtype=dtype).get("cd34") is None


def test_the_limit_is_kept_over_several_trainings(tmp_path: Path) -> None:
    for turn in range(3):
        cache = cache_in(tmp_path, limit=5 * BYTES_EACH)
        for number in range(4):
            cache.put(f"{turn}{number}", torch.zeros(SHAPE))
    stored = list(tmp_path.rglob("*.bin"))
    assert len(stored) == 5


def test_a_torn_file_is_computed_again(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    cache.put("ab12", torch.ones(SHAPE))
    [path] = tmp_path.rglob("*.bin")
    path.write_bytes(path.read_bytes()[:10])
    assert cache.get("ab12") is None


def test_a_folder_that_cannot_be_written_ends_the_storing_not_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    cache = cache_in(blocked)
    for digest in ("ab12", "cd34"):
        cache.put(digest, torch.ones(SHAPE))
    assert cache.get("ab12") is None
    told = capsys.readouterr().err
    assert told.count("no longer stored") == 1


def test_only_what_is_missing_is_computed(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    seen: list[int] = []

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return pixels[:, 0, :4, :6]

    pixels = torch.randn(3, 1, 8, 8)
    digests = ("aa", "bb", "cc")
    first = features_of(digests, [None] * 3, pixels, encode, cache)
    found = [cache.get(digest) for digest in digests]
    cache.folder.joinpath("bb", "bb.bin").unlink()
    found[1] = cache.get("bb")
    second = features_of(digests, found, pixels[1:2], encode, cache)
    assert seen == [3, 1]
    assert torch.equal(first, second)


def test_an_overflowed_step_is_logged_without_a_norm_and_a_full_disk_is_an_error(tmp_path: Path) -> None:
    tally = Tally()
    tally.add("slake-vqa", 1.5, samples=2, tokens=10)
    record = tally.record(1, rate=0.1, norm=float("inf"))
    with TrainingLog(tmp_path / "log.jsonl", tmp_path / "board") as log:
        log.write(record)
    assert json.loads((tmp_path / "log.jsonl").read_text())["gradient_norm"] is None
    assert (
        "not drawn" in draw_curve(tmp_path / "log.jsonl", tmp_path / "curve.svg") or (tmp_path / "curve.svg").exists()
    )
    with TrainingLog(Path("/dev/full"), tmp_path / "board") as log, pytest.raises(RunError, match="--resume"):
        log.write(record)


def test_other_weights_or_settings_are_another_folder(tmp_path: Path) -> None:
    tower = torch.nn.Linear(3, 3)
    one = feature_folder(tmp_path, tower, {"size": 224})
    assert one == feature_folder(tmp_path, tower, {"size": 224})
    assert one != feature_folder(tmp_path, tower, {"size": 448})
    with torch.no_grad():
        tower.weight[0, 0] += 1e-6
    assert one != feature_folder(tmp_path, tower, {"size": 224})
