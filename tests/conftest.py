"""One thread for every test and what it starts: tiny models gain nothing from a second, and sums keep their order."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
