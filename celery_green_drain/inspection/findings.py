"""What the doctor may find: an id for each mistake, its level, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("LEVELS", "RULES", "Finding", "Rule")

#: From the least to the worst.
LEVELS = ("info", "warning", "error")


@dataclass(frozen=True)
class Rule:
    """One kind of mistake."""

    level: str
    #: In a few words.
    title: str
    #: Why it matters, and what to do.
    remedy: str


@dataclass(frozen=True)
class Finding:
    """A mistake that was found."""

    id: str
    #: What was found, here.
    text: str

    @property
    def rule(self) -> Rule:
        return RULES[self.id]

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        rule = self.rule
        return {"id": self.id, "level": rule.level, "text": self.text, "remedy": rule.remedy}


RULES = {
    # -- settings
    "GD001": Rule(
        "error",
        "the package is off",
        "Set result_drainer in the configuration of this app, in Django CELERY_RESULT_DRAINER. "
        "'auto' suits the web process, workers and tests alike.",
    ),
    "GD002": Rule(
        "error",
        "a setting is refused",
        "The first use of app.backend raises ImproperlyConfigured. Correct the setting.",
    ),
    "GD003": Rule(
        "warning",
        "a setting that is nearly ours",
        "Celery accepts misspelt settings in silence. Correct the name, unless it is somebody "
        "else's.",
    ),
    "GD004": Rule(
        "error",
        "there is no result backend",
        "Without result_backend no result is stored anywhere, and every get() fails. Set it, for "
        "instance to 'redis://localhost/1'.",
    ),
    "GD005": Rule(
        "error",
        "the result backend is not served",
        "Celery's own backend serves it, with one drain loop for each greenlet. Put 'green+' "
        "before it.",
    ),
    "GD006": Rule(
        "error",
        "results are ignored",
        "With task_ignore_result nothing is stored, get() returns None at once, and callbacks are "
        "never called. Unset it, and use ignore_result for single tasks.",
    ),
    "GD007": Rule(
        "warning",
        "results expire soon",
        "A result that is fetched later than result_expires is gone, and who asks for it waits "
        "until the timeout. Raise it.",
    ),
    "GD008": Rule(
        "warning",
        "tasks run in the caller",
        "With task_always_eager nothing is sent, and nothing waits: it is for tests. Unset it "
        "where tasks are to run in workers.",
    ),
    # -- packages
    "GD101": Rule(
        "error",
        "a package is missing",
        "Install what is named, with the extras of this package: the versions then fit together.",
    ),
    "GD102": Rule(
        "error",
        "a package is too old, or too new",
        "Install a version that fits, with the extras of this package.",
    ),
    "GD103": Rule(
        "warning",
        "results are parsed slowly",
        "redis-py parses responses several times faster with hiredis: install it.",
    ),
    "GD104": Rule(
        "warning",
        "kombu has not been tried with this version",
        "kombu refuses some versions of redis-py, and pip says which fit: install it with the "
        "extras of this package.",
    ),
    # -- the store
    "GD201": Rule(
        "error",
        "the result store cannot be reached",
        "See that it runs, and that address, port, network and TLS are right for this machine.",
    ),
    "GD202": Rule(
        "error",
        "the result store refuses the credentials",
        "Correct the user and the password in result_backend.",
    ),
    "GD203": Rule(
        "error",
        "the user may not do what is needed",
        "Results cannot be waited for. Give the user the right that is named.",
    ),
    "GD204": Rule(
        "warning",
        "the user may not do what is wanted",
        "It works, with more commands. Give the user the right that is named.",
    ),
    "GD205": Rule(
        "error",
        "messages do not arrive",
        "What is published is not seen by who has subscribed: a proxy or a cluster is in between. "
        "Results are then found only by the periodic look, see result_drainer_reconcile_interval.",
    ),
    "GD206": Rule(
        "warning",
        "results may be evicted",
        "With this maxmemory-policy it evicts keys when memory is full, results among them. Use "
        "'noeviction', or a Redis of its own for results.",
    ),
    "GD207": Rule(
        "warning",
        "subscribers may be cut off",
        "A process that is busy for a moment loses its connection, and all its results are asked "
        "for again. Raise client-output-buffer-limit pubsub to its default, 32mb 8mb 60.",
    ),
    "GD208": Rule(
        "warning",
        "idle connections are closed",
        "Its 'timeout' is not above result_drainer_heartbeat, so connections end between two "
        "heartbeats. Set it to 0, or lower the heartbeat.",
    ),
    "GD209": Rule(
        "warning",
        "few connections are left",
        "More than four fifths of maxclients are in use: further connections will be refused. "
        "Raise it, or find out with CLIENT LIST who holds them.",
    ),
    "GD210": Rule(
        "warning",
        "the result store is far away",
        "Each get() takes at least one round trip. Bring it nearer to the web process.",
    ),
    "GD211": Rule(
        "error",
        "a look at the result store fails",
        "No result can be found. The error says why.",
    ),
    "GD212": Rule(
        "warning",
        "a look at the result store takes long",
        "Results are seen later by that time. Look at the load of the store and at its indexes.",
    ),
    "GD213": Rule(
        "error",
        "the broker cannot be reached",
        "Nothing can be sent. See that it runs, and that broker_url is right for this machine.",
    ),
    "GD214": Rule(
        "warning",
        "Redis is in cluster mode",
        "Celery knows no clusters. It works where one shard holds all keys, with more commands; "
        "where there are several, results of the others are not found. Use a Redis without it.",
    ),
    "GD215": Rule(
        "info",
        "the driver of the result store blocks",
        "It waits in C, where no green library reaches it. So it is called in native threads, "
        "which costs more CPU time and delays nobody. See result_drainer_threads.",
    ),
    # -- the workers
    "GD301": Rule(
        "error",
        "no worker answers",
        "Start one, with the same broker_url. A busy worker of the pool 'solo' does not answer "
        "either: raise --timeout.",
    ),
    "GD302": Rule(
        "warning",
        "a worker names another result store",
        "If it is not another name for the same one, results are never found. Give both the same "
        "result_backend.",
    ),
    "GD303": Rule(
        "error",
        "the worker stores elsewhere",
        "Its message came, but the store of this app has no such result: another database of the "
        "same Redis. Give both the same result_backend.",
    ),
    "GD304": Rule(
        "warning",
        "a worker loses results in an outage",
        "Without result_backend_always_retry, a worker that cannot reach Redis drops the result of "
        "the task that it has just run. Set it to True for the workers.",
    ),
    "GD305": Rule(
        "error",
        "results cannot be read",
        "The worker's result_serializer is none that this app accepts. Give both the same, or "
        "add it to result_accept_content.",
    ),
    "GD306": Rule(
        "error",
        "a worker stores under other names",
        "Its result_backend_transport_options have another global_keyprefix. Give both the same.",
    ),
    "GD307": Rule(
        "error",
        "a worker ignores results",
        "It has task_ignore_result, and stores nothing. Unset it.",
    ),
    "GD308": Rule(
        "error",
        "no result has come back",
        "See that a worker consumes the default queue, and stores its results in the same place.",
    ),
    # -- the web process
    "GD401": Rule(
        "info",
        "the web process is not seen from here",
        "Which green library patches it shows only inside: have the doctor start it, with --exec "
        "and the command, serve celery_green_drain.wsgi_report(app) there, or print "
        "celery_green_drain.report(app).",
    ),
    "GD402": Rule(
        "error",
        "the web process is not patched as it should be",
        "Results arrive all the same, by a thread, but who waits may block the whole process. Use "
        "a server that patches, such as gunicorn -k gevent, or patch in the first line of the "
        "program, before anything is imported.",
    ),
    "GD403": Rule(
        "error",
        "the web process cannot be looked at",
        "See that the command starts in this folder, on a port that is free, and that it imports "
        "this Celery app.",
    ),
    "GD404": Rule(
        "info",
        "the workers of uWSGI are not seen",
        "It loads the application in its master and forks in C, so this was the master. Add "
        "--lazy-apps for this look.",
    ),
}
