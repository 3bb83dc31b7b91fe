"""Fill the process table with threads."""

import threading

threading.stack_size(64 << 10)  # so that memory is not what ends it
release = threading.Event()
alive = 0
try:
    for _ in range(400):
        threading.Thread(target=release.wait, daemon=True).start()
        alive += 1
except RuntimeError:
    pass
if alive >= 300:
    print("SUCCEEDED", alive, flush=True)
release.set()
