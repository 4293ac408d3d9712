"""A web application to try the package with: ``python -m celery_green_drain.demo``."""
