"""The pages."""

from django.urls import path

from . import views

urlpatterns = [
    path("", views.page),
    path("total", views.total),
    path("start", views.start),
    path("events/<task_id>", views.events),
    path("history", views.history),
]
