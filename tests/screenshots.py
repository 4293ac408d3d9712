"""Pictures of the demo's page for the docs: ``python -m tests.screenshots FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from .browser import Page, browser
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
            driver.save_screenshot(str(folder / "demo_outage.png"))
            page.wait_for_all(500)
            driver.save_screenshot(str(folder / "demo_end.png"))
        with browser(390, 844, dark=True) as driver:
            page = Page(driver, url)
            page.click("Start 50")
            wait_until(lambda: page.tasks("success") > 15, "results", timeout=60)
            driver.save_screenshot(str(folder / "demo_narrow.png"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
