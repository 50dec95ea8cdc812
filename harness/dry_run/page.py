"""What `--dry-run` shows."""

from collections.abc import Sequence
from statistics import median

from medbench.harness.dry_run.dry_run import DryShare
from medbench.harness.dry_run.estimate import Estimate
from medbench.harness.dry_run.preview import Preview

COLUMNS = ("task", "samples", "images", "prompt tokens", "longest", "answer at most", "cannot be asked")
_GIGA = 1e9
_MINUTE, _HOUR = 60, 3600


def prompts(dry: DryShare) -> str:
    """Return the first prompt of each task, as the model reads it."""
    return "\n\n".join(_prompt(preview) for preview in dry.previews if preview.first)


def _prompt(preview: Preview) -> str:
    sizes = ", ".join(f"{width} x {height}" for width, height in preview.sizes)
    facts = [f"{preview.lengths[0]} tokens"] if preview.lengths else []
    facts += [f"images {sizes}"] if sizes else []
    told = f" ({'; '.join(facts)})" if facts else ""
    return f"--- {preview.task}, sample {preview.first}{told}\n{preview.prompt}"


def rows(dry: DryShare) -> list[list[str]]:
    """Return a line for each task: how much is asked."""
    return [_row(preview) for preview in dry.previews]


def _row(preview: Preview) -> list[str]:
    lengths = preview.lengths
    return [
        preview.task,
        f"{preview.samples:,}",
        f"{preview.images:,}",
        f"{median(lengths):.0f}" if lengths else "-",
        str(max(lengths)) if lengths else "-",
        str(preview.longest_answer) if preview.longest_answer else "-",
        str(preview.failures),
    ]


def failures(dry: DryShare) -> Sequence[str]:
    """Return the first sample of each task that could not be asked."""
    return [f"{preview.task}, {preview.first_failure}" for preview in dry.previews if preview.failures]


def estimated(found: Estimate | None) -> Sequence[str]:
    """Return what time and memory are to be expected."""
    if found is None:
        return ["No estimate: nothing of this model runs here."]
    expected, most = duration(found.seconds_as_references), duration(found.seconds_at_most)
    held, more = found.held / _GIGA, found.keys_and_values / _GIGA
    return [
        f"Time: about {expected} if answers are as long as the references, {most} if all run to their limit.",
        f"      Measured on {found.probed} questions; with more in flight a run is faster.",
        f"Memory: {held:.2f} GB with the weights, up to {more:.2f} GB of keys and values (at most {found.rows} rows).",
        f"Prompts: {found.prompt_tokens:,} tokens are computed, what questions of one image share only once.",
    ]


def duration(seconds: float) -> str:
    """Return seconds for people."""
    if seconds < _MINUTE:
        return f"{max(1, round(seconds))} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"
