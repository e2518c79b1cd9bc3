"""A real browser for tests: Debian's chromium without a window, spoken to in its own protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tornado.websocket import websocket_connect

ANSWER_SECONDS = 30
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
           "--disable-extensions", "--disable-background-networking", "--no-proxy-server",
           "--remote-debugging-port=0")  # fmt: skip


def found() -> str | None:
    """Path of a browser; None where there is none."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


@contextmanager
def browser(width: int = 1440, height: int = 1000) -> Iterator[Browser]:
    """A browser with one empty page; it and its profile are gone afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [found() or "chromium", *OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "HOME": profile}
        )
        try:
            with asyncio.Runner() as runner:
                page = Browser(runner)
                runner.run(page.open(_address(process), width, height))
                yield page
        finally:
            process.terminate()
            process.wait(30)
            process.stderr.close()


def _address(process: subprocess.Popen) -> str:
    said = []
    for line in process.stderr:
        said.append(line)
        if "DevTools listening on " in line:
            return line.split("DevTools listening on ")[1].strip()
    raise RuntimeError(f"the browser ended: {''.join(said)}")


class Browser:
    """The page of a browser. Every method waits for its answer."""

    def __init__(self, runner: asyncio.Runner):
        self._runner = runner
        self._number = 0
        self._session: str | None = None
        self.requests: list[str] = []  # addresses that pages asked for
        self.complaints: list[str] = []  # errors that scripts threw or wrote to the console

    async def open(self, address: str, width: int, height: int) -> None:
        self._socket = await websocket_connect(address, max_message_size=2**28)
        target = await self._ask("Target.createTarget", url="about:blank")
        session = await self._ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = session["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            await self._ask(f"{domain}.enable")
        await self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                        mobile=False)  # fmt: skip

    def visit(self, url: str) -> None:
        self._runner.run(self._ask("Page.navigate", url=url))

    def evaluate(self, script: str) -> Any:
        """What a script is worth; a promise is waited for."""
        answer = self._runner.run(
            self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self) -> str:
        """All text of the page, that of shadow roots included."""
        return self.evaluate(TEXT)

    def screenshot(self, whole: bool = True) -> bytes:
        answer = self._runner.run(self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole))
        return base64.b64decode(answer["data"])

    async def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        await self._socket.write_message(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                answer = json.loads(await self._socket.read_message())
                if answer.get("id") == number:
                    assert "error" not in answer, answer
                    return answer["result"]
                self._hear(answer)

    def _hear(self, event: dict[str, Any]) -> None:
        facts = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(facts["exceptionDetails"].get("exception", facts["exceptionDetails"])))
        if event.get("method") == "Runtime.consoleAPICalled" and facts["type"] == "error":
            self.complaints.append(str(facts["args"]))


TEXT = """
(() => {
  const walk = (node) => {
    if (node.nodeType === Node.TEXT_NODE) return node.textContent + " ";
    if (["STYLE", "SCRIPT"].includes(node.nodeName)) return "";
    const inner = node.shadowRoot ? [...node.shadowRoot.childNodes] : [];
    return [...inner, ...node.childNodes].map(walk).join("");
  };
  return document.body === null ? "" : walk(document.body).replace(/\\s+/g, " ");
})()
"""
