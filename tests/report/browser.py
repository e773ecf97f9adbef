"""A headless Chromium, driven by its own chromedriver, for looking at pages as a reader sees them."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DRIVER = shutil.which("chromedriver")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--disable-dev-shm-usage"),
)


class Browser:
    """A session of a browser."""

    def __init__(self, address: str, session: str) -> None:
        self.address, self.session = address, session

    def call(self, path: str, **content: Any) -> Any:
        """Post a command of the WebDriver protocol."""
        return post(f"{self.address}/session/{self.session}/{path}", content)

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Run a command of Chromium's own protocol."""
        return self.call("goog/cdp/execute", cmd=command, params=parameters)

    def open(self, page: Path, width: int, scheme: str, density: int = 1) -> None:
        """Show a page in a window of a width, in a light or dark colour scheme."""
        size = {"width": width, "height": 900, "deviceScaleFactor": density, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("url", url=page.as_uri())

    def shot(self) -> bytes:
        """A picture of the whole page, a PNG."""
        shot = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser that keeps what it needs in the directory `profile`."""
    assert DRIVER and BROWSER
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        options = {"binary": BROWSER, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        session = Browser(address, _when_ready(f"{address}/session", wanted)["sessionId"])
        try:
            yield session
        finally:
            request = urllib.request.Request(f"{address}/session/{session.session}", method="DELETE")
            urllib.request.urlopen(request, timeout=20).close()
    finally:
        driver.terminate()
        driver.wait(20)


def post(address: str, content: Any) -> Any:
    """Post JSON. Returns the value of the answer."""
    request = urllib.request.Request(address, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["value"]


def _when_ready(address: str, content: Any) -> Any:
    """Post once the driver listens."""
    for _ in range(200):
        try:
            return post(address, content)
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(address)
