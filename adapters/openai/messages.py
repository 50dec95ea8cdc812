"""What a served model is sent: the chat, and the ways of writing boxes that it may be told."""

from collections.abc import Mapping, Sequence
from typing import Any

from medbench.tasks.answers.box_space import BOX_SPACES, BoxSpace

SPACES: Mapping[str, BoxSpace] = {
    name: BOX_SPACES[name]
    for name in ("permille", "permille-yxyx", "fraction", "percent", "pixels", "pixels-xywh", "pixels-28")
}
BOXES = SPACES["permille"]


def messages_of(question: str, pictures: Sequence[str], system: str) -> list[dict[str, Any]]:
    """Return the chat: the system prompt if there is one, then the pictures before the text.

    So all questions about a picture begin alike, and a server that remembers beginnings reads it once.

    Args:
        question: The user's words.
        pictures: Data URIs.
        system: System prompt, or empty.
    """
    parts = [{"type": "image_url", "image_url": {"url": uri}} for uri in pictures]
    # Text alone is sent as text: not every template of a text model takes a list of parts.
    content: Any = [*parts, {"type": "text", "text": question}] if parts else question
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": content}]
