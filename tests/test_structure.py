"""The layout: who imports whom, and what is not probed for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import celery_green_drain

ROOT = Path(celery_green_drain.__file__).parent

#: Modules by their names below the package, without the demo, which is an application of it.
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in ROOT.rglob("*.py")
    if "demo" not in path.relative_to(ROOT).parts
}


def imports(name: str, typing: bool) -> Iterator[str]:
    """The modules of the package that *name* imports when it is imported itself.

    :param typing: with those that it imports for type checkers only.
    """
    package = name.split(".")[:-1]
    for node in statements(ast.parse(MODULES[name].read_text()), typing):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module or "").split(".")
            base = [part for part in base if part]
            for alias in node.names:
                for parts in ([*base, alias.name], [*base, alias.name, "__init__"]):
                    if ".".join(parts) in MODULES:
                        yield ".".join(parts)
                        break
                else:
                    module = ".".join(base)
                    yield module if module in MODULES else ".".join([*base, "__init__"])


def statements(tree: ast.AST, typing: bool) -> Iterator[ast.AST]:
    """All statements that run at import, those of functions left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not typing:
            continue
        yield node
        yield from statements(node, typing)


@pytest.mark.parametrize("typing", [False, True])
def test_no_circle_of_imports(typing: bool) -> None:
    graph = {name: set(imports(name, typing)) - {"__init__"} for name in MODULES}
    del graph["__init__"]  # its names are found at first use
    assert sum(map(len, graph.values())) > 50
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_the_axes_do_not_meet() -> None:
    """Drainers know no protocol, and consumers no green library."""
    for name in MODULES:
        for other in imports(name, typing=True):
            if name.startswith("drainers."):
                assert not other.startswith(("consumers.", "backends."))
            if name.startswith("consumers."):
                assert other not in ("drainers.gevent", "drainers.eventlet", "drainers.thread")
                assert not other.startswith("backends.")
        source = MODULES[name].read_text()
        if name not in ("drainers.gevent", "drainers.eventlet", "internals"):
            assert not re.search(r"^\s*(import|from) (gevent|eventlet)\b", source, re.MULTILINE)


def test_drainers_probe_for_nothing() -> None:
    """What a drainer asks of its consumer stands in a class."""
    for name in MODULES:
        if name.startswith("drainers."):
            assert not re.search(r"(get|has)attr\(self\.drained", MODULES[name].read_text())
