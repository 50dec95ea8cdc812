"""Every command works without a network, and no secret of the environment gets out of any: all bytes are looked at."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import COMMAND
from every_command import Case, case, cases, every_name, indiscreet, with_folders
from fault_server import Asked, fault_server, refusal
from fault_server import echo as well
from native_data import NATIVE

# Each of another shape, so that what is found tells where it came from.
CANARIES = {
    "HF_TOKEN": "hf_canaryOfTheHubAAAAAAAAAAAA", "OPENAI_API_KEY": "canary-of-openai-0123456789",
    "MEDBENCH_TOKEN": "canary-of-medbench-0123456789", "AWS_SECRET_ACCESS_KEY": "canary/of+aws/0123456789",
}  # fmt: skip
IN_A_URL = "canary-of-a-proxy"
PROXIES = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"), f"http://user:{IN_A_URL}@127.0.0.1:9")
NO_NETWORK = Path(__file__).with_name("no_network")
PATIENCE = 280.0


def may_unshare() -> bool:
    """Return whether this machine lets a command have a network of its own, with nothing in it."""
    try:
        return subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def behave(asked: Asked):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """Answer, but for some questions say back what came in every header."""
    return refusal(400, f"Wrong: {asked.headers}") if asked.number % 3 == 0 else well(asked)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with secrets and without a network, in which all that is kept is kept below one folder."""
    at = tmp_path_factory.mktemp("kept")
    plugin = indiscreet(at / "plugin")
    kept = {name: str(at / name) for name in ("MEDBENCH_HOME", "HF_HOME", "TMPDIR", "HOME", "XDG_CACHE_HOME")}
    for folder in kept.values():
        Path(folder).mkdir()
    path = os.pathsep.join([str(NO_NETWORK), str(plugin), *filter(None, [os.environ.get("PYTHONPATH")])])
    left = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    left.pop("HF_HUB_OFFLINE", None)
    return left | kept | CANARIES | {"PYTHONPATH": path, "NO_NETWORK_LOG": str(at / "refused"), "AT": str(at)}


def done(one: Case, at: Path, environment: dict[str, str], *, alone: bool) -> tuple[int, str, float]:
    """Return the exit code of a case, all that it said, and the seconds that it took."""
    started = time.monotonic()
    wall = ["unshare", "-rn"] if alone and not one.served else []
    result = subprocess.run(
        [*wall, *COMMAND, *with_folders(one.words, at)], check=False, capture_output=True, text=True, env=environment,
        cwd=environment["AT"], timeout=PATIENCE,
    )  # fmt: skip
    return result.returncode, result.stdout + result.stderr, time.monotonic() - started


def found_in(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield each file in which a secret stands, and which."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            yield from ((path, secret) for secret in (*CANARIES.values(), IN_A_URL) if secret.encode() in content)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_every_command_works_offline_and_tells_no_secret(
    environment: dict[str, str], small_data: Path, tmp_path: Path
) -> None:
    at, alone, wrong = Path(environment["AT"]) / "work", may_unshare(), []
    said = ""
    with fault_server(behave) as server:
        table = cases(at, NATIVE["slake-vqa"](tmp_path / "native"), small_data, server.url)
        assert sorted(table) == sorted(every_name())
        for one in (one for some in table.values() for one in some):
            code, told, seconds = done(one, at, environment, alone=alone)
            said += told
            slow = bool(one.says) and seconds > PATIENCE / 2
            if code not in one.codes or one.says not in told or "Traceback" in told or slow:
                wrong.append((" ".join(map(str, one.words)), code, round(seconds), told[-600:]))
    assert wrong == []
    assert [secret for secret in (*CANARIES.values(), IN_A_URL) if secret in said] == []
    assert list(found_in(Path(environment["AT"]))) == []
    refused = Path(environment["NO_NETWORK_LOG"])
    hosts = {line.split()[1] for line in refused.read_text().splitlines()} if refused.exists() else set()
    assert hosts <= {"huggingface.co", "example.org"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_password_of_a_proxy_or_an_address_is_told(environment: dict[str, str], tmp_path: Path) -> None:
    """Errors of HTTP libraries may name the proxy; a plugin's error names it here for sure."""
    in_an_address, of = f"https://user:{IN_A_URL}@example.org/v1?key={IN_A_URL}", ("--tasks", "medqa", "--limit", 2)
    said = ""
    for words, codes in (
        (("run", "--model", "openai:tiny@https://example.org/v1", *of, "--output-dir", tmp_path / "away"), {1}),
        (("run", "--model", "hf:nobody/nothing", *of, "--output-dir", tmp_path / "nothing"), {1, 2}),
        (("run", "--model", "indiscreet", *of, "--output-dir", tmp_path / "indiscreet"), {0}),
        (("run", "--model", f"openai:tiny@{in_an_address}", *of, "--output-dir", tmp_path / "address"), {2}),
        (("run", "--model", "uni-med", "--checkpoint", in_an_address, *of, "--output-dir", tmp_path / "folder"), {2}),
        (("report", in_an_address), {1, 2}), (("data", "download", "slake-vqa", "--source", tmp_path / "data"), {1}),
    ):  # fmt: skip
        code, told, _ = done(case(*words), tmp_path, environment | PROXIES, alone=False)
        assert (code in codes, "Traceback" in told) == (True, False), told
        said += told
    assert "[secret]" in said
    assert IN_A_URL not in said
    assert [*found_in(tmp_path), *found_in(Path(environment["AT"]))] == []
