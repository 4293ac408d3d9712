"""``diagnose(app)``: all checks, in the order in which one builds on the other."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

from ..addresses import broker_address, result_address
from ..errors import DrainerWarning
from .checks import check_packages, check_settings
from .findings import LEVELS, Finding
from .process import versions
from .report import consumer_of

__all__ = ("Diagnosis", "diagnose")


@dataclass
class Diagnosis:
    """What was found, and what was measured."""

    results: str
    broker: str
    findings: list[Finding] = field(default_factory=list)
    #: Times in seconds, and the number of workers.
    figures: dict[str, Any] = field(default_factory=dict)

    def at_least(self, level: str) -> list[Finding]:
        """Those that are so bad, or worse."""
        worst = LEVELS[LEVELS.index(level) :]
        return [finding for finding in self.findings if finding.rule.level in worst]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "results": self.results,
            "broker": self.broker,
            "versions": versions(),
            "figures": self.figures,
            "findings": [finding.as_dict() for finding in self.findings],
        }


def diagnose(
    app: Any, timeout: float = 5.0, workers: bool = True, command: str | None = None
) -> Diagnosis:
    """Check *app*: its settings, what is installed, store, broker, and workers.

    :param timeout: seconds to wait for each answer.
    :param workers: whether workers are asked, and a task is sent to one.
    :param command: what starts the web server, to be started once and looked into.
    """
    with warnings.catch_warnings():
        # This process is patched by nobody, whatever the web process is.
        warnings.simplefilter("ignore", DrainerWarning)
        return _diagnose(app, timeout, workers, command)


def _diagnose(app: Any, timeout: float, workers: bool, command: str | None) -> Diagnosis:
    diagnosis = Diagnosis(result_address(app), broker_address(app))
    findings = diagnosis.findings
    findings.extend(check_packages(app))
    findings.extend(check_settings(app))
    # Otherwise the servers cannot be asked as the app would ask them.
    if not diagnosis.at_least("error"):
        _ask_servers(app, timeout, workers, diagnosis)
    if command is None:
        findings.append(Finding("GD401", "How the web process is patched was not checked."))
    else:
        from .executed import check_command

        findings.extend(check_command(app, command, diagnosis.figures))
    return diagnosis


def _ask_servers(app: Any, timeout: float, workers: bool, diagnosis: Diagnosis) -> None:
    from .stores import check_broker, check_store
    from .workers import check_round_trip, check_workers

    findings, figures = diagnosis.findings, diagnosis.figures
    findings.extend(check_store(app, timeout, figures))
    findings.extend(check_broker(app, timeout))
    if workers and not diagnosis.at_least("error"):
        findings.extend(check_workers(app, timeout, figures))
        if figures["workers"]:
            findings.extend(check_round_trip(app, timeout, figures))
    consumer = consumer_of(app)
    if consumer is not None:
        consumer.stop()
