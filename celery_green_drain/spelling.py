"""The names of settings as users write them: which are ours, and which come near one of ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from .notices import notify

__all__ = ("PREFIX", "Spelling", "nearest")

#: How all names of ours begin.
PREFIX = "result_drainer"

#: How much alike two names are, of 1, for one to be taken for the other misspelt.
NEAR = 0.8


def nearest(word: str, words: list[str], cutoff: float = 0.6) -> str | None:
    """Return that of *words* which is most like *word*; None: none is like it."""
    close = get_close_matches(word, words, n=1, cutoff=cutoff)
    return close[0] if close else None


class Spelling:
    """The spellings in one configuration.

    Celery translates the spellings (a namespace, old upper case) of its own settings only, so ours
    are found by the ends of the names.

    :param conf: Celery's ``app.conf``, or any mapping.
    :param names: those that there are, in new style.
    """

    def __init__(self, conf: Any, names: list[str]) -> None:
        conf.finalize() if hasattr(conf, "finalize") else None
        self._names = names
        maps: list[Mapping[str, Any]] = list(getattr(conf, "maps", [conf]))
        self._maps = maps[::-1]  # the first map wins, so it comes last
        #: How names begin in the user's configuration, as in Django's.
        self._namespace: str = getattr(conf, "prefix", None) or ""

    def given(self) -> Iterator[tuple[str, str, Any]]:
        """Yield those that are ours: the new-style name, the name as written, the value."""
        heads = {"", "celery_", self._namespace.lower()}
        for mapping in self._maps:
            for key in list(mapping.keys()):
                head, found, tail = str(key).lower().partition(PREFIX)
                if found and head in heads:
                    yield found + tail, key, mapping[key]

    def unknown(self, name: str, key: str) -> str:
        """Say that *key* is none of ours, though its new-style *name* begins as ours do."""
        close = nearest(name, self._names)
        head = key[: len(key) - len(name)]
        hint = f" Did you mean {self._like(key, head, close)!r}?" if close else ""
        return f"Unknown setting {key!r}.{hint} There are: {', '.join(self._names)}."

    def warn_of_strangers(self) -> None:
        """Warn of names that come near one of ours. They may be somebody else's."""
        for text in self.strangers():
            notify(text)

    def strangers(self) -> Iterator[str]:
        """Say of each such name what it is near to."""
        for mapping in self._maps:
            for key in filter(_is_name, list(mapping.keys())):
                if PREFIX not in key.lower():
                    yield from self._stranger(key, key)
            yield from self._in_lower_case(getattr(mapping, "SETTINGS_MODULE", None))

    def _in_lower_case(self, module: str | None) -> Iterator[str]:
        """Django takes from *module*, which has its settings, the names in upper case only."""
        for key in list(vars(sys.modules.get(module or "", object))):
            if _is_name(key) and not key.isupper():
                yield from self._stranger(
                    key, key.upper(), " Django reads names in upper case only."
                )

    def _stranger(self, key: str, spelt: str, why: str = "") -> Iterator[str]:
        name = key.lower()
        for head in (self._namespace.lower(), "celery_"):
            name = name[len(head) :] if head and name.startswith(head) else name
        close = nearest(name, self._names, NEAR)
        if close is None and f"result_{name}" in self._names:
            close = f"result_{name}"
        if close is not None:
            head = self._namespace or ("CELERY_" if spelt.isupper() else "")
            yield (
                f"The setting {key!r} is read by nobody here.{why} If it is meant for "
                f"celery_green_drain, write {self._like(spelt, head, close)!r}."
            )

    @staticmethod
    def _like(key: str, head: str, name: str) -> str:
        return head + (name.upper() if key.isupper() else name)


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and not key.startswith("_")
