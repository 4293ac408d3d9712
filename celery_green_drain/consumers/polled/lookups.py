"""How the states of many tasks are found in a polled store: at once, where it can do that.

Each store's own class reads what was found, so that a result means what it means to Celery.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

from celery import states
from celery.exceptions import SecurityError
from kombu.exceptions import SerializationError, SerializerNotInstalled
from kombu.utils.encoding import bytes_to_str

from ...clock import monotonic
from ...copies import own_value
from ...django import close_old_connections
from ...internals import sqlalchemy_is_listened_to
from ...pending import Meta

__all__ = (
    "HELD",
    "CouchDocuments",
    "DjangoKeys",
    "DjangoRows",
    "DynamoItems",
    "Found",
    "Keys",
    "Lookup",
    "MongoDocuments",
    "OneByOne",
    "Rows",
    "refuses_login",
    "unreadable",
)

#: A task id, and what reads its state, or raises what makes it unreadable.
Found = tuple[str, Callable[[], Meta]]

#: Ids to look for at once: fewer than the 999 parameters that an old SQLite takes.
CHUNK = 900

#: Ids that DynamoDB takes in one call.
BATCH_GET_ITEM = 100

#: Seconds before DynamoDB is asked for what it has left out of its answer: the first time, and at
#: most.
THROTTLED, MOST_THROTTLED = 0.05, 2.0

#: Options of an engine of SQLAlchemy by which somebody else opens its connections.
SEE_TO_CONNECTIONS = {"creator", "plugins", "pool"}

#: Seconds that a connection to a database is kept at most: others may be waiting for it, behind a
#: pooler such as PgBouncer.
HELD = 2.0

#: What is wrong with one result, and not with the store.
UNREADABLE = (SerializationError, SerializerNotInstalled, SecurityError)


#: What a refused login is to the drivers: in HTTP, MongoDB, MariaDB, PostgreSQL, DynamoDB.
REFUSED = {
    *(401, 403),
    *(13, 18),
    *(1044, 1045, 1698),
    *("28000", "28P01"),
    *("AccessDeniedException", "InvalidSignatureException", "UnrecognizedClientException"),
}


def refuses_login(error: Any) -> bool:
    """Whether *error*, of any driver, says that the store refuses these credentials."""
    error = getattr(error, "orig", None) or error  # as SQLAlchemy wraps the driver's
    told = [getattr(error, name, None) for name in ("code", "status_code", "sqlstate")]
    told += error.args[:1]
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # as botocore has it
        told.append(response.get("Error", {}).get("Code"))
        told.append(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    numbers = [each for each in told if isinstance(each, (int, str))]
    # PostgreSQL's drivers have no code for it where there is no connection.
    return not REFUSED.isdisjoint(numbers) or "authentication failed" in str(error).lower()


def unreadable(task_id: str, error: Exception) -> Found:
    """What is found where *error* says what is wrong with this one id."""

    def read() -> Meta:
        raise error

    return task_id, read


class Lookup:
    """One way to look, over one connection. :meth:`find` and :meth:`close` call the store.

    :param store: a backend of Celery's own class, for this look-up alone.
    """

    #: Ids looked for in one call of :meth:`find`.
    chunk = CHUNK

    #: Whether several calls of :meth:`find` may be under way at once.
    parallel = False

    #: Whether it has a connection of its own, which :meth:`close` closes.
    connects = False

    #: Whether the last call had no connection, or lost it, as far as can be told: what it raised
    #: says nothing of what it looked for then.
    lost = False

    def __init__(self, store: Any) -> None:
        self.store = store

    @classmethod
    def prepare(cls, backend: Any) -> None:
        """Do what the driver would do at its first call under a lock of its own.

        A lock that eventlet has patched wakes nobody in another native thread, so two first calls
        at once might never end.
        """

    def find(self, task_ids: list[str]) -> list[Found]:
        """Return what the store has of *task_ids*; those it has nothing of are left out."""
        raise NotImplementedError("subclass responsibility")

    @classmethod
    def gathers(cls, backend: Any) -> bool:
        """Whether single reads of *backend* go together where they gather.

        Not where that saves nothing, and not where the answer may depend on who asks.
        """
        return False

    def nothing(self, task_id: str) -> Meta:
        """What Celery reads where the store has nothing of *task_id*."""
        return {"status": states.PENDING, "result": None}

    def close(self) -> None:
        """Close the connection, if it is this look-up's own."""

    def _read(self, task_id: str) -> Meta:
        meta: Meta = self.store.get_task_meta(task_id, cache=False)
        return meta


