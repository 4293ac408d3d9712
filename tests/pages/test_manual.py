"""The manual as a reader sees it: in Chromium, on a desk and a phone, in the light and the dark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from ..browser import browser, show
from ..green import wait_until
from ..servers import free_port

PROBLEM = "Is this your problem?"

#: What people search for, as plain Celery and the green libraries say it.
SEARCHED = (
    "The Celery application must be restarted",
    "greenlet is being finalized",
    "Second simultaneous read",
    "ConcurrentObjectUseError",
    "MaxConnectionsError",
    "connections grow",
    "get() hangs",
    "then() never called",
    "first result one second",
)

#: What a page shows wrong, as a list of texts. Contrast is that of WCAG 2 at level AA. Text of a
#: drawing stands before the last of its shapes that it lies in.
FAULTS = Path(__file__).with_name("faults.js").read_text(encoding="utf-8")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url(manual: Path) -> Iterator[str]:
    """Where the manual is served."""

    def handler(*args: Any) -> Quiet:
        return Quiet(*args, directory=str(manual))

    with ThreadingHTTPServer(("127.0.0.1", free_port()), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def pages(manual: Path) -> list[str]:
    names = [path.relative_to(manual).as_posix() for path in sorted(manual.rglob("*.html"))]
    assert len(names) > 30
    return names


#: Width, whether it is dark, and whether colours are looked at, which are those of any width.
SCREENS = [(360, False, False), (1280, True, True), (1280, False, True)]


def test_every_page(url: str, pages: list[str]) -> None:
    found = {}
    with browser() as driver:
        for name in pages:
            driver.get(url + name)
            for width, dark, colors in SCREENS:
                show(driver, width, dark=dark)
                found[name, width, dark] = driver.execute_script(FAULTS, colors)
        complaints = [entry for entry in driver.get_log("browser") if entry["level"] != "INFO"]
    assert {where: wrong for where, wrong in found.items() if wrong} == {}
    assert complaints == []


def test_a_fault_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<html><body style='background: white'><h1>One</h1><h1>Two</h1>"
        "<button></button><img src=''>"
        "<p style='color: #bbb; width: 2000px'>pale and wide</p></body></html>"
    )
    with browser(360) as driver:
        driver.get(page.as_uri())
        wrong = driver.execute_script(FAULTS, True)
    assert len(wrong) == 5, wrong


def test_search_finds_each_error(url: str) -> None:
    with browser() as driver:
        for text in SEARCHED:
            driver.get(f"{url}search.html?{urlencode({'q': text})}")
            script = "return [...document.querySelectorAll('.search a')].map(a => a.textContent)"
            wait_until(
                lambda: PROBLEM in driver.execute_script(script),  # noqa: B023
                f"{text!r} among what is found",
                timeout=20,
            )


def test_nothing_comes_from_elsewhere(url: str) -> None:
    with browser() as driver:
        driver.get(url)
        script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
        names = driver.execute_script(script)
    assert {urlsplit(name).netloc for name in names} == {urlsplit(url).netloc}, json.dumps(names)
