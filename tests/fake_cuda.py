"""A GPU that is not there: modules and passes run on device `cuda` with tensors that have shapes and no values.

PyTorch's fake tensors refuse what would fail on a GPU (operands on two devices) and what would wait for it (reading a
value). A build for CPUs has no guard for the device, which a few lines of C++ register. Every operation is counted, and
so is every copy between host and device that the host would wait for.
"""
# ruff: noqa: ANN401 - what PyTorch hands over

import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

GPU = torch.device("cuda", 0)
_GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
static c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> guard;
static c10::impl::DeviceGuardImplRegistrar registrar(c10::DeviceType::CUDA, &guard);
"""


@cache
def _register_guard() -> None:
    """Let a build for CPUs name a GPU; needs g++, as `torch.compile` does."""
    if torch.version.cuda is not None:
        return
    if shutil.which("g++") is None:
        pytest.skip("needs g++, which compiles what lets a build for CPUs name a GPU")
    home = Path(torch.__file__).parent
    with TemporaryDirectory() as folder:
        source, library = Path(folder, "guard.cpp"), Path(folder, "guard.so")
        source.write_text(_GUARD)
        include = home / "include"
        command = ["g++", "-shared", "-fPIC", "-std=c++20", f"-I{include}", f"-I{include / 'torch/csrc/api/include'}"]
        subprocess.run([*command, source, "-o", library, f"-L{home / 'lib'}", "-lc10"], check=True)
        torch.ops.load_library(library)


class Rehearsal(TorchDispatchMode):
    """Counts what a GPU would be given, and what the host would wait for: copies, and indices that lie on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def clear(self) -> None:
        """Count anew."""
        self.operations.clear()
        self.waits.clear()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        named = dict(kwargs or {})
        result = func(*args, **named)
        own = [one for one in tree_leaves((args, named, result)) if isinstance(one, torch.Tensor)]
        # A number in a tensor of no dimensions goes along with any operation.
        devices = {one.device.type for one in own if one.dim() or one.device.type == "cuda"}
        name = str(func)
        if len(devices) > 1 and not named.get("non_blocking", False):
            self.waits[name] += 1
        # To ask for a tensor's device is nothing that a GPU does.
        if "cuda" in devices and not func.is_view and func is not torch.ops.prim.device.default:
            self.operations[name] += 1
        return result


@contextmanager
def on_fake_gpu(*modules: torch.nn.Module) -> Iterator[tuple[Callable[[Any], Any], Rehearsal]]:
    """Move modules to a GPU that is not there and compute on it; nothing of them can be used afterwards.

    Yields what makes fake tensors of real ones on the host, whatever they lie in, and the counts.
    """
    _register_guard()
    fake = FakeTensorMode()
    for module in modules:
        for part in module.modules():
            for own in (part._parameters, part._buffers):
                for name, tensor in own.items():
                    if tensor is not None and tensor.device.type != "cuda":
                        own[name] = _moved(fake, tensor)  # type: ignore[assignment]
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(fake)
        rehearsal = stack.enter_context(Rehearsal())
        yield lambda value: tree_map_only(torch.Tensor, fake.from_tensor, value), rehearsal


def _moved(fake: FakeTensorMode, tensor: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), fake:
        moved = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=GPU)
    return torch.nn.Parameter(moved, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else moved
