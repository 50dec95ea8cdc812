"""What the adapters of the published families share; what they are made of: docs/design/0006-the-models.md.

Each loads its files by `load_NAME`. It, and what it calls, raises UsageError if the checkpoint, a part of it or the
device is not there, or an argument makes no sense; DataError if a file is missing or broken, or a weight missing,
unknown or of another shape; RunError if memory runs out. Converters also raise UsageError if the output is there,
RunError if it cannot be written.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from medbench.adapters.base import LocalAdapter
from medbench.tasks.foundation.errors import DataError, RunError, UsageError
from medbench.tasks.spec import Kind, TaskSpec
from medbench.unimed.tokens import SegmentTokenizer, TextCodec
from medbench.unimed.weights import LIBRARY_FAULTS

TokensT = TypeVar("TokensT", bound=TextCodec | SegmentTokenizer)
Connector = Callable[[torch.Tensor], torch.Tensor]  # Makes visual tokens [N, V, D] of features [N, V, C].


class TextAdapter(LocalAdapter, Generic[TokensT]):
    """A local adapter told by its decoder, tokenizer, files and connector; a family says what it renders and sees."""

    longest: int | None = None  # Most tokens of every answer; None for each task's own limit.
    stops: tuple[str, ...] = ()  # Texts that end an answer.

    def __init__(
        self, decoder: PreTrainedModel, tokens: TokensT, fingerprint: str, connector: Connector | None = None
    ) -> None:
        self.decoder = decoder
        self.tokens = tokens
        self.end_ids = frozenset({tokens.end})
        self.weights_fingerprint = fingerprint
        self.device = str(decoder.device)
        self.dtype = str(decoder.dtype).removeprefix("torch.")
        self._connector = connector

    def project(self, features: Sequence[torch.Tensor], kind: Kind) -> Sequence[torch.Tensor]:
        """Return visual tokens [V, D] of features [V, C]; NotImplementedError without a connector: there are none."""
        del kind
        if self._connector is None:
            raise NotImplementedError(f"{self.card.title} reads images by cross-attention.")
        return list(self._connector(torch.stack(list(features))))

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text without special tokens."""
        return self.tokens.text(ids)

    def readable(self, ids: Sequence[int]) -> str:
        """Return the text with special tokens."""
        return self.tokens.readable(ids)

    def max_new_tokens(self, spec: TaskSpec) -> int:
        """Return the authors' limit where there is one, else the task's."""
        return spec.max_new_tokens if self.longest is None else self.longest

    def stop_strings(self, spec: TaskSpec) -> tuple[str, ...]:
        """Return what ends a turn of the model's prompts."""
        del spec
        return self.stops


@contextmanager
def usable(what: str, hint: str) -> Iterator[None]:
    """Make a DataError of what a library raises of a configuration that it cannot use: `{what}: {its words}`."""
    try:
        yield
    except LIBRARY_FAULTS as error:
        raise DataError(f"{what}: {error}", hint) from error


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a folder to write to, which becomes `output` when the block ends well and vanishes when it does not."""
    if output.exists():
        raise UsageError(f"{output} is there already.", "Give another --output.")
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(output)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{output} cannot be written: {error}", "Free some space or give another --output.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
