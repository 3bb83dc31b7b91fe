"""Read, list and change the files of another job and of the server."""

import contextlib
import os
import sys

for path in sys.argv[1:]:
    with contextlib.suppress(OSError), open(path) as file:
        print("SUCCEEDED read", file.read(), flush=True)
    with contextlib.suppress(OSError):
        with open(path, "a") as file:
            file.write("changed")
        print("SUCCEEDED changed", path, flush=True)
    with contextlib.suppress(OSError):
        print("SUCCEEDED listed", os.listdir(os.path.dirname(path)), flush=True)
