"""The catalogue's entry of served models; imports neither torch nor an HTTP library."""

from functools import partial

from medbench.adapters.base import AdapterEntry, LoadOptions, ModelCard, answer_with_box
from medbench.adapters.openai.address import read_address
from medbench.adapters.openai.messages import BOXES, SPACES
from medbench.adapters.openai.options import ARGUMENTS, read_options, with_defaults
from medbench.adapters.openai.profiles import profile_of
from medbench.adapters.openai.secret import read_key
from medbench.adapters.remote import RemoteAdapter
from medbench.tasks.foundation.errors import UsageError

CARD = ModelCard(
    name="openai",
    title="Served model",
    kinds=frozenset({"qa", "vqa", "report", "rec", "reg", "cls"}),
    weights="a server's own; nothing is loaded here",
    licence="of the served model",
)


def load(options: LoadOptions) -> RemoteAdapter:
    """Return the model `MODEL@BASE-URL` of a server; nothing is sent yet.

    Raises:
        UsageError: If the address, an argument or the key is not usable.
    """
    from medbench.adapters.openai.client import ServedModel

    address = read_address(options.variant)
    arguments = with_defaults(options.arguments)
    name = arguments["profile"]
    if name not in ARGUMENTS["profile"].choices:
        raise UsageError(f"There is no profile {name!r}.", f"Allowed: {', '.join(ARGUMENTS['profile'].choices)}.")
    profile = profile_of(name, address)
    chosen = read_options(arguments, profile)
    key = read_key(arguments["key_env"], address)
    return ServedModel(CARD, address, profile, chosen, key=key, seed=options.seed)


ENTRY = AdapterEntry(
    card=CARD,
    load=load,
    parse=partial(answer_with_box, BOXES),
    boxes=BOXES,
    spaces=SPACES,
    variants={"*": "MODEL@BASE-URL, e.g. my-model@http://127.0.0.1:8000/v1"},
    arguments=ARGUMENTS,
)
