"""``celery -A tasks green-drain``: Celery imports this for each of its commands, so it is small."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING

import click

from .findings import LEVELS, RULES

if TYPE_CHECKING:
    from .doctor import Diagnosis

__all__ = ("green_drain",)


@click.group("green-drain")
def green_drain() -> None:
    """See how celery_green_drain is set up."""


@green_drain.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--fail-level",
    type=click.Choice(LEVELS),
    default="error",
    show_default=True,
    help="The exit status is 1 where something so bad, or worse, is found.",
)
@click.option(
    "--timeout", type=float, default=5.0, show_default=True, help="Seconds for an answer."
)
@click.option("--no-workers", is_flag=True, help="Ask no worker, and send no task.")
@click.option("--exec", "command", help="Start this web server once, and look how it is patched.")
@click.option("-v", "--verbose", is_flag=True, help="Show figures and remarks as well.")
@click.pass_context
def doctor(
    context: click.Context,
    as_json: bool,
    fail_level: str,
    timeout: float,
    no_workers: bool,
    command: str | None,
    verbose: bool,
) -> None:
    """Check settings, packages, the result store, the broker and the workers.

    Sends one small task to a worker. With --exec "gunicorn -k gevent shop.web:application" it looks
    into the processes of that server as well, and ends it.
    """
    from ..django import set_up
    from .doctor import diagnose

    try:
        set_up()
    except Exception as exc:
        click.echo(f"Django cannot be set up: {type(exc).__name__}: {exc}", err=True)
    diagnosis = diagnose(context.obj.app, timeout, workers=not no_workers, command=command)
    if as_json:
        click.echo(json.dumps(diagnosis.as_dict(), indent=2))
    else:
        _show(diagnosis, "info" if verbose else "warning", verbose)
    context.exit(1 if diagnosis.at_least(fail_level) else 0)


def _show(diagnosis: Diagnosis, level: str, verbose: bool) -> None:
    for finding in diagnosis.at_least(level):
        rule = finding.rule
        click.echo(f"{finding.id} {rule.level}: {rule.title}")
        click.echo(f"    {finding.text}")
        click.echo(f"    {rule.remedy}")
    figures = diagnosis.figures
    if verbose:
        for name, value in figures.items():
            shown = f"{value * 1000:.1f} ms" if isinstance(value, float) else value
            click.echo(f"{name}: {shown}")
    if not diagnosis.at_least("warning"):
        web = f", web server: {figures['web']}" if "web" in figures else ""
        click.echo(f"All is well: results from {diagnosis.results}{_trip(diagnosis)}{web}.")


def _trip(diagnosis: Diagnosis) -> str:
    figures = diagnosis.figures
    if "delivered" not in figures:
        return ""
    count = figures["workers"]
    workers = "1 worker" if count == 1 else f"{count} workers"
    return f", {workers}, a task there and back in {figures['delivered'] * 1000:.0f} ms"


@green_drain.command()
@click.argument("url")
@click.option("--interval", type=float, default=1.0, show_default=True, help="Seconds.")
@click.option("--count", type=int, default=0, help="Rounds; 0: until Ctrl-C.")
@click.option("--asks", type=int, default=4, show_default=True, help="Requests in a round.")
def top(url: str, interval: float, count: int, asks: int) -> None:
    """Show the figures of running web processes, again and again.

    URL is where they serve their report, such as http://127.0.0.1:8000/inside.
    """
    from .top import Top

    shown = Top(url, asks)
    for number in itertools.count(1):
        try:
            shown.ask()
        except (OSError, ValueError) as exc:
            raise click.ClickException(f"{url}: {exc}") from exc
        click.clear()
        click.echo("\n".join(shown.lines()))
        if number == count:
            return
        time.sleep(interval)


@green_drain.command()
@click.argument("finding", type=click.Choice(sorted(RULES), case_sensitive=False))
def explain(finding: str) -> None:
    """Say more about a finding, such as GD201."""
    rule = RULES[finding]
    click.echo(f"{finding} {rule.level}: {rule.title}")
    click.echo(rule.remedy)
