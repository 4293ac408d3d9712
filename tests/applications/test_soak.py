"""A short soak; and whether its ledger would tell."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ..servers import UNMEASURED
from ..soak.ledger import Balance, balance


@pytest.mark.parametrize("backend", ["redis", "rpc"])
def test_nothing_is_lost(backend: str) -> None:
    command = [sys.executable, "-m", "tests.soak", "--backend", backend]
    command += ["--minutes", "0.2", "--pause", "2"]
    soak = subprocess.run(command, env=UNMEASURED, capture_output=True, text=True, timeout=300)
    assert soak.returncode == 0, soak.stdout + soak.stderr


def test_a_fault_that_there_is_not() -> None:
    command = [sys.executable, "-m", "tests.soak", "--faults", "earthquake"]
    soak = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert soak.returncode != 0
    assert "earthquake" in soak.stderr
    assert "client-kill" in soak.stderr


FINE = [["sent", "t"], ["waits", "w", "t", "value", 1.0], ["got", "w", "value", 3.0]]


def test_a_ledger_that_balances() -> None:
    assert balance(FINE) == Balance(1, sent=1, waits=1, delivered=1, longest=2.0)
    assert balance(FINE).balances
    assert not balance([]).balances  # nobody has waited


@pytest.mark.parametrize(
    ("events", "what"),
    [
        (FINE[:2], "missing"),
        ([*FINE, FINE[-1]], "doubled"),
        ([*FINE[:2], ["got", "w", "another value", 3.0]], "wrong"),
    ],
)
def test_a_ledger_that_does_not(events: list[list[object]], what: str) -> None:
    account = balance(events)
    assert getattr(account, what) == 1
    assert not account.balances
    assert not (balance(FINE) + account).balances


def test_who_is_killed_may_get_nothing() -> None:
    account = balance([*FINE[:2], ["kills", "w"]])
    assert (account.killed, account.missing) == (1, 0)
    assert balance([*FINE[:2], ["kills", "w"], FINE[2]]).delivered == 1
