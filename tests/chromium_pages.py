"""Pages in a real browser: headless Chromium, spoken to through its debugging pipe. No port, no network."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_QUIET = (
    "--headless --no-sandbox --disable-gpu --enable-unsafe-swiftshader --no-first-run --disable-extensions "
    "--disable-background-networking --disable-component-update --disable-sync --mute-audio --hide-scrollbars "
    "--remote-debugging-pipe"
)


class Navigated(Exception):
    """The page was left while it was asked."""


class Chromium:
    """A browser with one page at a time."""

    def __init__(self, profile: Path) -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        # Chromium reads its commands from file 3 and writes its answers to file 4.
        words = f'exec "$0" {_QUIET} --user-data-dir="$1" about:blank 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", words, str(CHROMIUM), str(profile)],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in = os.fdopen(ours_out, "wb", 0), os.fdopen(ours_in, "rb")
        self._number, self._session, self._rest = 0, "", b""
        self.events: list[dict[str, Any]] = []
        page = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def close(self) -> None:
        self._session = ""
        self._call("Browser.close")
        self._process.wait(20)
        self._out.close()
        self._in.close()

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "navigated" in answer.get("error", {}).get("message", ""):
                    raise Navigated
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._in], [], [], 60)[0], "the browser does not answer"
            piece = os.read(self._in.fileno(), 1 << 20)
            assert piece, "the browser is gone"
            self._rest += piece
        one, self._rest = self._rest.split(b"\0", 1)
        return json.loads(one)

    def evaluate(self, code: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        answer = None
        while answer is None:  # a page that is just being left can't say anything
            with contextlib.suppress(Navigated):
                answer = self._call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, page: Path, fragment: str = "", *, width: int = 1200, height: int = 800, **media: str) -> None:
        """Shows a page of the disk once its script is ready.

        Args:
            page: the file.
            fragment: what follows ``#`` in its address.
            width: of the window, pixels.
            height: of the window, pixels.
            **media: features with their values, such as ``prefers_color_scheme="dark"``.
        """
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self._call("Emulation.setEmulatedMedia", features=features)
        self._call("Page.navigate", url="about:blank")
        self.events.clear()
        self._call("Page.navigate", url=page.resolve().as_uri() + (f"#{fragment}" if fragment else ""))
        self.evaluate(
            "new Promise(done => document.readyState == 'complete' ? done() : addEventListener('load', done))"
        )
        self.evaluate("window.asic3d?.ready")
        self.settle()

    def settle(self) -> None:
        """Waits until the page has drawn and told everything."""
        self.evaluate("new Promise(done => setTimeout(() => requestAnimationFrame(() => done()), 120))")

    def mouse(self, kind: str, x: float, y: float, *, held: bool = False) -> None:
        """``Moved``, ``Pressed`` or ``Released`` at a place of the window."""
        button = "none" if kind == "Moved" and not held else "left"
        params = {"type": f"mouse{kind}", "x": x, "y": y, "button": button, "buttons": int(held), "clickCount": 1}
        self._call("Input.dispatchMouseEvent", **params)

    def key(self, key: str, *, shift: bool = False) -> None:
        """Presses a key, by its name in JavaScript."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        params: dict[str, Any] = {"key": key, "modifiers": 8 * shift, "windowsVirtualKeyCode": code.get(key, 0)}
        text = {"text": key} if len(key) == 1 else {}
        with contextlib.suppress(Navigated):  # a key may lead to another page
            self._call("Input.dispatchKeyEvent", type="keyDown", **params, **text)
            self._call("Input.dispatchKeyEvent", type="keyUp", **params)

    def complaints(self) -> list[str]:
        """Errors and warnings of the page, such as what its policy refused."""
        found = []
        for event in self.events:
            if event.get("method") == "Log.entryAdded":
                found.append(event["params"]["entry"]["text"])
            elif event.get("method") == "Runtime.exceptionThrown":
                found.append(str(event["params"]["exceptionDetails"]))
        return found

    def addresses(self) -> list[str]:
        """What the page has asked for."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def picture(self, path: Path) -> None:
        """Saves what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))
