"""A headless Chromium that uses the demo's page as a person would."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By

from .green import wait_until


@contextmanager
def browser(width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Chrome]:
    """A window of that many pixels."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, ChromeService(shutil.which("chromedriver")))
    try:
        show(driver, width, height, dark)
        yield driver
    finally:
        driver.quit()


def show(driver: Chrome, width: int, height: int = 900, dark: bool = False) -> None:
    """Have the screen be that large, and the system like it dark."""
    # Not the size of the window: Chromium makes none narrower than 500 pixels.
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})


class Page:
    """The demo's page, in words of what is seen there."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        driver.get(url)
        wait_until(lambda: self.text("#pid"), "the first figures")

    def click(self, name: str) -> None:
        """Press the button of that name."""
        self.driver.find_element(By.XPATH, f"//button[text()='{name}']").click()

    def fill(self, name: str, value: str) -> None:
        field = self.driver.find_element(By.NAME, name)
        field.clear()
        field.send_keys(value)

    def text(self, selector: str) -> str:
        return self.driver.find_element(By.CSS_SELECTOR, selector).text

    def figure(self, name: str) -> int:
        return int(self.text(f"[data-figure={name}]").replace(",", ""))

    def count(self, selector: str) -> int:
        return len(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def tasks(self, state: str) -> int:
        """How many are ``running``, or have ended in ``success`` or ``failure``."""
        return self.count(f"#tasks .{state}")

    def parts(self) -> list[str]:
        """How far the running tasks are, as the page says it."""
        script = "return [...document.querySelectorAll('#tasks .running i')].map(i => i.innerText)"
        return list(self.driver.execute_script(script))

    def results(self) -> list[str]:
        script = "return [...document.querySelectorAll('#tasks b')].map(b => b.innerText)"
        return list(self.driver.execute_script(script))

    def wait_for_all(self, count: int) -> None:
        wait_until(
            lambda: self.tasks("success") + self.tasks("failure") == count,
            f"{count} results on the page",
            timeout=120,
        )
        wait_until(lambda: " ended" in self.text("#status"), "the page's last word")
