"""Why a server says that an answer ended: the many words for the same few reasons."""

import re
from collections.abc import Mapping
from typing import Literal

Ending = Literal["eos", "stop", "length", "filtered", "broken off", "tool", "unsaid"]
"""What a reason means. `filtered`: a filter, or the model itself, held the answer back. `broken off`: the server
failed. `unsaid`: there is no reason, or one that nobody knows."""

_NAMES: Mapping[Ending, str] = {
    "eos": "stop eos eos_token end end_turn end_of_turn end_of_text end_of_sequence eot turn_end done finish finished "
    "complete completed success succeeded normal stop_token model_finished natural",
    "stop": "stop_sequence stop_string stop_str stop_word stop_words",
    "length": "length max_tokens max_length max_new_tokens max_output_tokens max_completion_tokens model_length "
    "token_limit limit incomplete truncated context_window_exceeded model_context_window_exceeded "
    "context_length_exceeded",
    "filtered": "content_filter content_filtered safety refusal recitation blocklist prohibited_content spii "
    "guardrail_intervened sensitive image_safety moderation blocked flagged error_toxic",
    "broken off": "abort aborted error cancel cancelled canceled network_error timeout failed failure interrupted "
    "preempted insufficient_system_resource internal_error server_error",
    "tool": "tool_calls tool_call tool_use function_call function_calls",
    "unsaid": "null none unknown unspecified finish_reason_unspecified",
}
_NAMED: Mapping[str, Ending] = {name: ending for ending, names in _NAMES.items() for name in names.split()}
# Words that decide where the whole reason is not known: `max_tokens_reached`, `content_filter: HATE`, `client_timeout`.
_TELLING: tuple[tuple[re.Pattern[str], Ending], ...] = (
    (re.compile(r"filter|safety|moderat|prohibit|blocked|refus|policy|sensitive|guardrail"), "filtered"),
    (re.compile(r"error|abort|cancel|timeout|timed_out|fail|network|interrupt|preempt|disconnect"), "broken off"),
    (re.compile(r"length|limit|max|exceed|truncat|budget"), "length"),
    (re.compile(r"tool|function"), "tool"),
    (re.compile(r"stop|eos|end|done|finish|complet"), "eos"),
)
_BETWEEN = re.compile(r"[\s\-]+")


def ending_of(reason: str) -> Ending:
    """Return what a reason means, however it is spelt.

    An answer is not thrown away for a word that nobody knows: the word stays in its record, and the count of tokens
    decides whether the answer was cut off, as it does where there is no reason.
    """
    plain = _BETWEEN.sub("_", reason.strip().lower()).removeprefix("finishreason.").removeprefix("finish_reason_")
    if plain in _NAMED:
        return _NAMED[plain]
    return next((ending for pattern, ending in _TELLING if pattern.search(plain)), "unsaid")
