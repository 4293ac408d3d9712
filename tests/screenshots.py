"""Pictures of the demo's page for the docs: ``python -m tests.screenshots FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from selenium.webdriver import Chrome

from .browser import Page, browser, show
from .green import wait_until
from .servers import DEMO, site


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with site(*DEMO) as url:
        with browser(1280, 920) as driver:
            page = Page(driver, url)
            page.driver.find_element("name", "failing").click()
            page.click("Start 500 tasks")
            wait_until(lambda: page.tasks("success") > 150, "results", timeout=60)
            page.click("Restart Redis")
            wait_until(lambda: "gone" in page.text("#outage"), "the outage")
            save_whole(driver, folder / "demo_outage.png")
            page.wait_for_all(500)
            save_whole(driver, folder / "demo_end.png")
        with browser(390, 844, dark=True) as driver:
            page = Page(driver, url)
            page.click("Start 50")
            wait_until(lambda: page.tasks("success") > 15, "results", timeout=60)
            driver.save_screenshot(str(folder / "demo_narrow.png"))
    with site(*DEMO, "--compare") as url, browser(1000, 600) as driver:
        driver.get(f"{url}/compare")
        driver.find_element("xpath", "//button[text()='500 requests']").click()
        said = driver.find_element("id", "said")
        wait_until(lambda: "Both have ended" in said.text, "both ends", timeout=180)
        save_whole(driver, folder / "demo_compare.png")


def save_whole(driver: Chrome, path: Path) -> None:
    """The page down to its end, as wide as it is shown."""
    script = "return [innerWidth, document.documentElement.scrollHeight]"
    width, height = driver.execute_script(script)
    show(driver, width, height)
    driver.save_screenshot(str(path))
    show(driver, width)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
