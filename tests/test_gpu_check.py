"""The check for a GPU: it goes through on a CPU, and says what is missing where it is asked for the real thing."""

import pytest
import torch

from benchmarks import gpu_check


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert gpu_check.main([]) == 2
    assert "PyTorch sees no GPU here" in capsys.readouterr().err


@pytest.mark.slow
def test_its_rehearsal_finds_float32_answers_equal(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--rehearse"]) == 0
    told = capsys.readouterr().out
    for part in ("about", "equality", "agreement", "waits", "speed", "memory"):
        assert f"\n{part}  " in told
    assert "skipped" not in told
    assert "failed" not in told
