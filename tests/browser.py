"""A headless Chromium that tests drive over its debugging pipe; no driver, no network."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
_KEYS = {"Enter": ("\r", 13), "Tab": ("", 9), " ": (" ", 32), "Escape": ("", 27), "/": ("/", 191)}


@dataclass
class Page:
    """One tab.

    Attributes:
        requests: Addresses that the page asked for, the page's own first.
        messages: What its console said, errors and refusals by its content policy among it.
        dialogs: Texts of dialogs that a script opened: a sign that hostile text ran.
    """

    _to: Any
    _from: Any
    _session: str = ""
    _ids: Iterator[int] = field(default_factory=lambda: count(1))
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and return its result."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while (answer := self._receive()).get("id") != number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._from.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("Chromium has ended.")
            text += byte
        message: dict[str, Any] = json.loads(text)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, said = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif method == "Runtime.consoleAPICalled":
            self.messages.append(" ".join(str(one.get("value", "")) for one in said["args"]))
        elif method == "Runtime.exceptionThrown":
            self.messages.append(said["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif method == "Log.entryAdded":
            self.messages.append(said["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.dialogs.append(said["message"])
            self._to.write(json.dumps(
                {"id": next(self._ids), "method": "Page.handleJavaScriptDialog", "params": {"accept": True},
                 "sessionId": self._session}
            ).encode() + b"\0")  # fmt: skip
            self._to.flush()

    def open(self, path: Path, fragment: str = "") -> None:
        """Open a file from disk and wait until it is there."""
        self.requests.clear()
        self.call("Page.navigate", url=path.resolve().as_uri() + fragment)
        self.run(
            "new Promise(done => document.readyState === 'complete' ? done(1)"
            " : addEventListener('load', () => done(1)))"
        )

    def run(self, script: str) -> Any:  # noqa: ANN401 - whatever the script returns
        """Return the value of a JavaScript expression, awaited if it is a promise."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key, as a user does: the browser does what the key does."""
        text, code = _KEYS.get(key, (key if len(key) == 1 else "", ord(key) if len(key) == 1 else 0))
        names: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code, "code": {" ": "Space"}.get(key, key)}
        self.call("Input.dispatchKeyEvent", type="keyDown", **names, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **names)

    def type(self, text: str) -> None:
        """Write into what has the focus."""
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Click the middle of an element with the mouse."""
        box = self.run(
            f"(() => {{const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]})()"
        )
        where = {"x": box[0], "y": box[1], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **where)

    def size(self, width: int, height: int) -> None:
        """Make the window so many pixels wide and high."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, *, dark: bool = False, media: str = "") -> None:
        """Choose the colour scheme and the medium (`print` or the screen) that the page is told."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write what is to be seen as a PNG; `whole` takes what lies below the window too."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self) -> bytes:
        """Return the page as it would be printed."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"])


@contextmanager
def chromium() -> Iterator[Page]:
    """Start Chromium and yield a tab of it; `CHROMIUM` is None where there is none."""
    command_out, command_in = os.pipe()
    answer_out, answer_in = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # The debugging pipe is file descriptors 3 and 4, which only bash can name.
        script = f'exec "$@" 3<&{command_out} 4>&{answer_in}'
        process = subprocess.Popen(
            ["bash", "-c", script, "sh", str(CHROMIUM), *_FLAGS,
             f"--user-data-dir={profile}"],
            pass_fds=(command_out, answer_in), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(command_out)
        os.close(answer_in)
        with os.fdopen(command_in, "wb") as to, os.fdopen(answer_out, "rb") as from_:
            page = Page(to, from_)
            target = page.call("Target.createTarget", url="about:blank")["targetId"]
            page._session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                page.call(f"{domain}.enable")
            page.size(1280, 900)
            try:
                yield page
            finally:
                page._session = ""
                page.call("Browser.close")
                process.wait(30)
