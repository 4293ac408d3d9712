"""How long one round trip takes while very much comes for others in the same process."""

from __future__ import annotations

import threading
import time
from typing import Any

from tests.green import spawn

from .contenders import make_app
from .load import RATE
from .many import CHUNK, MOMENT
from .plan import Measurement
from .process import Helper, percentiles
from .results import task_ids
from .trips import answerer

#: Seconds that it lasts, and seconds between two round trips.
LASTS, PAUSE = 10.0, 0.002

#: Waits that begin.
BURST = 100_000

#: Another one than that of other measurements.
SEED = 3


class Quiet:
    """Nothing comes. And the base of what does."""

    #: What :mod:`.load` is to send.
    kind = ""

    def __init__(self, what: Measurement, addresses: dict[str, str]) -> None:
        self.what = what
        self.app = make_app(what, addresses)
        self.seconds = LASTS * what.effort
        self.ids = task_ids(max(int(RATE * self.seconds), 1), SEED)
        self._times: list[float] = []
        self._over = threading.Event()
        self._url = addresses["redis"]

    def wait(self) -> None:
        """Wait for what is to come."""

    def come(self) -> None:
        """Have it come."""
        time.sleep(self.seconds)

    def measure(self) -> dict[str, Any]:
        self.app.tasks["add"].delay(1, 1).get(timeout=self.what.patience)
        helper = self.kind and Helper("load", self.kind, self._url, len(self.ids), SEED).ready()
        self.wait()
        time.sleep(self.what.settle)
        spawn(self._go)
        if helper:
            helper.start()
        self.come()
        self._over.set()
        if helper:
            helper.end()
        times = sorted(self._times)
        if not times:
            return {"failed": 1}
        longest = times[-1] * 1e3
        return {"failed": 0, "trips": len(times), "longest": longest, **percentiles(times)}

    def _go(self) -> None:
        while not self._over.is_set():
            begun = time.perf_counter()
            self.app.tasks["add"].delay(1, 1).get(timeout=self.what.patience)
            self._times.append(time.perf_counter() - begun)
            time.sleep(PAUSE)


class Results(Quiet):
    """Results come, for others."""

    kind = "results"

    def wait(self) -> None:
        self.left, self.come_all = len(self.ids), threading.Event()
        for task_id in self.ids:
            self.app.AsyncResult(task_id).then(self._count)

    def _count(self, result: Any) -> None:
        self.left -= 1
        if not self.left:
            self.come_all.set()

    def come(self) -> None:
        self.come_all.wait(self.what.patience)


class One(Quiet):
    """Somebody waits for one task."""

    def wait(self) -> None:
        self.came = threading.Event()
        spawn(self._get)

    def _get(self) -> None:
        self.app.AsyncResult(self.ids[0]).get(
            timeout=self.what.patience, on_message=lambda meta: None
        )
        self.came.set()

    def come(self) -> None:
        self.came.wait(self.what.patience)


class States(One):
    """That reports many states."""

    kind = "states"


class Large(One):
    """Whose result is very long."""

    kind = "large"


class Burst(Quiet):
    """Very many begin to wait."""

    def wait(self) -> None:
        self.ids = task_ids(int(BURST * self.what.effort), SEED)

    def come(self) -> None:
        kept = []
        for start in range(0, len(self.ids), CHUNK):
            for task_id in self.ids[start : start + CHUNK]:
                result = self.app.AsyncResult(task_id)
                result.then(len)
                kept.append(result)
            time.sleep(MOMENT)
        super().come()


#: By the name of the case.
LOADS = {"quiet": Quiet, "results": Results, "states": States, "large": Large, "burst": Burst}


def fair(what: Measurement, addresses: dict[str, str]) -> dict[str, Any]:
    with answerer(what, addresses):
        return LOADS[what.case](what, addresses).measure()


quiet = results = states = large = burst = fair
