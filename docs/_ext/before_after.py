"""``.. before-after::``: plain Celery beside one line more, from ``performance/table.csv``."""

from __future__ import annotations

import csv
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

TABLE = Path(__file__).parent.parent / "performance" / "table.csv"

#: Heading, unit, case, store, waits, column.
ROWS = (
    ("Connections to Redis, 1,000 requests waiting", "", "get", "redis", "1,000", "connections"),
    ("Failed of 10,000 that wait at once", "", "get", "redis", "10,000", "failed"),
    ("CPU time to begin one wait of 1,000", "µs", "get", "redis", "1,000", "registering µs"),
    ("CPU time for one result of 1,000", "µs", "get", "redis", "1,000", "CPU µs"),
    ("Memory for one wait of 1,000", "KB", "get", "redis", "1,000", "KB"),
    ("Slowest of 100, 50 at once, RabbitMQ", "ms", "trip", "rabbitmq", "50", "p99 ms"),
)


class BeforeAfter(SphinxDirective):
    """A table with bars."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(TABLE))
        with TABLE.open(encoding="utf-8", newline="") as file:
            measured = list(csv.DictReader(file))
        rows = "\n".join(_row(measured, *row) for row in ROWS)
        return [nodes.raw("", HTML.format(rows=rows), format="html")]


HTML = """
<div class="before-after" role="table" aria-label="Plain Celery and one line more">
<div role="row" class="head"><span role="columnheader">Measured</span>
<span role="columnheader">Plain Celery</span><span role="columnheader">One line more</span></div>
{rows}
</div>
"""


def _row(
    measured: list[dict[str, str]],
    heading: str,
    unit: str,
    case: str,
    store: str,
    count: str,
    column: str,
) -> str:
    key = {"case": case, "store": store, "N": count, "library": "gevent"}
    texts = []
    for contender in ("stock", "drained"):
        (row,) = (
            row
            for row in measured
            if row["contender"] == contender and {name: row[name] for name in key} == key
        )
        texts.append(row[column] or "0")
    stock, drained = (float(text.replace(",", "")) for text in texts)
    cells = (_bar(texts[0], unit, 1, "stock"), _bar(texts[1], unit, drained / stock, "drained"))
    return f'<div role="row"><span role="rowheader">{escape(heading)}</span>{"".join(cells)}</div>'


def _bar(text: str, unit: str, part: float, name: str) -> str:
    label = f"{text} {unit}".strip()
    width = f"{100 * part:.2f}%"
    return f'<span role="cell" class="{name}"><i style="width: {width}"></i> {escape(label)}</span>'


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("before-after", BeforeAfter)
    return {"parallel_read_safe": True}
