"""The configuration of Sphinx: ``scripts/test docs`` builds these pages."""

import sys
from pathlib import Path

from celery_green_drain import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "celery_green_drain"
author = "the celery_green_drain developers"
copyright = f"2026, {author}"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "sphinx_copybutton", "sphinx_design", "before_after"]
exclude_patterns = ["_build", "_ext", "_templates"]
templates_path = ["_templates"]
default_role = "code"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"

# What is printed below a command is not copied with it, and neither is its prompt.
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = project
html_logo = "_static/logo.svg"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#17663f",
        "color-brand-content": "#17663f",
        "color-brand-visited": "#17663f",
    },
    "dark_css_variables": {
        "color-brand-primary": "#6fd3a0",
        "color-brand-content": "#6fd3a0",
        "color-brand-visited": "#6fd3a0",
    },
}
