"""Open sockets of families that pass network namespaces or have a history: vsock, packet, the kernel's ciphers."""

import socket

for family, kind, protocol in (
    (40, socket.SOCK_STREAM, 0),  # AF_VSOCK: the hypervisor
    (17, socket.SOCK_RAW, 3),  # AF_PACKET
    (38, socket.SOCK_SEQPACKET, 0),  # AF_ALG
    (16, socket.SOCK_RAW, 12),  # netfilter
    (16, socket.SOCK_RAW, 9),  # audit
    (29, socket.SOCK_RAW, 1),  # AF_CAN
    (21, socket.SOCK_SEQPACKET, 0),  # AF_RDS
    (30, socket.SOCK_STREAM, 0),  # AF_TIPC
):
    try:
        socket.socket(family, kind, protocol).close()
        print("SUCCEEDED family", family, protocol, flush=True)
    except OSError:
        pass
