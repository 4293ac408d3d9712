"""``end_in_a_callback MODE BROKER RESULTS DRAINER``: end while one comes that never returns."""

import sys
import threading
from tests.launch import patch

mode, broker, results, drainer = sys.argv[1:]
patch(mode)
from tests.tasks import make_app

app = make_app(broker, results, result_drainer=drainer)
app.tasks["nap"].delay(0.5, "came").then(lambda result: threading.Event().wait())
