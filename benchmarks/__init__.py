"""How fast results are, beside plain Celery and beside what the protocols allow at best.

    scripts/benchmark [--quick] [--out FOLDER] [--only WORD...]

Each measurement is a process of its own (``measure.py``), and so is who publishes the results
(``publisher.py``) and who answers the tasks (``answerer.py``).
"""
