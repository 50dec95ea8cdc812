"""`medbench run --dry-run`: everything of a run but its answers, and nothing written."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medbench.adapters.base import Adapter, LocalAdapter
from medbench.adapters.catalog import choose_model
from medbench.harness.dry_run.preview import Preview, preview_first, preview_local, unique_images
from medbench.harness.generate import answerable
from medbench.harness.run import load_share
from medbench.harness.settings import Settings
from medbench.harness.shares import Seat, Share, shares_of, told_by
from medbench.harness.workload import TaskLoad, Workload, load_workload

if TYPE_CHECKING:
    from medbench.harness.dry_run.estimate import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class DryShare:
    """What one checkpoint would do.

    Attributes:
        title: Of the model.
        dtype: Type of its weights.
        device: Where it runs.
        share: Its tasks.
        previews: Of the tasks that it can answer.
        unsupported: Tasks that it cannot answer.
        estimate: Of time and memory; None where they are the server's, or nothing.
        notices: What a run must show loudly.
    """

    title: str
    dtype: str
    device: str
    share: Share
    previews: tuple[Preview, ...]
    unsupported: tuple[str, ...]
    estimate: "Estimate | None"
    notices: tuple[str, ...]


def dry_run(settings: Settings) -> list[DryShare]:
    """Load a model, render all prompts, measure on a few; answer nothing.

    Raises:
        MedbenchError: Whatever the run would fail with at its start.
    """
    model = choose_model(settings.model, settings.model_args)
    workload = load_workload(settings)
    workload.say_left_out()
    seat = Seat(lambda share: load_share(settings, model, workload, share))
    return [_of_share(seat.adapter(share), share, workload, settings) for share in shares_of(settings, workload)]


def _of_share(adapter: Adapter, share: Share, workload: Workload, settings: Settings) -> DryShare:
    own = workload.only(share.tasks)
    loads = answerable(own, adapter.card.kinds)
    previews, estimated = _looked_at(adapter, loads, settings)
    told = told_by(adapter)
    return DryShare(
        title=told.info.title,
        dtype=told.info.dtype,
        device=told.info.device,
        share=share,
        previews=previews,
        unsupported=tuple(load.spec.name for load in own.loads if load not in loads),
        estimate=estimated,
        notices=(*workload.notices, *told.notices),
    )


def _looked_at(
    adapter: Adapter, loads: Sequence[TaskLoad], settings: Settings
) -> tuple[tuple[Preview, ...], "Estimate | None"]:
    if not isinstance(adapter, LocalAdapter):
        return tuple(preview_first(adapter, load) for load in loads), None
    from medbench.harness.driving import choosing_of
    from medbench.harness.dry_run.estimate import estimate

    looked = [preview_local(adapter, load, choosing_of(settings, adapter)) for load in loads]
    previews = tuple(preview for preview, _ in looked)
    found = estimate(
        adapter,
        [request for _, requests in looked for request in requests],
        images=unique_images(loads),
        as_references=sum(preview.as_references for preview in previews),
        rows=settings.batch_size,
    )
    return previews, found
