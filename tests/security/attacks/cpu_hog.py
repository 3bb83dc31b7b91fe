"""Use every processor at once for a second, after asking for all of them."""

import contextlib
import os
import sys
import time

with contextlib.suppress(OSError):
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
began = time.monotonic()
children = []
for _ in range(4):
    if (child := os.fork()) == 0:
        while time.monotonic() - began < 1.5:
            pass
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
times = os.times()
share = (times.children_user + times.children_system) / (time.monotonic() - began)
print("share", share, flush=True)
if share > 1.25 or (sys.argv[1:] == ["placed"] and len(os.sched_getaffinity(0)) > 1):
    print("SUCCEEDED", share, flush=True)
