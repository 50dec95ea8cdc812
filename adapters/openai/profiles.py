"""What the servers understand beyond the common part of the protocol."""

from collections.abc import Mapping
from dataclasses import dataclass

from medbench.adapters.openai.address import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What may be sent to one kind of server.

    Attributes:
        name: Name on the command line.
        length_field: The field that limits the answer's tokens.
        takes_stop: Whether stop strings may be sent; elsewhere the answer is cut when it is there.
        only: Names that `extra_body` may have; empty for any.
        never: Names that `extra_body` must not have.
    """

    name: str
    length_field: str = "max_tokens"
    takes_stop: bool = True
    only: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()


_OPEN_SERVERS_ALONE = frozenset(
    {"top_k", "min_p", "repetition_penalty", "stop_token_ids", "chat_template_kwargs", "mm_processor_kwargs"}
)
PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        # The newer models refuse `max_tokens`; the older ones take both.
        Profile(name="openai", length_field="max_completion_tokens", never=_OPEN_SERVERS_ALONE),
        Profile(name="vllm"),
        Profile(name="sglang"),
        # `transformers serve` 5.23: `stop` is a 500 for models that see, other unknown fields are a 422.
        Profile(
            name="transformers",
            takes_stop=False,
            only=frozenset({"generation_config", "chat_template_kwargs", "frequency_penalty"}),
        ),
    )
}
AUTO = "auto"
_OPENAI = ("openai.com", "openai.azure.com")


def profile_of(name: str, address: Address) -> Profile:
    """Return a profile by name; `auto` is `openai` for OpenAI's and Azure's hosts and `vllm` for every other server.

    The server is not asked what it is: the same command must mean the same run whether it answers or not.
    """
    if name != AUTO:
        return PROFILES[name]
    is_openai = any(address.host == host or address.host.endswith(f".{host}") for host in _OPENAI)
    return PROFILES["openai" if is_openai else "vllm"]
