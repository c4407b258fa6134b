from __future__ import annotations

import platform
import re
import struct

import pytest

from router.worker import seccomp
from tests.worker.kernel import header, needs_filter
from tests.worker.prison import printed

HERE = platform.machine()
ENTER = "sandbox.no_new_privs()\nseccomp.enter()\n"


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_every_number_is_the_kernels_own(machine: str) -> None:
    known = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header(machine)))
    found = seccomp.MACHINES[machine]
    numbers = {**found.denied, "socket": found.socket, "clone": found.clone, "seccomp": found.seccomp}
    wrong = {name: n for name, n in numbers.items() if name in known and int(known[name]) != n}
    assert wrong == {}
    assert len(set(numbers) & set(known)) > 50


def test_both_processors_are_denied_the_same_but_for_what_only_one_has() -> None:
    x86, arm = (set(machine.denied) for machine in seccomp.MACHINES.values())
    assert x86 ^ arm == {"iopl", "ioperm", "modify_ldt"}


def run(code: bytes, audit: int, number: int, argument: int = 0) -> int:
    """What the kernel's machine would answer: the five instructions that the filter is made of."""
    data = struct.pack("<IIQQ", number, audit, 0, argument)
    at = accumulator = 0
    while True:
        operation, yes, no, value = struct.unpack_from("=HBBI", code, at * 8)
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x06:
                return int(value)
            case 0x15:
                at += yes if accumulator == value else no
            case 0x35:
                at += yes if accumulator >= value else no
            case 0x45:
                at += yes if accumulator & value else no


@pytest.mark.parametrize("machine", seccomp.MACHINES.values(), ids=seccomp.MACHINES)
def test_the_program_refuses_what_is_listed_and_nothing_else(machine: seccomp.Machine) -> None:
    code = seccomp.program(machine)
    allowed, denied = 0x7FFF0000, 0x00050001
    special = {machine.socket, machine.clone, 435}
    for number in set(range(500)) - special:
        wanted = denied if number in machine.denied.values() else allowed
        assert run(code, machine.audit, number) == wanted, number
    assert run(code, machine.audit, machine.socket, 1) == allowed  # AF_UNIX
    assert {run(code, machine.audit, machine.socket, family) for family in (2, 10, 16, 17, 40)} == {
        0x00050061
    }
    assert run(code, machine.audit, machine.clone, 0x3D0F00) == allowed  # a thread
    assert run(code, machine.audit, machine.clone, 0x10000000) == denied  # a user namespace
    assert run(code, machine.audit, 435) == 0x00050026
    assert run(code, machine.audit ^ 1, 0) == denied  # another processor's calls, by other numbers
    assert run(code, machine.audit, 0x40000000 | 101) == denied


@needs_filter
def test_under_the_filter_this_kernel_refuses_each_listed_call() -> None:
    script = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
{ENTER}
for name, number in seccomp.MACHINES["{HERE}"].denied.items():
    answer = libc.syscall(number, -1, -1, -1, -1, -1)
    print(name, answer, ctypes.get_errno())
"""
    answers = printed(script)
    assert [line for line in answers if not line.endswith(" -1 1")] == []
    assert len(answers) == len(seccomp.MACHINES[HERE].denied)


@needs_filter
def test_threads_and_unix_sockets_go_on_and_the_network_does_not() -> None:
    script = f"""
print(seccomp.holds())
waiting = threading.Event()
before = threading.Thread(target=lambda: (waiting.wait(), print(tried(socket.socket, socket.AF_INET))))
before.start()
{ENTER}
waiting.set()
before.join()
print(seccomp.holds())
print(tried(socket.socketpair))
after = threading.Thread(target=lambda: print(tried(socket.socket, socket.AF_INET6)))
after.start()
after.join()
print(tried(os.execv, "/bin/true", ["true"]))
"""
    no_network = "Address family not supported by protocol"
    assert printed(script) == ["False", no_network, "True", "done", no_network, "Operation not permitted"]


def test_a_processor_without_a_table_is_an_error_and_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    with pytest.raises(OSError, match="no filter for vax"):
        seccomp.enter()
    assert not seccomp.holds()
