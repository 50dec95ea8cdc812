"""What servers say when they refuse a question, and what can be done about it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# A model that sees nothing, in the words of vLLM, SGLang, TensorRT-LLM, llama.cpp, Ollama, OpenAI, and of servers whose
# messages hold text alone.
_SEES_NOTHING = re.compile(
    r"""not\s+(?:a\s+)?(?:multi-?modal|vision)|(?:does|do|did|can)\s?(?:not|n'?t)\s+(?:currently\s+|yet\s+)?(?:support|accept|take|handle|allow|understand|see)\b
           .{0,60}(?:images?\b|image_url|vision|visual|multi-?modal|pictures?\b)
       |(?:images?\b|image_url|vision|multi-?modal|pictures?\b)(?:(?!size|resolution|format|dimension|pixel|large).){0,60}
           (?:not\s+(?:supported|enabled|allowed|available)|unsupported|isn'?t\s+supported|only\s+supported\s+by)
       |at\s+most\s+0\s+image|unknown\s+(?:variant|(?:content\s+|part\s+)?type)\W+image|(?:invalid|unsupported)\s+content\s+type\W.{0,20}image
       |missing\s+data\s+required\s+for\s+image|mmproj|support\s+image\s+input|only\s+(?:supports?\s+)?'?text'?\s+(?:content|inputs?|parts?)
       |text-only\s+model|unexpected\s+item\s+type\s+in\s+content|content\W+must\s+be\s+a\s+string""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)  # fmt: skip
_TOO_MANY = re.compile(r"at\s+most\s+[1-9]\d*\s+(?:image|picture)|too\s+many\s+(?:images|pictures)", re.IGNORECASE)
_PICTURE_TOO_LARGE = re.compile(
    r"(?:image|picture|payload|request|body)\b.{0,60}(?:too\s+large|too\s+big|exceeds?\b.{0,40}(?:\bMi?B\b|bytes|pixels|size))",
    re.IGNORECASE | re.DOTALL,
)
_TOO_LONG = re.compile(
    r"""maximum\s+(?:context|model|sequence|input)\s+length|context[_\s](?:length|size|window)|max_model_len|max_seq_len
       |(?:prompt|inputs?(?:_ids)?|messages?)\b.{0,60}(?:too\s+long|longer\s+than|exceeds?\b)|too\s+many\s+tokens
       |inputs?\W+must\s+have\s+less
       |tokens?.{0,20}\+.{0,30}max_(?:new_|completion_)?tokens|reduce\s+(?:the\s+)?(?:length|your\s+prompt)
       |max_(?:completion_)?tokens\W+must\s+be\s+(?:at\s+least|greater)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_NOT_TAKEN = re.compile(
    r"""(?:un|not\s|n'?t\s|no\s+longer\s)support|unrecogni[sz]ed|unexpected|unknown|extra\s+(?:inputs|fields)|not\s+permitted
       |not\s+allowed|deprecated|invalid|must\s+be|only\s.{0,40}(?:default|support)|cannot\s+be|instead""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_TOO_MUCH = re.compile(
    r"too\s+(?:large|high|big)|at\s+most|maximum|less\s+than|<=?|exceed|greater\s+than", re.IGNORECASE
)
_STREAMS_ONLY = re.compile(
    r"only\s+supports?\s+(?:the\s+)?stream|stream\w*\s+(?:mode\s+)?(?:is\s+)?(?:required|must)|must\s+(?:be\s+)?(?:set\s+)?stream"
    r"|enable\s+the\s+stream|non-?stream\w*\b.{0,60}not\s+(?:supported|allowed)|requires?\s+stream", re.IGNORECASE,
)  # fmt: skip
_NO_SYSTEM = re.compile(r"system\s+(?:role|message|prompt)|roles\s+must\s+alternate", re.IGNORECASE)
_FILTERED = re.compile(
    r"content[_ ]?(?:filter|policy|management|moderation)|responsible\s?ai"
    r"|data_?inspection_?failed|inappropriate\s+content|prohibited[_ ]content|moderation[_ ]blocked|\bflagged\b"
    r"|safety\s+(?:system|filter|settings)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked of a server, as far as its refusal may be about it.

    Attributes:
        length_field: The field that limited the answer.
        limit: Longest answer in tokens.
        pictures: How many pictures were sent.
        fields: Names of the user's own fields.
        system: Whether a system prompt was sent.
    """

    length_field: str = "max_tokens"
    limit: int = 0
    pictures: int = 0
    fields: frozenset[str] = field(default_factory=frozenset)
    system: bool = False


def cannot_see(said: str, asked: Asked) -> bool:
    """Return whether a server says that its model takes no pictures."""
    return bool(asked.pictures and _SEES_NOTHING.search(said) and not _TOO_MANY.search(said))


def too_long(said: str) -> bool:
    """Return whether a server says that a question and its answer do not fit into the model."""
    return _TOO_LONG.search(said) is not None


def filtered(said: str) -> bool:
    """Return whether a server says that its filter let a question not through."""
    return _FILTERED.search(said) is not None


def streams_only(said: str) -> bool:
    """Return whether a server says that it answers in streams alone."""
    return _STREAMS_ONLY.search(said) is not None


def hint_for(said: str, asked: Asked) -> str:
    """Return what can be done about a refusal, or nothing where nothing is known."""
    ways: tuple[Callable[[str, Asked], str], ...] = (_about_pictures, _about_room, _about_streams, _about_fields)
    return next((hint for way in ways if (hint := way(said, asked))), "")


def _about_pictures(said: str, asked: Asked) -> str:
    if cannot_see(said, asked):
        return (
            "The model, or the way it is served, takes no pictures: choose tasks without any (--tasks pubmedqa,medqa; "
            "`medbench tasks` lists all), or serve a model that sees."
        )
    if asked.pictures and _TOO_MANY.search(said):
        return "The server takes fewer pictures for one question: with vLLM, serve with --limit-mm-per-prompt image=N."
    if asked.pictures and _PICTURE_TOO_LARGE.search(said) and not too_long(said):
        return "The pictures are too large for the server: --model-arg max_pixels=N sends smaller ones."
    return ""


def _about_room(said: str, asked: Asked) -> str:
    sent = f"{asked.pictures} picture{'' if asked.pictures == 1 else 's'}"
    if too_long(said):
        smaller = f", send {sent} smaller with --model-arg max_pixels=N" if asked.pictures else ""
        return (
            f"The question and an answer of {asked.limit:,} tokens do not fit into the model: allow shorter answers "
            f"with --max-new-tokens N{smaller}, or serve the model with a longer context."
        )
    if asked.length_field in said and asked.limit and _TOO_MUCH.search(said):
        return f"An answer of {asked.limit:,} tokens was asked for: allow shorter ones with --max-new-tokens N."
    return ""


def _about_streams(said: str, _asked: Asked) -> str:
    if not streams_only(said):
        return ""
    return (
        "The server only streams, which is understood: --model-arg "
        """extra_body='{"stream": true, "stream_options": {"include_usage": true}}'"""
    )


_WAYS_OUT: Mapping[str, str] = {
    "max_completion_tokens": "The server takes `max_tokens`: --model-arg profile=vllm",
    "max_tokens": "The server takes `max_completion_tokens`: --model-arg profile=openai",
    "temperature": "Send none: --model-arg temperature=unset",
    "top_p": "Leave out --model-arg top_p.",
    "seed": "Send none: --model-arg send_seed=no",
    "stop": "Leave out --model-arg stop, or let answers be cut here: --model-arg profile=transformers",
    "stream": """Leave it out: --model-arg extra_body='{"stream": null}'""",
    "system": "Leave out --model-arg system.",
}


def _about_fields(said: str, asked: Asked) -> str:
    """Return how not to send a field that a server does not take, if it names one that is sent."""
    if asked.system and _NO_SYSTEM.search(said):
        return _WAYS_OUT["system"]
    if not _NOT_TAKEN.search(said):
        return ""
    named = [name for name in sorted(asked.fields) if _names(said, name)]
    if named:
        return f"Leave {', '.join(named)} out of --model-arg extra_body."
    first = (asked.length_field, *(name for name in _WAYS_OUT if "tokens" not in name))
    return next((_WAYS_OUT[name] for name in first if _names(said, name)), "")


def _names(said: str, name: str) -> bool:
    # `stop`, `seed` and `system` are words as well: they count where they are quoted, or begin what is said.
    plain = name not in {"stop", "seed", "system", "stream"}
    around = (r"(?<!\w)", r"(?!\w)") if plain else (r"(?:\A|['\"`])", r"['\"`:]")
    return re.search(f"{around[0]}{re.escape(name)}{around[1]}", said) is not None


def pictures_in(body: Mapping[str, Any]) -> int:
    """Return how many pictures a request's body holds."""
    parts = [
        part for message in body["messages"] for part in message["content"] if isinstance(message["content"], list)
    ]
    return sum(part.get("type") == "image_url" for part in parts)
