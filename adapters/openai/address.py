"""`MODEL@BASE-URL`: which model of which server is meant."""

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from medbench.tasks.foundation.errors import UsageError

ENDPOINT = "/chat/completions"
_MARK = "@http"
_EXAMPLE = "Write --model openai:MODEL@BASE-URL, for example openai:my-model@http://127.0.0.1:8000/v1."


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A model of a server.

    Attributes:
        model: The model's name, as the server knows it.
        base: Base URL without a slash at its end, e.g. `http://127.0.0.1:8000/v1`.
        host: Name of the server, in small letters, without the port.
        server: Name and port.
        on_this_machine: Whether it is a loopback address.
        encrypted: Whether it is spoken to by https.
    """

    model: str
    base: str
    host: str
    server: str
    on_this_machine: bool
    encrypted: bool

    @property
    def url(self) -> str:
        """Where questions go."""
        return self.base + ENDPOINT


def read_address(variant: str) -> Address:
    """Return the address in `MODEL@BASE-URL`; a base URL without a path means its `/v1`.

    Raises:
        UsageError: If it is none, or carries credentials, a query or a fragment; what may be secret is not repeated.
    """
    model, mark, rest = variant.partition(_MARK)
    if not mark or not model:
        raise UsageError("The model 'openai' needs a model's name and a server's base URL.", _EXAMPLE)
    url = _split(f"http{rest}")
    path = url.path.rstrip("/") or "/v1"
    if path.endswith(ENDPOINT):
        raise UsageError(f"The base URL ends with {ENDPOINT}, which is added to it.", f"Leave {ENDPOINT} out.")
    server = _server(url)
    return Address(
        model=model, base=f"{url.scheme}://{server}{path}", host=url.hostname or "", server=server,
        on_this_machine=_is_loopback(url.hostname or ""), encrypted=url.scheme == "https",
    )  # fmt: skip


def _split(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        # A name that cannot be looked up (an empty part, one of 64 letters) is a UnicodeError, which is a ValueError.
        usable = bool((url.hostname or "").encode("idna")) and url.port != 0
    except ValueError:
        usable = False
    if not usable or url.scheme not in {"http", "https"} or not text.isprintable() or " " in text:
        raise UsageError("The base URL of the model 'openai' is no http or https URL.", _EXAMPLE)
    if "@" in url.netloc:
        raise UsageError(
            "The base URL carries credentials, which would be written into the run's files.",
            "Leave them out; name the environment variable that holds the key: --model-arg key_env=NAME",
        )
    if url.query or url.fragment:
        raise UsageError("The base URL has a query or a fragment.", f"Leave out what follows `?` or `#`. {_EXAMPLE}")
    return url


def _server(url: SplitResult) -> str:
    name = url.hostname or ""
    name = f"[{name}]" if ":" in name else name
    return name if url.port is None else f"{name}:{url.port}"


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
