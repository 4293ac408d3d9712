"""What is known of each result store: how to look for many tasks, and whether its driver blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from celery.backends.base import BaseKeyValueStoreBackend

from ..consumers.polled.lookups import (
    CouchDocuments,
    DjangoKeys,
    DjangoRows,
    DynamoItems,
    Keys,
    Lookup,
    MongoDocuments,
    OneByOne,
    Rows,
)
from ..drainers.patching import patchers
from ..internals import psycopg_waits_in_c
from ..settings import Settings

__all__ = ("Traits", "gathers", "has_own_clients", "traits_of")


@dataclass(frozen=True)
class Traits:
    """How the calls to one store are made."""

    #: How many tasks are looked for.
    lookup: type[Lookup]

    #: Whether the calls are made in native threads, as the driver blocks all green threads.
    blocks: bool

    #: Calls that may be under way at once.
    parallel: int


#: Drivers of databases, by their names in SQLAlchemy and by their modules in Django, that wait
#: on sockets of Python, which green libraries patch.
GREEN_DRIVERS = {"psycopg", "pg8000", "pymysql"}


def _driver_blocks(name: str) -> bool:
    if name == "psycopg" and patchers():
        return psycopg_waits_in_c()
    return name not in GREEN_DRIVERS


def _sqlalchemy_blocks(backend: Any) -> bool:
    from sqlalchemy.engine import make_url

    return _driver_blocks(make_url(backend.url).get_driver_name())


def _django_blocks(backend: Any) -> bool:
    from django.db import connections

    database = connections[backend.TaskModel._default_manager.db]
    return _driver_blocks(database.Database.__name__)


def _cache_blocks(backend: Any) -> bool:
    # Before Celery 5.7 that is the client where it is installed.
    return str(backend.Client.__module__).startswith("pylibmc")


#: Classes of Celery and of django-celery-results; what is made from them is alike. A client over
#: HTTP has no way to read many keys, whatever its ``mget()`` says.
KNOWN: dict[str, tuple[type[Lookup], bool | Callable[[Any], bool]]] = {
    "celery.backends.arangodb.ArangoDbBackend": (Keys, False),
    "celery.backends.azureblockblob.AzureBlockBlobBackend": (OneByOne, False),
    "celery.backends.cache.CacheBackend": (Keys, _cache_blocks),
    "celery.backends.cassandra.CassandraBackend": (OneByOne, False),
    "celery.backends.consul.ConsulBackend": (OneByOne, False),
    "celery.backends.cosmosdbsql.CosmosDBSQLBackend": (OneByOne, False),
    "celery.backends.couchbase.CouchbaseBackend": (Keys, True),
    "celery.backends.couchdb.CouchBackend": (CouchDocuments, False),
    "celery.backends.database.DatabaseBackend": (Rows, _sqlalchemy_blocks),
    "celery.backends.dynamodb.DynamoDBBackend": (DynamoItems, False),
    "celery.backends.elasticsearch.ElasticsearchBackend": (OneByOne, False),
    "celery.backends.filesystem.FilesystemBackend": (Keys, True),
    "celery.backends.gcs.GCSBackendBase": (OneByOne, False),
    "celery.backends.mongodb.MongoBackend": (MongoDocuments, False),
    "celery.backends.s3.S3Backend": (OneByOne, False),
    "django_celery_results.backends.cache.CacheBackend": (DjangoKeys, True),
    "django_celery_results.backends.database.DatabaseBackend": (DjangoRows, _django_blocks),
}

#: The one whose client serves one call at a time only.
OWN_CLIENT = "celery.backends.cache.CacheBackend"


def traits_of(backend: Any, stock: type, settings: Settings) -> Traits:
    """Return what is known of the class *stock*, of which *backend* is one."""
    threads = settings.threads
    known = next((cls for cls in stock.__mro__ if _name(cls) in KNOWN), None)
    if known is not None:
        lookup, given = KNOWN[_name(known)]
        if not _reads_as(stock, known):
            lookup = OneByOne
        blocks = given(backend) if callable(given) else given
        # Sockets that a green library has patched belong to the thread that opened them, so what
        # is put into threads against its nature has to do with one.
        parallel = 1 if threads and not blocks else settings.parallel
        return Traits(lookup, blocks if threads is None else threads, parallel)
    # Of another package: it may block, and two calls at once may be more than its client bears,
    # as Celery gives each thread a backend of its own.
    has_mget = getattr(stock, "mget", None) not in (None, BaseKeyValueStoreBackend.mget) and (
        _reads_as(stock, BaseKeyValueStoreBackend, READS[:2])
    )
    return Traits(
        Keys if has_mget else OneByOne,
        blocks=threads is not False,
        parallel=settings.parallel if backend.app.conf.get("result_backend_thread_safe") else 1,
    )


#: By what a backend reads one state.
READS = ("get_task_meta", "_get_task_meta_for", "get")


def _reads_as(stock: type, known: type, names: Sequence[str] = READS) -> bool:
    """Whether the class *stock* reads a state as *known* does, of which it is a subclass."""
    return all(getattr(stock, name, None) is getattr(known, name, None) for name in names)


def has_own_clients(stock: type) -> bool:
    """Whether a client of the class *stock* serves one call at a time only."""
    return OWN_CLIENT in map(_name, stock.__mro__)


def gathers(backend: Any, stock: type) -> bool:
    """Whether single reads of *backend*, which is one of the class *stock*, go together.

    Not those of a subclass of what is known, which may go by who asks.
    """
    known = KNOWN.get(_name(stock))
    return known is not None and known[0].gathers(backend)


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