class OneByOne(Lookup):
    """For any store: what ``result.state`` does, for each id."""

    chunk = 1
    parallel = True

    def find(self, task_ids: list[str]) -> list[Found]:
        found: list[Found] = []
        for task_id in task_ids:
            try:
                meta = self._read(task_id)
            except UNREADABLE as exc:
                found.append(unreadable(task_id, exc))
            else:
                if meta["status"] != states.PENDING:  # which says that there is nothing
                    found.append((task_id, partial(own_value, meta)))
        return found


class Keys(Lookup):
    """For key-value stores that read many keys at once."""

    def find(self, task_ids: list[str]) -> list[Found]:
        keys = [self.store.get_key_for_task(task_id) for task_id in task_ids]
        ids = dict(zip(map(bytes_to_str, keys), task_ids))
        values = self._get_many(keys)
        pairs: Iterable[Any] = values.items() if hasattr(values, "items") else zip(keys, values)
        return [
            (ids[bytes_to_str(key)], partial(self._decode, value)) for key, value in pairs if value
        ]

    def _decode(self, value: Any) -> Meta:
        # A cache may keep objects, and leave it to its client to make bytes of them.
        meta: Meta = self.store.decode_result(own_value(value))
        return meta

    def _get_many(self, keys: list[Any]) -> Any:
        """Return what is stored: by key, or in the order of the *keys*."""
        return self.store.mget(keys)


class DjangoKeys(Keys):
    """For Django's caches, which can read many keys, though their Celery backend does not."""

    def _get_many(self, keys: list[Any]) -> Any:
        return self.store.cache_backend.get_many([bytes_to_str(key) for key in keys])


class MongoDocuments(Lookup):
    """For MongoDB: one query."""

    _collection: Any = None

    @classmethod
    def gathers(cls, backend: Any) -> bool:
        return "collection" in vars(backend)  # or this would make a client of its own

    def find(self, task_ids: list[str]) -> list[Found]:
        if self._collection is None:
            self._collection = self.store.collection
        documents = self._collection.find({"_id": {"$in": task_ids}}, batch_size=len(task_ids))
        return [(each["_id"], partial(self._read_document, each)) for each in documents]

    def _read_document(self, document: Any) -> Meta:
        self.store.collection = SimpleNamespace(find_one=lambda query: document)
        return self._read(document["_id"])


class CouchDocuments(Keys):
    """For CouchDB: one request for the documents of many ids."""

    @classmethod
    def gathers(cls, backend: Any) -> bool:
        return True

    def _get_many(self, keys: list[Any]) -> Any:
        rows = self.store.connection.all(keys=[bytes_to_str(key) for key in keys])
        # One that is not there has no document, and one that was deleted has None.
        return {row["key"]: row["doc"]["value"] for row in rows if row.get("doc")}


class DynamoItems(Keys):
    """For DynamoDB, which answers for some of the ids only where there is too much to say."""

    chunk = BATCH_GET_ITEM
    parallel = True

    @classmethod
    def gathers(cls, backend: Any) -> bool:
        return True

    def _get_many(self, keys: list[Any]) -> Any:
        # As Celery names what it stores, which is the text of a Python object.
        names = {str(key): key for key in keys}
        values: dict[Any, Any] = {}
        table, pause = self.store.table_name, THROTTLED
        wanted: Any = {table: {"Keys": [{"id": {"S": name}} for name in names]}}
        while wanted:
            answer = self.store.client.batch_get_item(RequestItems=wanted)
            items = answer["Responses"].get(table, ())
            values.update((names[item["id"]["S"]], item["result"]["B"]) for item in items)
            wanted = answer.get("UnprocessedKeys")
            if wanted and not items:
                time.sleep(pause)
                pause = min(2 * pause, MOST_THROTTLED)
        return values


