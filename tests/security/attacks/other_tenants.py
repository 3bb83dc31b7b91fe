"""Read, list and change the files of another job and of the server."""

import os
import sys

for path in sys.argv[1:]:
    try:
        with open(path) as file:
            print("SUCCEEDED read", file.read(), flush=True)
    except OSError:
        pass
    try:
        with open(path, "a") as file:
            file.write("changed")
        print("SUCCEEDED changed", path, flush=True)
    except OSError:
        pass
    try:
        print("SUCCEEDED listed", os.listdir(os.path.dirname(path)), flush=True)
    except OSError:
        pass
