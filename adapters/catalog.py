"""The model catalogue: names to entries, open to other distributions."""

from adapters.base import AdapterEntry, split_model_name
from tasks.foundation.errors import UsageError
from tasks.foundation.registry import Registry

ADAPTERS: Registry[AdapterEntry] = Registry(
    "model",
    {
        "uni-med": "adapters.uni_med:ENTRY",
        "blind": "adapters.blind:ENTRY",
        "mock": "adapters.mock:ENTRY",
    },
    group="medbench.adapters",
)


def find_adapter(model: str) -> tuple[AdapterEntry, str]:
    """Return the entry and the variant of `name` or `name:variant`.

    Raises:
        UsageError: If there is no such model or no such variant of it.
    """
    name, variant = split_model_name(model)
    entry = ADAPTERS.load(name)
    if variant and "*" not in entry.variants and variant not in entry.variants:
        allowed = ", ".join(f"{name}:{word}" for word in entry.variants) or f"{name} alone"
        raise UsageError(f"The model {name!r} has no variant {variant!r}.", f"Allowed: {allowed}.")
    return entry, variant
