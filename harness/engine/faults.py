"""What a model, a library or a device raises while it computes: a lack of memory, a fault, or the end of a device."""

import re
from contextlib import AbstractContextManager

from medbench.tasks.foundation.errors import MedbenchError, RunError, described
from medbench.tasks.foundation.shortages import ran_out_of_memory

KEPT = "What was answered is on disk; the same command continues."
# After these a device answers nothing more in this process. Older libraries have no type of their own for them.
_LOST = re.compile(
    r"(CUDA|HIP|cuDNN|NCCL|XPU)\b.{0,40}\berror\b|device-side assert|(CUBLAS|CUDNN)_STATUS", re.IGNORECASE
)


class DeviceError(RunError):
    """A device, or an engine, that answers nothing more in this process; in a new process it may."""

    @classmethod
    def of(cls, what: str, error: BaseException) -> "DeviceError":
        """Return the error that says what failed, and how."""
        alone = "If it ends here again, give --workers 1: a sample that takes it along is an error then, and no end."
        return cls(f"{what} failed: {described(error)}.", f"{KEPT} {alone}")


def is_lost(error: Exception) -> bool:
    """Return whether an error says that a device answers nothing more."""
    if ran_out_of_memory(error) is not None:
        return False
    return type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None
    )


class Survived(AbstractContextManager["Survived"]):
    """Notes what a model's code or a library raises in its block: `problem`, or that `memory` ran out.

    DeviceError if nothing more can be answered here. What failed is held by its error until that is let go; only then
    is there memory to give back.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self.memory = False
        self.problem = ""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        # What is not written at all is no sample's fault.
        if not isinstance(error, Exception) or isinstance(error, MedbenchError | NotImplementedError):
            return False
        if is_lost(error):
            raise DeviceError.of(f"The device {self._device}", error) from error
        self.memory = ran_out_of_memory(error) is not None
        self.problem = "" if self.memory else described(error)
        return True
