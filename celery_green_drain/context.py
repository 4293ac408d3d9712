"""The current task in a greenlet or thread that it has started.

Celery keeps the running task and its request on stacks of each greenlet and thread, so in a
child there are none: ``self.request.id`` is None there, ``self.update_state()`` reports for
nobody, and ``current_task`` is nothing. :func:`copy_current_task_context` puts them there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from celery import current_task
from celery.local import Proxy
from celery.signals import task_postrun, task_prerun

from .errors import TaskContextError
from .internals import as_text

try:
    # Private names of Celery, which has no other way. Without them current_task stays empty in
    # a child, while self.request and self.update_state() work.
    from celery._state import pop_current_task, push_current_task
except ImportError:

    def push_current_task(task: Any) -> None: ...

    def pop_current_task() -> None: ...


__all__ = ("copy_current_task_context",)

Function = TypeVar("Function", bound=Callable[..., Any])


def copy_current_task_context(func: Function) -> Function:
    """Return *func* so that it runs with the current task, in whichever greenlet or thread.

    To be called in the task. In *func*, and in what it calls, ``current_task``,
    ``self.request`` and ``self.update_state()`` work as they do in the task itself, until the
    task returns: from then on they raise :exc:`~celery_green_drain.TaskContextError`. What is
    returned may be called any number of times, at once too, and be copied again there::

        @app.task(bind=True)
        def crawl(self, urls):
            @copy_current_task_context
            def fetch(url):
                ...
                self.update_state(state="PROGRESS", meta={"url": url})

            gevent.joinall([gevent.spawn(fetch, url) for url in urls])

    :raises TaskContextError: where no task runs.
    """
    task, request = _current()
    stack = task.request_stack

    @wraps(func)
    def run(*args: Any, **kwargs: Any) -> Any:
        push_current_task(task)
        stack.push(request)
        try:
            return func(*args, **kwargs)
        finally:
            stack.pop()
            pop_current_task()

    return cast(Function, run)


class Life:
    """Whether a task still runs."""

    over = False


#: The lives of the tasks whose context was copied, by their requests.
lives: WeakKeyDictionary[Any, Life] = WeakKeyDictionary()


def _end(task: Any = None, **kwargs: Any) -> None:
    # Called where the task has run, so this is its own request.
    life = lives.pop(task.request, None)
    if life is not None:
        life.over = True


task_postrun.connect(_end)

#: The requests of the tasks that run in this process, by their ids.
running: dict[str, Any] = {}


def know_running_tasks() -> None:
    """From now on, know the tasks that run in this process. Further calls have no effect."""
    # Not weakly, or Celery would keep a finaliser of each call.
    task_prerun.connect(_note_running, weak=False)
    task_postrun.connect(_note_ended, weak=False)


def request_of(task_id: str) -> Any:
    """The request of a task that runs in this process; None: there is no such task."""
    return running.get(task_id)


def is_lost() -> bool:
    """Whether the caller is nowhere in a task, while tasks run: mostly in what one has started."""
    return bool(running) and not current_task


def _note_running(task_id: Any = None, task: Any = None, **kwargs: Any) -> None:
    running[as_text(task_id)] = task.request


def _note_ended(task_id: Any = None, task: Any = None, **kwargs: Any) -> None:
    if running.get(as_text(task_id)) is task.request:  # not one that was sent again meanwhile
        running.pop(as_text(task_id), None)


def without_task(action: str) -> TaskContextError:
    """The error of *action* where no task is known."""
    return TaskContextError(
        f"{action} was called without a task id where no task runs. In a greenlet or thread that a "
        "task has started, give it the id (task_id = self.request.id, read in the task), or wrap "
        "the function that runs there in celery_green_drain.copy_current_task_context()."
    )


def _current() -> tuple[Any, Any]:
    """The current task and its request, as a child is to see them."""
    task = current_task._get_current_object()
    if task is None:
        raise TaskContextError(
            "copy_current_task_context() was called where no task runs: call it in the task, and "
            "give what it returns to the greenlet or thread."
        )
    request = task.request
    if type(request) is Proxy:  # a child of a child
        return task, request
    life = lives.setdefault(request, Life())
    name = f"{task.name}[{request.id}]"
    return _guarded(task, life, name), _guarded(request, life, name)


def _guarded(thing: Any, life: Life, name: str) -> Any:
    """*thing* as long as the task runs."""

    def get() -> Any:
        if life.over:
            raise TaskContextError(
                f"Task {name} has returned, and what it has started runs on without it: let the "
                "task wait for its greenlets and threads, or start a task of its own for this."
            )
        return thing

    return Proxy(get)
