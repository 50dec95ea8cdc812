"""`--lora DIR`: an adapter in peft's format on the decoder of a loaded model.

peft computes it. On weights that are numbers it is merged into them; on quantised ones it stays beside them, in its own
precision, as in its training: merging would round it away.
"""

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from medbench.adapters.base import LocalAdapter
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import fingerprint, read_json
from medbench.tasks.foundation.model_files import digest_of, refuse_stand_ins, room_for
from medbench.unimed.lora import ADAPTER, ADAPTER_CONFIG, AGAIN, MERGE, adapter_file, name_on_hub, peft_lora
from medbench.unimed.weights import LIBRARY_FAULTS, read_tensors, refuse_loading_info

if TYPE_CHECKING:
    from peft import PeftConfig

Model = Any  # Any model of transformers.
AdapterT = TypeVar("AdapterT", bound=LocalAdapter)
_LONGEST = 400
_NAME = "default"  # By which peft calls an adapter inside of a model.
# Weights that trainings leave beside an adapter, and that belong to it.
_BESIDE = ("non_lora_trainables.bin", "mm_projector.bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """A LoRA as its folder holds it."""

    name: str  # Of its folder, for tables.
    base: str  # The model that it says it was trained on; empty if it does not say.
    config: "PeftConfig"
    tensors: Mapping[str, torch.Tensor]
    fingerprint: str  # Of what it adds; not of the base's name, which may be a path.

    def notices_on(self, model: str) -> tuple[str, ...]:
        """Return what must be said if it goes onto a model of another name than it was trained on."""
        own, other = (name_on_hub(one).rstrip("/").rpartition("/")[2].casefold() for one in (self.base, model))
        if not own or not other or own == other:
            return ()
        return (f"The adapter {self.name} says that it was trained on {self.base}; it goes onto {model} here.",)


@contextmanager
def without_kernels() -> Iterator[None]:
    """Import peft, and bitsandbytes with it, which would let `kernels` fetch code of the Hub to run on some CPUs."""
    hidden = "kernels" not in sys.modules
    if hidden:
        sys.modules["kernels"] = None  # type: ignore[assignment]  # Python's own way to say that there is none
    try:
        yield
    finally:
        if hidden:
            del sys.modules["kernels"]


def read_low_rank(folder: Path) -> LowRank:
    """Return the LoRA of a folder; nothing in it is run.

    UsageError if it holds another adapter, or weights beside it that would be left out; DataError if a file is missing
    or broken.
    """
    file, told = adapter_file(folder), folder / ADAPTER_CONFIG
    if missing := [one.name for one in (told, file) if not one.is_file()]:
        problem = f"{folder} holds no adapter of peft: {', '.join(missing)} missing."
        hint = f"Give a folder with {ADAPTER_CONFIG} and {ADAPTER}, as peft's `save_pretrained` does."
        raise UsageError(problem, hint)
    if beside := [name for name in _BESIDE if (folder / name).is_file()]:
        raise UsageError(f"{folder} holds {', '.join(beside)}, weights that `--lora` would leave out.", MERGE)
    refuse_stand_ins(told, file)
    values = read_json(told)
    with without_kernels():
        # As drawn or as trained, all of it is read from the file.
        config = replace(peft_lora(folder), init_lora_weights=True, inference_mode=True)
    return LowRank(
        name=folder.resolve().name, base=str(values.get("base_model_name_or_path") or ""), config=config,
        tensors=read_tensors(file, AGAIN),
        fingerprint=fingerprint({"config": values | {"base_model_name_or_path": None}, "weights": digest_of(file)}),
    )  # fmt: skip


def put_on(model: Model, adapter: LowRank, *, merge: bool) -> Model:
    """Put a LoRA onto a model and return the model, with all of its weights or none; old names are understood.

    `merge` folds it into the weights. DataError if it names layers that are not there, has other shapes, or lacks or
    leaves over a weight, or adds what is no number.
    """
    from peft import PeftModel, set_peft_model_state_dict

    whose = f"The adapter {adapter.name}"
    try:
        with warnings.catch_warnings():
            # What peft warns of here is compared below, or is said by `notices_on`.
            warnings.simplefilter("ignore")
            wrapped: Any = PeftModel(model, adapter.config)
            left: Any = set_peft_model_state_dict(wrapped, dict(adapter.tensors))
            own = {name for name in left.missing_keys if _NAME in name.split(".")}
            refuse_loading_info(whose, {"missing_keys": own, "unexpected_keys": left.unexpected_keys})
            plain = wrapped.merge_and_unload(safe_merge=True) if merge else wrapped.get_base_model()
    except LIBRARY_FAULTS as error:
        said = " ".join(str(error).split())[:_LONGEST]
        raise DataError(f"{whose} does not fit the model: {said}", "Give an adapter of this very model.") from error
    return plain.eval().requires_grad_(requires_grad=False)


def with_lora(adapter: AdapterT, folder: Path | None) -> AdapterT:
    """Return a loaded model with the LoRA of a folder, if one was given, merged into its decoder; see `put_on`."""
    if folder is None:
        return adapter
    lora = read_low_rank(folder)
    with room_for(f"The adapter {lora.name}"):
        put_on(adapter.decoder, lora, merge=True)
    note(adapter, lora, adapter.decoder.name_or_path or "")
    return adapter


def note(adapter: LocalAdapter, lora: LowRank, base: str) -> None:
    """Let a model say that a LoRA is on it: who trained that, and on what, nobody has said."""
    adapter.card = replace(adapter.card, title=f"{adapter.card.title} + {lora.name}", trained_on=None)
    adapter.weights_fingerprint = fingerprint({"base": adapter.weights_fingerprint, "lora": lora.fingerprint})
    adapter.notices = (*adapter.notices, *lora.notices_on(base))
