"""Runs inside a sandbox: 127.0.0.1 for the program, one unix socket for the server.

It listens, starts the program, waits for it, and ends with its code. It knows the standard library only, and nothing of
the server; it runs as the program's user, in the same walls.

    python -I -S bridge.py SOCKET PORT PROGRAM [ARGUMENT...]
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

_CHUNK = 65536
_AT_ONCE = 64


def main(arguments: list[str]) -> int:
    """Listen, run the program, and return its exit code, 128 + n for signal n."""
    path, port, program = arguments[0], int(arguments[1]), arguments[2:]
    listener = socket.create_server(("127.0.0.1", port), backlog=_AT_ONCE)
    child = os.fork()  # before there are threads
    if child == 0:
        listener.close()
        try:
            os.execvp(program[0], program)
        except OSError as error:
            os.write(2, f"{program[0]}: {error.strerror}\n".encode())
            os._exit(126 if isinstance(error, PermissionError) else 127)
    threading.Thread(target=_serve, args=(listener, path), daemon=True).start()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _serve(listener: socket.socket, path: str) -> None:
    places = threading.Semaphore(_AT_ONCE)
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            continue  # the client went away before it was accepted
        places.acquire()
        try:
            threading.Thread(target=_join, args=(client, path, places), daemon=True).start()
        except RuntimeError:  # the program has taken all processes that it may have
            client.close()
            places.release()


def _join(client: socket.socket, path: str, places: threading.Semaphore) -> None:
    try:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(path)
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join()
    except (OSError, RuntimeError):
        pass  # the program sees a closed connection
    finally:
        places.release()


def _copy(source: socket.socket, target: socket.socket) -> None:
    # Blocking both ways: whoever reads slowly slows the other side down.
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
