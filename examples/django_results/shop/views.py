"""Results in a request, pushed to the browser, and kept in the database."""

from celery import current_app
from celery.result import AsyncResult
from django.http import HttpResponse, JsonResponse
from django_celery_results.backends import DatabaseBackend
from django_celery_results.models import TaskResult

from celery_green_drain import sse

from .tasks import add, pack

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Boxes</title>
<p><a href="start?boxes=10">Pack ten boxes</a>, <a href="total?x=2&amp;y=3">add 2 and 3</a>, or see
<a href="history">what was packed</a>.</p></html>"""


def page(request):
    return HttpResponse(PAGE)


def total(request):
    """Wait for the result. Other requests go on meanwhile."""
    x, y = int(request.GET.get("x", 2)), int(request.GET.get("y", 3))
    return JsonResponse({"total": add.delay(x, y).get(timeout=10)})


def start(request):
    result = pack.delay(int(request.GET.get("boxes", 10)))
    result.then(keep)
    return JsonResponse({"id": result.id, "events": f"events/{result.id}"}, status=202)


def keep(result):
    """Write down how it ended. This runs beside the requests, as soon as the result comes."""
    DatabaseBackend(current_app).store_result(result.id, result.result, result.state)


def events(request, task_id):
    return sse.django_response(request, AsyncResult(task_id))


def history(request):
    rows = TaskResult.objects.order_by("-date_done")[:100]
    return JsonResponse({"tasks": list(rows.values("task_id", "status", "result"))})
