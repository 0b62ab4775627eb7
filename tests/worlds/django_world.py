"""Django in a test: its settings are one for the whole process, so each test names its own views with its requests."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler


class OwnViews(WSGIHandler):  # type: ignore[misc]  # Django has no types
    """An application whose views are the `urlpatterns` of a module."""

    def __init__(self, module: str) -> None:
        super().__init__()
        self.module = module

    def get_response(self, request: Any) -> Any:
        """Answer a request by the views of the module."""
        request.urlconf = self.module
        return super().get_response(request)


def django_handler(module: str) -> OwnViews:
    """A Django application with the views of a module."""
    if not settings.configured:
        settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="of a test", MIDDLEWARE=[])
    django.setup()
    return OwnViews(module)


urlpatterns: list[Any] = []