def _asked_for(rows: Iterable[Any], task_ids: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield each of *task_ids* of which there is a row, and the row.

    Some databases, such as MariaDB, take ids for the same that differ in capitals, or in blanks at
    the end.
    """
    exactly = {row.task_id: row for row in rows}
    alike: dict[str, Any] = {}
    if not exactly.keys() <= set(task_ids):
        alike = {_roughly(task_id): row for task_id, row in exactly.items()}
    for task_id in task_ids:
        row = exactly.get(task_id)
        if row is None:
            row = alike.get(_roughly(task_id))
        if row is not None:
            yield task_id, row


def _roughly(task_id: str) -> str:
    return task_id.casefold().rstrip(" ")


class Rows(Lookup):
    """For SQLAlchemy: one query, over one connection that is kept open for :data:`HELD` seconds.

    Out of a pool it is taken for each look.
    """

    connects = True

    #: Kept, as each new one of Celery's asks the server for its version and more.
    _engine: Any = None
    _connection: Any = None
    _opened = 0.0

    @classmethod
    def prepare(cls, backend: Any) -> None:
        backend.task_cls.registry.configure()

    @classmethod
    def gathers(cls, backend: Any) -> bool:
        # Who sees to connections or queries may choose a tenant by the context of the caller.
        manager = getattr(backend, "session_manager", None)  # older versions of Celery have none
        if getattr(manager, "engine_callback", None) is not None:
            return False
        return SEE_TO_CONNECTIONS.isdisjoint(backend.engine_options) and (
            not sqlalchemy_is_listened_to()
        )

    def find(self, task_ids: list[str]) -> list[Found]:
        self.lost = True
        if monotonic() - self._opened > HELD:
            self.close()
        if self._connection is None:
            self._connection = self._connect()
            self._opened = monotonic()
        self.lost = False
        try:
            return self._find(task_ids)
        except Exception:
            self.lost = self._connection.invalidated
            raise
        finally:
            # One that is lost would connect anew by itself, without its options.
            if self.lost or self._is_shared:
                self.close()

    def _find(self, task_ids: list[str]) -> list[Found]:
        from sqlalchemy.orm import Session

        task = self.store.task_cls
        with Session(bind=self._connection) as session:
            rows = session.query(task).filter(task.task_id.in_(task_ids)).all()
        return [(each, partial(self._read_row, row)) for each, row in _asked_for(rows, task_ids)]

    @property
    def _is_shared(self) -> bool:
        """Whether others wait for the connection, as in a process that Celery knows to be forked.

        There it uses a pool, which keeps connections by itself and may be as small as one.
        """
        from sqlalchemy.pool import NullPool

        return not isinstance(self._engine.pool, NullPool)

    def _connect(self) -> Any:
        if self._engine is None:
            self._engine = type(self.store).ResultSession(self.store).get_bind()
        # No transaction, or each look would see what the first one saw.
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        driver: Any = getattr(connection.connection, "driver_connection", None)
        if hasattr(driver, "prepare_threshold"):
            # A pooler may give each look another server, which knows nothing that psycopg prepared.
            driver.prepare_threshold = None
        return connection

    def _read_row(self, row: Any) -> Meta:
        self.store.ResultSession = partial(LoadedRow, row)
        return self._read(row.task_id)

    def nothing(self, task_id: str) -> Meta:
        self.store.ResultSession = partial(LoadedRow, None)
        return self._read(task_id)

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()


class LoadedRow:
    """In place of an SQLAlchemy session, for a store that asks for a row: it is there already."""

    def __init__(self, row: Any) -> None:
        self._row = row

    def query(self, *_: Any, **__: Any) -> LoadedRow:
        return self

    filter = options = query

    def __iter__(self) -> Any:
        return iter([self._row])

    def close(self) -> None:
        """Do nothing."""

    rollback = close


class DjangoRows(Lookup):
    """For Django's ORM: one query, over this greenlet's own connection of Django."""

    def find(self, task_ids: list[str]) -> list[Found]:
        tasks = type(self.store).TaskModel._default_manager
        try:
            rows = list(tasks.filter(task_id__in=task_ids))
        finally:
            close_old_connections()
        return [(each, partial(self._read_row, row)) for each, row in _asked_for(rows, task_ids)]

    def _read_row(self, row: Any) -> Meta:
        loaded = SimpleNamespace(get_task=lambda task_id: row)
        self.store.TaskModel = SimpleNamespace(_default_manager=loaded)
        return self._read(row.task_id)
