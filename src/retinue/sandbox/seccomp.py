"""The filter of system calls: a short BPF program, assembled here because no library does it without a system package.

A filter (``man 2 seccomp``) sees a call's number and its arguments, not the memory they point to. Ours says no to what
no program of an operation needs and what kernels were broken with; everything else passes. A number that is newer than
the table is answered with "no such call", as an old kernel would. So the list must be looked at when it is raised.
"""

from __future__ import annotations

import errno
import platform
import struct
import sys
from collections.abc import Sequence

from retinue.sandbox.jobs import Finding

# Classic BPF: (code, jump if true, jump if false, value).
_LOAD = 0x20  # A = data[k]
_EQUAL = 0x15  # A == k
_ABOVE = 0x25  # A > k
_ANY_BIT = 0x45  # A & k
_RETURN = 0x06

# Offsets in struct seccomp_data. The low half of a 64-bit argument comes first on the machines named below.
_NUMBER, _MACHINE = 0, 4
_ARGUMENTS = 16

_ALLOW = 0x7FFF0000
_ERROR = 0x00050000
_KILL = 0x80000000

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

# All flags of clone() that make a namespace: mount, cgroup, uts, ipc, user, pid, net; and time for clone3/unshare.
_NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000

# name: (x86_64, aarch64); -1 where the machine has no such call. Checked against the kernel's headers by a test.
_FORBIDDEN = {
    # The machine itself.
    **{"reboot": (169, 142), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "swapon": (167, 224)},
    **{"swapoff": (168, 225), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106)},
    **{"acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "syslog": (103, 116)},
    **{"iopl": (172, -1), "ioperm": (173, -1), "settimeofday": (164, 170), "clock_settime": (227, 112)},
    **{"adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162)},
    **{"vhangup": (153, 58), "lookup_dcookie": (212, 18), "nfsservctl": (180, 42), "modify_ldt": (154, -1)},
    # Namespaces and mounts: a new user namespace opens most of the kernel to a program.
    **{"unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41)},
    **{"chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430)},
    **{"fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442)},
    **{"statmount": (457, 457), "listmount": (458, 458), "mknod": (133, -1), "mknodat": (259, 33)},
    **{"fanotify_init": (300, 262), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264)},
    # Other processes.
    **{"ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272)},
    **{"pidfd_getfd": (438, 438), "process_madvise": (440, 440), "perf_event_open": (298, 241)},
    **{"move_pages": (279, 239), "migrate_pages": (256, 238)},
    # Parts of the kernel with a long list of holes.
    **{"bpf": (321, 280), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426)},
    **{"io_uring_register": (427, 427), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219)},
    **{"vmsplice": (278, 75), "personality": (135, 92), "uselib": (134, -1), "ustat": (136, -1), "_sysctl": (156, -1)},
}

# Memory that belongs to no process: without a control group nobody counts it.
_UNCOUNTED = {
    **{"shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180)},
    **{"memfd_create": (319, 279), "memfd_secret": (447, 447)},
}

# Where whole processors are given by affinity, a program must not widen it.
_PLACING = {"sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "sched_setattr": (314, 274)}

_CALLS = {"socket": (41, 198), "clone": (56, 220), "clone3": (435, 435), "ioctl": (16, 29)}
_NEWEST = 462  # mseal, Linux 6.10: calls above were not looked at
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

Instruction = tuple[int, int, int, int]


UNSUPPORTED = Finding(
    "system calls", False, f"no filter of system calls is known for {sys.platform} on {platform.machine()}"
)


def supported() -> bool:
    """Tell whether the table knows this kind of machine."""
    return sys.platform == "linux" and platform.machine() in _MACHINES


def build(*, counted: bool, families: Sequence[int] = (AF_UNIX, AF_INET, AF_INET6, AF_NETLINK)) -> bytes:
    """Return the filter as ``struct sock_filter[]``, for ``bwrap --seccomp`` and for ``prctl``.

    Args:
        counted: a control group counts memory and divides processors; otherwise the calls that go around the watcher
            are forbidden too.
        families: the address families of sockets that may be made; of netlink only the routing protocol.
    """
    column, machine = _MACHINES[platform.machine()]
    program: list[Instruction] = [
        (_LOAD, 0, 0, _MACHINE),
        # Another machine's calls (32-bit ones on x86_64) have other numbers: the whole list would be passed by.
        (_EQUAL, 1, 0, machine),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        # Newer than the table; on x86_64 also the x32 calls, which have bit 30 set.
        (_ABOVE, 0, 1, _NEWEST),
        _refuse(errno.ENOSYS),
    ]
    forbidden = dict(_FORBIDDEN) if counted else {**_FORBIDDEN, **_UNCOUNTED, **_PLACING}
    for name, numbers in forbidden.items():
        # "No such call" where programs know to do without: they fall back then, and do not after "not permitted".
        refusal = errno.ENOSYS if name in _UNCOUNTED or name.startswith("io_uring") else errno.EPERM
        program += _for_call(numbers[column], [_refuse(refusal)])
    # The flags of clone3 are in memory, where a filter cannot look. The C library falls back to clone.
    program += _for_call(_CALLS["clone3"][column], [_refuse(errno.ENOSYS)])
    program += _for_call(
        _CALLS["clone"][column],
        [(_LOAD, 0, 0, _ARGUMENTS), (_ANY_BIT, 0, 1, _NEW_NAMESPACES), _refuse(errno.EPERM), _allow()],
    )
    # Characters pushed into a terminal's input are typed by whoever reads it next.
    program += _for_call(
        _CALLS["ioctl"][column],
        [
            (_LOAD, 0, 0, _ARGUMENTS + 8),
            (_EQUAL, 1, 0, _TIOCSTI),
            (_EQUAL, 0, 1, _TIOCLINUX),
            _refuse(errno.EPERM),
            _allow(),
        ],
    )
    program += _for_call(_CALLS["socket"][column], _families(families))
    program.append(_allow())
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _for_call(number: int, body: list[Instruction]) -> list[Instruction]:
    """Run ``body``, which returns, if the call has this number. The number is in A, and stays there otherwise."""
    return [] if number < 0 else [(_EQUAL, 0, len(body), number), *body]


def _families(families: Sequence[int]) -> list[Instruction]:
    # AF_VSOCK is the reason: it reaches the hypervisor from inside any network namespace.
    body: list[Instruction] = [(_LOAD, 0, 0, _ARGUMENTS)]
    for family in families:
        if family == AF_NETLINK:
            routing = [(_LOAD, 0, 0, _ARGUMENTS + 16), (_EQUAL, 0, 1, 0), _allow(), _refuse(errno.EPROTONOSUPPORT)]
            body += [(_EQUAL, 0, len(routing), AF_NETLINK), *routing]
        else:
            body += [(_EQUAL, 0, 1, family), _allow()]
    return [*body, _refuse(errno.EAFNOSUPPORT)]


def _refuse(number: int) -> Instruction:
    return (_RETURN, 0, 0, _ERROR | number)


def _allow() -> Instruction:
    return (_RETURN, 0, 0, _ALLOW)


def numbers() -> dict[str, int]:
    """Return the table's calls with their numbers on this machine, for the test that compares them."""
    column, _ = _MACHINES[platform.machine()]
    table = {**_FORBIDDEN, **_UNCOUNTED, **_PLACING, **_CALLS}
    return {name: value[column] for name, value in table.items() if value[column] >= 0}
