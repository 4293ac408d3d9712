"""What the worker does."""

import time

from celery import shared_task


@shared_task
def add(x, y):
    return x + y


@shared_task(bind=True)
def pack(self, boxes):
    if boxes < 1:
        raise ValueError("There is nothing to pack.")
    for box in range(boxes):
        self.update_state(state="PROGRESS", meta={"box": box, "boxes": boxes})
        time.sleep(0.2)
    return f"{boxes} boxes are packed."
