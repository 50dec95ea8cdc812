"""The catalogue's entry of models that vLLM serves for the time of a run; imports neither torch nor an HTTP library."""

from collections.abc import Mapping
from functools import partial

from medbench.adapters.base import AdapterEntry, Argument, answer_with_box
from medbench.adapters.described import described
from medbench.adapters.openai.entry import ARGUMENTS as OF_SERVERS
from medbench.adapters.openai.entry import BOXES, SPACES
from medbench.tasks.foundation.registry import imported_when_called

CARD, OWN_ARGUMENTS, _ = described(__file__)
# The address, the key and the kind of the server are ours.
_SETTLED = frozenset(
    {"servers", "profile", "key_env", "ca_file", "credentialed", "price_in", "price_cached", "price_out"}
)
ARGUMENTS: Mapping[str, Argument] = {
    **OWN_ARGUMENTS,
    **{name: argument for name, argument in OF_SERVERS.items() if name not in _SETTLED},
}
ENTRY = AdapterEntry(
    card=CARD, load=imported_when_called("medbench.adapters.vllm.launch:load_in_vllm"),
    parse=partial(answer_with_box, BOXES), boxes=BOXES, spaces=SPACES,
    variants={"*": "OWNER/NAME or a folder, e.g. Qwen/Qwen2.5-VL-7B-Instruct"}, arguments=ARGUMENTS,
)  # fmt: skip
