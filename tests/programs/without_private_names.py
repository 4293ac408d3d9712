"""A child of a task, with a Celery that has lost the names that we know."""

from celery import Celery, _state, current_task

del _state.push_current_task, _state.pop_current_task
from celery_green_drain import copy_current_task_context
from tests.green import crowd


@Celery(set_as_current=False).task(bind=True)
def task(self):
    child = copy_current_task_context(lambda _: (self.request.id, bool(current_task)))
    return crowd(1, child)


print(task.apply(task_id="known").result)
