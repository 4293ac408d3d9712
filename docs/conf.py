"""The configuration of Sphinx: ``scripts/test docs`` builds these pages."""

from celery_green_drain import __version__

project = "celery_green_drain"
author = "the celery_green_drain developers"
copyright = f"2026, {author}"
version = release = __version__

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
default_role = "code"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"

html_theme = "alabaster"
html_theme_options = {
    "description": "Celery results in gevent and eventlet web processes",
    "fixed_sidebar": True,
}
html_show_sphinx = False
html_copy_source = False
