"""Fill the process table: 400 processes that stay."""

import os
import time

alive = 0
try:
    for _ in range(400):
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        alive += 1
except OSError:
    pass
time.sleep(0.5)
if alive >= 300:
    print("SUCCEEDED", alive, flush=True)
