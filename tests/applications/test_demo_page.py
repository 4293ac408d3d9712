"""The demo's page, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from selenium.webdriver import ActionChains, Chrome, Keys

from ..browser import Page, browser
from ..green import wait_until
from ..servers import DEMO, site


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with site(*DEMO, measured=True) as address:
        yield address


@pytest.fixture(scope="module")
def driver() -> Iterator[Chrome]:
    with browser() as driver:
        yield driver


@pytest.fixture
def page(driver: Chrome, url: str) -> Iterator[Page]:
    yield Page(driver, url)
    assert [entry for entry in driver.get_log("browser") if entry["level"] != "INFO"] == []


def test_tasks_are_seen_to_move_and_all_results_arrive(page: Page) -> None:
    delivered = page.figure("delivered")
    page.click("Start 50")
    seen: set[str] = set()
    wait_until(lambda: seen.update(page.parts()) or len(seen) >= 3, "progress", timeout=60)
    page.wait_for_all(50)
    assert page.results() == [str(number * number) for number in range(1, 51)]
    assert page.text("#status").startswith("50 tasks ended, after ")
    wait_until(lambda: page.figure("delivered") == delivered + 50, "the last figures")
    assert (page.figure("pending"), page.figure("drainers")) == (0, 1)
    assert page.figure("connections") <= 2
    wait_until(lambda: page.count("#chart circle") == 50, "the latencies")


def test_redis_is_restarted_and_everything_arrives(page: Page) -> None:
    reconnects = page.figure("reconnects")
    page.driver.find_element("name", "failing").click()
    page.fill("seconds", "0.25")
    page.click("Start 500 tasks")
    wait_until(lambda: page.tasks("success") > 20, "the first results", timeout=60)
    page.click("Restart Redis")
    wait_until(lambda: "gone" in page.text("#outage"), "the outage")
    wait_until(lambda: "Connected again" in page.text("#outage"), "its end", timeout=60)
    page.wait_for_all(500)
    assert (page.tasks("success"), page.tasks("failure")) == (450, 50)
    assert page.text("#status").startswith("500 tasks ended, 50 of them failed, after ")
    wait_until(lambda: page.figure("pending") == 0, "the last figures")
    assert page.figure("reconnects") > reconnects
    assert page.figure("connections") <= 2


def test_watching_stops(page: Page) -> None:
    page.fill("seconds", "0.3")
    page.click("Start 500 tasks")
    wait_until(lambda: page.tasks("success"), "the first result", timeout=60)
    page.click("Stop watching")
    assert page.text("#status").startswith("Watched until ")
    wait_until(lambda: page.figure("pending") == 0, "the end of the subscription")


def test_one_task_is_waited_for_in_the_request(page: Page) -> None:
    page.click("Add")
    wait_until(lambda: page.text("#sum").startswith("= 5"), "the sum", timeout=60)


def test_keys_do_what_the_mouse_does(page: Page) -> None:
    ActionChains(page.driver).send_keys(Keys.TAB, Keys.ENTER).perform()
    page.wait_for_all(1)
    assert page.results() == ["1"]


def test_everything_has_a_name_for_a_screen_reader(page: Page) -> None:
    page.driver.execute_cdp_cmd("Accessibility.enable", {})
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = ("button", "spinbutton", "checkbox", "progressbar", "image", "list")
    things = [node for node in nodes if node.get("role", {}).get("value") in roles]
    assert len(things) >= 13
    assert [node for node in things if not node.get("name", {}).get("value")] == []


def test_nothing_comes_from_elsewhere(page: Page, url: str) -> None:
    script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    hosts = {urlsplit(name).netloc for name in page.driver.execute_script(script)}
    assert hosts == {urlsplit(url).netloc}


def test_a_narrow_screen_needs_no_scrolling_sideways(url: str) -> None:
    with browser(360, 740) as driver:
        page = Page(driver, url)
        page.click("Start 50")
        wait_until(lambda: page.tasks("running"), "progress", timeout=60)
        width = driver.execute_script("return document.documentElement.scrollWidth")
    assert width <= 360
