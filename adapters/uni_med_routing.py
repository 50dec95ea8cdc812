"""How Uni-Med's connector weighs its experts while it answers: the mean over visual tokens, by kind of task."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from medbench.tasks.spec import Kind

if TYPE_CHECKING:
    import torch

_DIGITS = 4


class Routing:
    """Sums of expert weights over images."""

    def __init__(self) -> None:
        self._sums: dict[Kind, Any] = {}
        self._images: dict[Kind, int] = defaultdict(int)

    @contextmanager
    def watching(self, connector: Any, kind: Kind, *, images: int) -> Iterator[None]:  # noqa: ANN401 - unimed's module
        """Watch a connector while it projects the features of some images; of one without experts nothing is seen."""

        def note(weights: "torch.Tensor") -> None:
            seen = weights.float().cpu() * images
            self._sums[kind] = seen if kind not in self._sums else self._sums[kind] + seen
            self._images[kind] += images

        before = connector.watch
        connector.watch = note
        try:
            yield
        finally:
            connector.watch = before

    def means(self) -> dict[str, list[float]]:
        """Return the mean weights of the experts by kind; they sum to one."""
        return {
            kind: [round(float(weight), _DIGITS) for weight in total / self._images[kind]]
            for kind, total in sorted(self._sums.items())
        }
