"""The private names of Celery that are in use: these tests fail where one has gone."""

from __future__ import annotations

from celery import Celery
from kombu import pools

from celery_green_drain.internals import disown_pools


def test_the_pools_of_an_app() -> None:
    app = Celery(broker="memory://", set_as_current=False)
    with app.producer_or_acquire():
        mine = {app.pool, app.producer_pool}
    disowned = disown_pools(app)
    assert mine <= set(filter(None, disowned))
    assert not pools.connections
    assert not pools.producers
    with app.producer_or_acquire():
        assert not {app.pool, app.producer_pool} & mine
    app.close()
