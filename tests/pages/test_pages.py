"""Each block of a page, in its order, in an environment with what the page's pip lines name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from ..browser import browser
from ..green import wait_until
from ..rabbitmq import RabbitServer
from ..servers import RedisServer, free_port
from .blocks import Block, blocks
from .environments import ROOT, Environments, requirements
from .terminal import WEB, Terminal

RUN = (
    *("index", "quickstart", "django", "flask", "flask_socketio", "progress", "in_a_task"),
    *("cookbook", "stores", "drainers", "demo", "rabbitmq"),
)

PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{name}.rst" for name in RUN))


@cache
def sections(page: Path) -> dict[str, list[Block]]:
    """The blocks that are run, by the headings that they stand under."""
    found: dict[str, list[Block]] = {}
    for block in blocks(page):
        if not block.reason:
            found.setdefault(block.section, []).append(block)
    return found


def installed(page: Path) -> dict[str, list[str]]:
    """What the reader has installed in each section: its own pip lines, or those before."""
    found, latest = {}, []
    for section, theirs in sections(page).items():
        commands = [
            command
            for block in theirs
            if block.language == "console"
            for command in block.commands()
        ]
        lines = [command.text for command in commands if command.text.startswith("pip install")]
        latest = [each for line in lines for each in requirements(line)] or latest
        found[section] = latest
    return found


@pytest.fixture(scope="session", autouse=True)
def all_begun(request: pytest.FixtureRequest, environments: Environments) -> None:
    """All environments are under way, so that one is made while another one is used."""
    for item in request.session.items:
        asked = getattr(item, "callspec", None)
        if asked is not None and "section" in asked.params:
            environments.begin(installed(asked.params["page"])[asked.params["section"]])


@pytest.fixture(scope="session")
def terminals(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Path], Terminal]]:
    """The reader's terminal of each page, with servers of its own."""
    made: list[Terminal] = []
    servers: list[RedisServer] = []

    @cache
    def terminal(page: Path) -> Terminal:
        ports = {WEB: free_port()}
        if page.stem == "rabbitmq":
            rabbit: RabbitServer = request.getfixturevalue("rabbit")
            ports["5672"], there = rabbit.port, lambda: has_worker(rabbit)
        else:
            redis = RedisServer()
            servers.append(redis)
            ports["6379"], there = redis.port, lambda: waits_for_tasks(redis)
        made.append(Terminal(tmp_path_factory.mktemp(page.stem), ports, there))
        return made[-1]

    yield terminal
    # A worker whose server has gone would say so in its log, with a traceback.
    for each in (*made, *servers):
        each.end()


def waits_for_tasks(redis: RedisServer) -> bool:
    return any(client["cmd"] == "brpop" for client in redis.probe.client_list())


def has_worker(rabbit: RabbitServer) -> bool:
    return rabbit.messages("celery") is not None and rabbit.consumers("celery") > 0


@pytest.mark.parametrize(
    ("page", "section"),
    [
        pytest.param(page, section, id=f"{page.stem}-{section}")
        for page in PAGES
        for section in sections(page)
    ],
)
def test_page(
    page: Path,
    section: str,
    environments: Environments,
    terminals: Callable[[Path], Terminal],
) -> None:
    terminal = terminals(page)
    terminal.use(environments.begin(installed(page)[section]).result())
    for block in sections(page)[section]:
        terminal.run(block)
    if section in ("Server-Sent Events", "A progress bar"):
        watch_the_bar(terminal.url)
    if section == "A progress bar":
        watch_the_bar(terminal.url, without="*/events")
    if section == [*sections(page)][-1]:
        terminal.end()  # here, so that a complaint of what ran is this page's


def watch_the_bar(url: str, without: str = "") -> None:
    """Use the page with the progress bar as its reader does.

    :param without: what the browser cannot get.
    """
    with browser() as driver:
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": [without] if without else []})
        driver.get(url)
        driver.find_element(By.TAG_NAME, "button").click()
        wait_until(lambda: driver.find_elements(By.TAG_NAME, "progress"), "the bar")
        bar, text = (
            driver.find_element(By.TAG_NAME, "progress"),
            driver.find_element(By.TAG_NAME, "p"),
        )
        seen: list[float] = []
        wait_until(
            lambda: seen.append(float(bar.get_property("position"))) or text.text == "10 pages",
            "the end of the bar",
            timeout=60,
        )
        assert seen == sorted(seen)
        assert len(set(seen)) > (2 if without else 3)
        assert float(bar.get_property("position")) == 1


def test_a_page_that_does_not_print_what_it_says(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, {WEB: free_port()}, lambda: True)
    terminal.use(Path(sys.executable).parent)
    page = tmp_path / "page.rst"
    page.write_text(".. code-block:: console\n\n    $ echo one\n    two\n")
    with pytest.raises(AssertionError, match=r"(?s)page\.rst, line 1\n.*two\n.*one\n"):
        terminal.run(*blocks(page))
