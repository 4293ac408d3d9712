"""The blocks of code in a page, as they stand in the file."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ("Block", "Command", "blocks")

#: Below a block that cannot be run, a comment of the page says why.
NOT_RUN = re.compile(r"^ *(?:\.\.|<!--) not run: (?P<reason>.+?)(?: -->)?$")
#: Indented: in a tab.
DIRECTIVE = re.compile(r"^(?P<indent> *)\.\. code-block:: (?P<language>\w+)$")
FENCE = re.compile(r"^```(?P<language>\w*)$")
#: What a file is called in Markdown, which has no captions: the first line of it.
NAMED = re.compile(r"^# (?P<name>[\w/]+\.py)$")


@dataclass(frozen=True)
class Command:
    """A line after a prompt, and what it prints."""

    text: str
    prints: str


@dataclass(frozen=True)
class Block:
    """A block, and where it stands."""

    page: str
    line: int
    #: The heading that it stands under, of those of the highest kind.
    section: str
    language: str
    #: The file that it is, relative to the reader's folder; "": none.
    file: str
    text: str
    #: Why it is not run; "": it is.
    reason: str

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}"

    def commands(self) -> Iterator[Command]:
        """What is to be typed, line by line."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            text, _, prints = part.partition("\n")
            yield Command(re.sub(r"\s+# .*", "", text), prints)


def blocks(page: Path) -> list[Block]:
    """Return all blocks of *page*, which is reStructuredText or Markdown."""
    lines = page.read_text(encoding="utf-8").splitlines()
    find = _markdown if page.suffix == ".md" else _restructured
    return list(find(page.name, lines))


def _restructured(page: str, lines: list[str]) -> Iterator[Block]:
    section = reason = ""
    for number, line in enumerate(lines):
        if re.fullmatch(r"-{3,}", line):
            section = lines[number - 1]
        marked, directive = NOT_RUN.match(line), DIRECTIVE.match(line)
        if marked:
            reason = marked["reason"]
        if directive or (line.endswith("::") and not line.lstrip().startswith(".. ")):
            body = _indented(lines, number + 1, directive["indent"] if directive else "")
            options = re.match(r"(?:\s*:\w+:.*\n)*", body + "\n")
            caption = re.search(r":caption: (.+)", options[0]) if options else None
            text = textwrap.dedent(body[options.end() :] if options else body).strip("\n")
            language = directive["language"] if directive else "literal"
            file = caption[1] if caption else ""
            yield Block(page, number + 1, section, language, file, text + "\n", reason)
            reason = ""


def _indented(lines: list[str], start: int, indent: str) -> str:
    """The lines from *start* on that are indented further than *indent*, or empty."""
    end = start
    while end < len(lines) and (not lines[end] or lines[end].startswith(f"{indent}    ")):
        end += 1
    return "\n".join(lines[start:end])


def _markdown(page: str, lines: list[str]) -> Iterator[Block]:
    section = reason = ""
    opened: tuple[int, str] | None = None
    for number, line in enumerate(lines):
        fence, marked = FENCE.match(line), NOT_RUN.match(line)
        if marked:
            reason = marked["reason"]
        if opened is None and line.startswith("## "):
            section = line[3:]
        if fence and opened is None:
            opened = number, fence["language"]
        elif fence and opened is not None:
            start, language = opened
            named = NAMED.match(lines[start + 1])
            text = "\n".join(lines[start + 1 : number]) + "\n"
            yield Block(
                page, start + 1, section, language, named["name"] if named else "", text, reason
            )
            opened, reason = None, ""
        elif opened is None and line.startswith("    ") and not lines[number - 1].strip():
            raise AssertionError(f"{page}, line {number + 1}: use a fence, so that it is run")
