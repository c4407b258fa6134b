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
    by_argument = found.of_itself | found.signals | found.to_others
    numbers = {
        **found.denied,
        **by_argument,
        "socket": found.socket,
        "clone": found.clone,
        "seccomp": found.seccomp,
    }
    wrong = {name: n for name, n in numbers.items() if name in known and int(known[name]) != n}
    assert wrong == {}
    assert len(set(numbers) & set(known)) > 50


def test_both_processors_are_denied_the_same_but_for_what_only_one_has() -> None:
    x86, arm = seccomp.MACHINES["x86_64"], seccomp.MACHINES["aarch64"]
    of_one_processor = {"iopl", "ioperm", "modify_ldt"}
    older_forms = {"fork", "vfork", "chmod", "chown", "lchown", "utime", "utimes", "futimesat"}
    assert set(x86.denied) ^ set(arm.denied) == of_one_processor | older_forms
    assert x86.of_itself.keys() == arm.of_itself.keys()
    assert x86.signals.keys() == arm.signals.keys()
    assert x86.to_others.keys() == arm.to_others.keys()
    assert x86.memory.keys() == arm.memory.keys()
    assert x86.commands.keys() == arm.commands.keys()


def run(code: bytes, audit: int, number: int, *arguments: int) -> int:
    """What the kernel's machine would answer: the five instructions that the filter is made of."""
    data = struct.pack("<IIQ6Q", number, audit, 0, *arguments, *(0,) * (6 - len(arguments)))
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


PID = 4321
ALLOWED, DENIED, NO_SOCKETS = 0x7FFF0000, 0x00050001, 0x00050061


@pytest.mark.parametrize("machine", seccomp.MACHINES.values(), ids=seccomp.MACHINES)
def test_the_program_refuses_what_is_listed_and_nothing_else(machine: seccomp.Machine) -> None:
    code = seccomp.program(machine, PID)
    by_argument = {*machine.of_itself.values(), *machine.signals.values()}
    special = {machine.socket, machine.clone, 435}
    denied = {*machine.denied.values(), *machine.to_others.values(), *machine.memory.values()}
    for number in set(range(500)) - special - by_argument:
        assert run(code, machine.audit, number) == (DENIED if number in denied else ALLOWED), number
    families = {run(code, machine.audit, machine.socket, family) for family in (1, 2, 10, 16, 17, 40)}
    assert families == {NO_SOCKETS}
    assert run(code, machine.audit, machine.clone, 0x3D0F00) == ALLOWED  # a thread
    assert run(code, machine.audit, machine.clone, 0x1200011) == DENIED  # a fork
    assert run(code, machine.audit, machine.clone, 0x10010000) == DENIED  # a user namespace
    assert run(code, machine.audit, 435) == 0x00050026
    assert run(code, machine.audit ^ 1, 0) == DENIED  # another processor's calls, by other numbers
    assert run(code, machine.audit, 0x40000000 | 101) == DENIED


@pytest.mark.parametrize("machine", seccomp.MACHINES.values(), ids=seccomp.MACHINES)
def test_some_calls_reach_only_the_process_itself(machine: seccomp.Machine) -> None:
    code = seccomp.program(machine, PID)
    everybody = 2**32 - 1
    for number in machine.of_itself.values():
        answers = [run(code, machine.audit, number, pid) for pid in (0, PID, 1, PID + 1, everybody)]
        assert answers == [ALLOWED, ALLOWED, DENIED, DENIED, DENIED]
    for number in machine.signals.values():
        answers = [run(code, machine.audit, number, pid) for pid in (0, PID, 1, everybody)]
        assert answers == [DENIED, ALLOWED, DENIED, DENIED]


@pytest.mark.parametrize("machine", seccomp.MACHINES.values(), ids=seccomp.MACHINES)
def test_no_signal_is_sent_by_way_of_a_file_s_owner(machine: seccomp.Machine) -> None:
    code = seccomp.program(machine, PID)
    for command in (8, 10, 15):
        assert run(code, machine.audit, machine.commands["fcntl"], 5, command, 1) == DENIED
    for command in (0x8901, 0x8902):
        assert run(code, machine.audit, machine.commands["ioctl"], 5, command) == DENIED
    assert run(code, machine.audit, machine.commands["fcntl"], 5, 4) == ALLOWED  # F_SETFL
    assert run(code, machine.audit, machine.commands["ioctl"], 5, 0xC020462A) == ALLOWED  # a driver's


