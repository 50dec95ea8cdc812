"""Lets a torchvision that was built for CUDA be imported beside a torch that was not; vLLM's image classes ask for it.

Its operators are only declared: nothing that vLLM does with pictures calls one. `make test-vllm` puts this file into
the environment, with a `.pth` file that imports it whenever Python starts.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_OPERATORS = ("nms", "qnms")


class _Declaring(importlib.abc.MetaPathFinder):
    """Declares the operators just before torchvision is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in _OPERATORS:
                self.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _KEPT.append(self)
        return None


_KEPT: list[_Declaring] = []
sys.meta_path.insert(0, _Declaring())
