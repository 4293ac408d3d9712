"""A reader of Server-Sent Events, and a thousand of them: what a browser does with a stream."""

from __future__ import annotations

import http.client
import json
import selectors
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Event:
    name: str
    id: str
    data: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


@dataclass
class Parser:
    """Takes the stream in pieces, as the standard says; ``id`` lasts until the next one."""

    retry: int | None = None
    comments: int = 0
    last_id: str = ""
    _rest: str = ""
    _name: str = ""
    _data: list[str] = field(default_factory=list)

    def feed(self, piece: bytes) -> Iterator[Event]:
        *lines, self._rest = (self._rest + piece.decode()).split("\n")
        for line in lines:
            if not line and self._data:
                yield Event(self._name or "message", self.last_id, "\n".join(self._data))
            if not line:
                self._name, self._data = "", []
            name, _, value = line.partition(":")
            value = value[1:] if value.startswith(" ") else value
            if line.startswith(":"):
                self.comments += 1
            elif name == "data":
                self._data.append(value)
            elif name == "event":
                self._name = value
            elif name == "id":
                self.last_id = value
            elif name == "retry":
                self.retry = int(value)


def parse(*pieces: bytes) -> list[Event]:
    parser = Parser()
    return [event for piece in pieces for event in parser.feed(piece)]


class EventSource:
    """One open stream."""

    def __init__(self, url: str, last_event_id: str | None = None) -> None:
        parts = urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        self.connection.request(
            "GET", f"{parts.path}?{parts.query}", headers={"Accept-Encoding": "gzip", **headers}
        )
        self.response = self.connection.getresponse()
        self.parser = Parser()

    def __iter__(self) -> Iterator[Event]:
        while piece := self.response.read1():
            yield from self.parser.feed(piece)

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def follow_many(url: str, count: int, timeout: float = 300) -> list[list[Event]]:
    """Open *count* streams at once, over sockets of one selector; return the events of each."""
    parts = urlsplit(url)
    request = f"GET {parts.path}?{parts.query} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode()
    events: list[list[Event]] = [[] for _ in range(count)]
    heads = [b""] * count
    parsers = [Parser() for _ in range(count)]
    with selectors.DefaultSelector() as selector:
        for index in range(count):
            client = socket.create_connection((parts.hostname, parts.port), timeout=60)
            client.sendall(request)
            selector.register(client, selectors.EVENT_READ, index)
        while selector.get_map():
            ready = selector.select(timeout)
            if not ready:
                raise AssertionError(f"{len(selector.get_map())} streams are silent")
            for key, _ in ready:
                index, client = key.data, key.fileobj
                piece = client.recv(65536)
                if not piece:
                    selector.unregister(client)
                    client.close()
                    continue
                if heads[index] is not None:
                    heads[index] += piece
                    head, found, piece = heads[index].partition(b"\r\n\r\n")
                    if not found:
                        continue
                    assert b" 200 OK" in head, head
                    heads[index] = None
                events[index] += parsers[index].feed(piece)
    return events
