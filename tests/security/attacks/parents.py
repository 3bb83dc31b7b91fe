"""Kill whoever watches: the parent, process 1, every process that can be reached."""

import contextlib
import os
import signal
import sys
import time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
for target in (os.getppid(), 1):
    for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
        try:
            if target > 1 or os.getpid() < 50:  # never the machine's own
                os.kill(target, number)
        except OSError:
            pass
if len(sys.argv) > 1 and sys.argv[1] == "all":
    with contextlib.suppress(OSError):
        os.kill(-1, signal.SIGTERM)
time.sleep(0.2)  # a signal that gets through ends this program before it can say so
print("still here", flush=True)
