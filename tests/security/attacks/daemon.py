"""Leave a process behind: a new session, two forks, no descriptors, every signal ignored."""

import contextlib
import os
import signal
import sys
import time

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(1, 64):
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_IGN)
        os.closerange(0, 64)
        time.sleep(int(sys.argv[2]))
    os._exit(0)
os.wait()
print("left", flush=True)
