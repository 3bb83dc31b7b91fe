"""The filter of system calls."""

from __future__ import annotations

import platform
import re
import struct
from pathlib import Path

import pytest

from retinue.sandbox import seccomp

HEADERS = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")


@pytest.mark.skipif(platform.machine() != "x86_64" or not HEADERS.exists(), reason="the kernel's headers are not here")
def test_the_numbers_are_the_kernel_s() -> None:
    text = HEADERS.read_text()
    theirs = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}
    ours = seccomp.numbers()
    assert {name: number for name, number in ours.items() if theirs.get(name, number) != number} == {}
    assert len(set(ours) & set(theirs)) > 70


def run(program: bytes, number: int, *arguments: int, machine: int = 0xC000003E) -> int:
    """Interpret a filter as the kernel would."""
    code = list(struct.iter_unpack("=HBBI", program))
    data = struct.pack("=IIQ6Q", number, machine, 0, *(*arguments, *[0] * (6 - len(arguments))))
    at = accumulator = 0
    while True:
        operation, yes, no, value = code[at]
        at += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif operation == 0x06:
            return int(value)
        else:
            hit = {0x15: accumulator == value, 0x25: accumulator > value, 0x45: bool(accumulator & value)}[operation]
            at += yes if hit else no


ALLOW, KILL = 0x7FFF0000, 0x80000000


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86_64")
def test_what_passes_and_what_does_not() -> None:
    counted, uncounted, alone = (
        seccomp.build(counted=True),
        seccomp.build(counted=False),
        seccomp.build(counted=False, families=()),
    )
    for program in (counted, uncounted, alone):
        assert run(program, 0) == ALLOW  # read
        assert run(program, 59) == ALLOW  # execve
        assert run(program, 56, 0x01200011) == ALLOW  # fork
        assert run(program, 56, 0x003D0F00) == ALLOW  # a thread
        assert run(program, 56, 0x10000011) == 0x00050001  # a user namespace
        assert run(program, 101) == 0x00050001  # ptrace
        assert run(program, 435) == 0x00050026  # clone3: no such call
        assert run(program, 500) == 0x00050026  # newer than the table
        assert run(program, 0x40000000) == 0x00050026  # x32
        assert run(program, 0, machine=0x40000003) == KILL  # i386
        assert run(program, 16, 0, 0x5412) == 0x00050001  # TIOCSTI
        assert run(program, 16, 0, 0x5401) == ALLOW
        assert run(program, 41, 40) == 0x00050061  # AF_VSOCK
        assert run(program, 53, 1) == ALLOW  # socketpair
        assert len(program) % 8 == 0
        assert len(program) // 8 < 4096
    assert (run(counted, 319), run(uncounted, 319)) == (ALLOW, 0x00050026)  # memfd_create
    for family in (1, 2, 10):
        assert (run(uncounted, 41, family), run(alone, 41, family)) == (ALLOW, 0x00050061)
    assert run(uncounted, 41, 16, 3, 0) == ALLOW  # netlink, routing
    assert run(uncounted, 41, 16, 3, 12) == 0x0005005D  # netlink, netfilter