@pytest.mark.parametrize("machine", seccomp.MACHINES.values(), ids=seccomp.MACHINES)
def test_memory_that_no_limit_counts_is_for_drivers_only(machine: seccomp.Machine) -> None:
    code, driver = seccomp.program(machine, PID), seccomp.program(machine, PID, driver=True)
    for flags, answer in ((0x21, DENIED), (0x23, DENIED), (0x22, ALLOWED), (0x01, ALLOWED), (0x02, ALLOWED)):
        assert run(code, machine.audit, machine.mmap, 0, 4096, 3, flags) == answer
    assert run(driver, machine.audit, machine.mmap, 0, 4096, 3, 0x21) == ALLOWED
    assert {run(driver, machine.audit, number) for number in machine.memory.values()} == {ALLOWED}


@pytest.mark.parametrize("machine", seccomp.MACHINES.values(), ids=seccomp.MACHINES)
def test_a_driver_that_listens_on_a_socket_can_be_reached_and_no_network(machine: seccomp.Machine) -> None:
    code = seccomp.program(machine, PID, sockets=True)
    assert run(code, machine.audit, machine.socket, 1) == ALLOWED
    assert {run(code, machine.audit, machine.socket, family) for family in (2, 10, 16)} == {NO_SOCKETS}
    assert run(code, machine.audit, machine.to_others["connect"]) == ALLOWED


@needs_filter
def test_under_the_filter_this_kernel_refuses_each_listed_call() -> None:
    script = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
{ENTER}
here = seccomp.MACHINES["{HERE}"]
for name, number in (here.denied | here.of_itself | here.signals | here.to_others | here.memory).items():
    answer = libc.syscall(number, -1, -1, -1, -1, -1)
    print(name, answer, ctypes.get_errno())
"""
    answers = printed(script)
    assert [line for line in answers if not line.endswith(" -1 1")] == []
    here = seccomp.MACHINES[HERE]
    assert len(answers) == sum(
        map(len, (here.denied, here.of_itself, here.signals, here.to_others, here.memory))
    )


@needs_filter
def test_threads_and_the_socket_that_is_there_go_on_and_no_other_can_be_had() -> None:
    script = f"""
print(seccomp.holds())
here, there = socket.socketpair()
waiting = threading.Event()
before = threading.Thread(target=lambda: (waiting.wait(), print(tried(socket.socket, socket.AF_INET))))
before.start()
{ENTER}
waiting.set()
before.join()
print(seccomp.holds())
here.sendall(b"x")
print(there.recv(1), tried(socket.socketpair), tried(there.connect, "/tmp"), tried(there.listen))
after = threading.Thread(target=lambda: print(tried(socket.socket, socket.AF_INET6)))
after.start()
after.join()
print(tried(os.execv, "/bin/true", ["true"]))
"""
    no_network, denied = "Address family not supported by protocol", "Operation not permitted"
    pair = f"b'x' {denied} {denied} {denied}"
    assert printed(script) == ["False", no_network, "True", pair, no_network, denied]


@needs_filter
def test_a_process_may_still_limit_pin_and_abort_itself() -> None:
    script = f"""
import resource, signal
{ENTER}
print(tried(resource.setrlimit, resource.RLIMIT_CORE, (0, 0)))
print(tried(os.sched_setaffinity, 0, os.sched_getaffinity(0)))
print(tried(os.kill, os.getpid(), 0), tried(signal.raise_signal, signal.SIGCHLD), tried(os.kill, 0, 0))
"""
    assert printed(script) == ["done", "done", "done done Operation not permitted"]


def test_a_processor_without_a_table_is_an_error_and_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    with pytest.raises(OSError, match="no filter for vax"):
        seccomp.enter()
    assert not seccomp.holds()
