"""A headless Chromium for tests: started once, no screen, no network, asked through Selenium."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# Without the last four Chromium looks for its maker's servers at every start.
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
)  # fmt: skip
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Browser:
    """One page at a time, and what it asked for and complained of."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, *, width: int = 1240, height: int = 1000, dark: bool = False, scale: int = 1) -> None:
        """Load a page in a window of this size."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 700},
        )
        self.media("screen", dark=dark)
        self.driver.get(path.resolve().as_uri())

    def media(self, name: str, *, dark: bool = False) -> None:
        """Show the page as on a screen or in print, in light or dark."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": name, "features": scheme})

    def ask(self, script: str, *values: Any) -> Any:
        """Evaluate an expression of JavaScript in the page."""
        return self.driver.execute_script(f"return {script}", *values)

    def press(self, *keys: str) -> None:
        """Press keys, as a person would, wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        chain = ActionChains(self.driver, duration=0)
        for key in keys:
            chain.send_keys(getattr(Keys, key.upper(), key))
        chain.perform()

    def find(self, css: str) -> Any:
        """The first element that a selector fits."""
        return self.driver.find_element("css selector", css)

    def click(self, css: str) -> None:
        """Bring an element into view and click it."""
        element = self.find(css)
        self.ask("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()

    def point_at(self, css: str) -> None:
        """Move the mouse over an element."""
        from selenium.webdriver.common.action_chains import ActionChains

        element = self.find(css)
        self.ask("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        ActionChains(self.driver, duration=0).move_to_element(element).perform()

    def complaints(self) -> list[str]:
        """What the console said, of errors and warnings."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for, other than the page's own file and data in it."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        found = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in found if not url.startswith(("file:", "data:"))]

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Save what the window shows, or all of the page, as a PNG."""
        from base64 import b64decode

        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
        path.write_bytes(b64decode(self.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]))

    def pdf(self) -> bytes:
        """Print the page on A4."""
        from base64 import b64decode

        self.media("print")

        options = {"printBackground": False, "preferCSSPageSize": True, "paperWidth": 8.27, "paperHeight": 11.69}
        return b64decode(self.driver.execute_cdp_cmd("Page.printToPDF", options)["data"])


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Start Chromium with a new profile; skips the test where it, its driver or Selenium is missing."""
    binary = next((found for name in CHROMIUMS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium with its chromedriver (on Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        yield Browser(started)
    finally:
        started.quit()
