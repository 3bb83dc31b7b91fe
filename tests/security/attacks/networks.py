"""Reach the network: services of the machine on every address, the metadata service, the internet."""

import errno
import socket
import sys

targets = [(host, int(port)) for host, port in (one.rsplit(":", 1) for one in sys.argv[1:])]
for target in [*targets, ("169.254.169.254", 80), ("192.0.2.1", 53), ("1.1.1.1", 443)]:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            with socket.socket(socket.AF_INET, kind) as line:
                line.settimeout(0.5)
                line.connect(target)
                if kind == socket.SOCK_DGRAM:
                    line.send(b"x")
            reached = True
        except TimeoutError:
            reached = True  # something was sent, and nothing came back
        except OSError as error:
            # A refusal by a listener that is not there is told by this sandbox's own loopback, too.
            reached = error.errno not in (
                errno.ENETUNREACH,
                errno.ECONNREFUSED,
                errno.EPERM,
                errno.EACCES,
                errno.EAFNOSUPPORT,
            )
        own = target[0].startswith("127.") and kind == socket.SOCK_DGRAM  # always possible on an own loopback
        if reached and not own:
            print("SUCCEEDED", target, kind, flush=True)
