"""What belongs to the identity of a run with a served model, and what may change while it is under way."""

import pytest

from medbench.adapters.catalog import choose_model
from medbench.adapters.openai.entry import ARGUMENTS, profile_of, read_address, read_options

MODEL = "openai:some-model@http://127.0.0.1:9/v1"
OTHER = {
    "boxes": "fraction", "system": "Be brief.", "temperature": "0.5", "top_p": "0.9", "send_seed": "no",
    "max_tokens": "7", "stop": "###", "max_pixels": "1000", "extra_body": '{"top_k": 1}', "credentialed": "send",
    "key_env": "OTHER_KEY", "price_in": "1", "price_cached": "1", "price_out": "1", "concurrency": "2",
    "max_concurrency": "9", "ca_file": "/a.pem", "attempts": "2", "timeout": "5", "deadline": "6", "backoff": "7",
}  # fmt: skip


def test_every_argument_is_looked_at() -> None:
    assert set(OTHER) | {"profile"} == set(ARGUMENTS)


@pytest.mark.parametrize("name", OTHER)
def test_what_is_sent_is_the_runs_identity_and_nothing_else(name: str) -> None:
    profile = profile_of("auto", read_address(MODEL.removeprefix("openai:")))
    same_answers = (
        read_options({}, profile).changing_answers() == read_options({name: OTHER[name]}, profile).changing_answers()
    )
    same_run = choose_model(MODEL, {}).identity == choose_model(MODEL, {name: OTHER[name]}).identity
    assert same_answers == same_run == (not ARGUMENTS[name].changes_answers)
