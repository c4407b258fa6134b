"""
System calls that no worker needs, refused by the kernel: a seccomp filter assembled here.

The one rule: a list of what is denied, never of what is allowed: a driver that needs an odd call must not break.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass

# Linux' own headers: asm/unistd_64.h and asm-generic/unistd.h. Nothing that CUDA, OpenMP or Python uses is here.
_X86_64 = {
    "execve": 59, "ptrace": 101, "syslog": 103, "vhangup": 153, "modify_ldt": 154, "pivot_root": 155,
    "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166,
    "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172,
    "ioperm": 173, "init_module": 175, "delete_module": 176, "quotactl": 179, "lookup_dcookie": 212,
    "clock_settime": 227, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250,
    "unshare": 272, "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321,
    "execveat": 322, "userfaultfd": 323,
}  # fmt: skip
_AARCH64 = {
    "lookup_dcookie": 18, "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "vhangup": 58,
    "quotactl": 60, "acct": 89, "unshare": 97, "kexec_load": 104, "init_module": 105, "delete_module": 106,
    "clock_settime": 112, "syslog": 116, "ptrace": 117, "reboot": 142, "sethostname": 161,
    "setdomainname": 162, "settimeofday": 170, "adjtimex": 171, "add_key": 217, "request_key": 218,
    "keyctl": 219, "execve": 221, "swapon": 224, "swapoff": 225, "perf_event_open": 241,
    "fanotify_init": 262, "name_to_handle_at": 264, "open_by_handle_at": 265, "clock_adjtime": 266,
    "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "finit_module": 273,
    "bpf": 280, "execveat": 281, "userfaultfd": 282, "kexec_file_load": 294,
}  # fmt: skip
_EVERYWHERE = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438,
    "mount_setattr": 442, "quotactl_fd": 443,
}  # fmt: skip

_CLONE3 = 435
"""Its flags lie in memory, where no filter can look; told that it does not exist, libc falls back to clone."""
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_FOREIGN = 0x40000000
"""x86-64's second numbering (x32) starts here: the same calls by other numbers."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the filter needs to know of a processor's numbering."""

    audit: int
    denied: dict[str, int]
    socket: int
    clone: int
    seccomp: int


MACHINES = {
    "x86_64": Machine(0xC000003E, _X86_64 | _EVERYWHERE, socket=41, clone=56, seccomp=317),
    "aarch64": Machine(0xC00000B7, _AARCH64 | _EVERYWHERE, socket=198, clone=220, seccomp=277),
}

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; low word, little-endian
_AF_UNIX = 1
_SET_MODE_FILTER, _TSYNC = 1, 1


def program(machine: Machine) -> bytes:
    """The filter in classic BPF: EPERM for what is denied, EAFNOSUPPORT for sockets that are not AF_UNIX."""
    denied = b"".join(_if_number(number, _refuse(errno.EPERM)) for number in sorted(machine.denied.values()))
    return b"".join(
        (
            _code(_LOAD, 0, 0, _ARCHITECTURE),
            _code(_JUMP_EQUAL, 1, 0, machine.audit),
            _refuse(errno.EPERM),
            _code(_LOAD, 0, 0, _NUMBER),
            _code(_JUMP_AT_LEAST, 0, 1, _FOREIGN),
            _refuse(errno.EPERM),
            denied,
            _if_number(_CLONE3, _refuse(errno.ENOSYS)),
            _if_number(machine.socket, _unless(_JUMP_EQUAL, _AF_UNIX, errno.EAFNOSUPPORT)),
            _if_number(machine.clone, _when(_JUMP_SET, _NEW_NAMESPACES, errno.EPERM)),
            _code(_RETURN, 0, 0, _ALLOW),
        )
    )


def _code(operation: int, when_true: int, when_false: int, value: int) -> bytes:
    return struct.pack("=HBBI", operation, when_true, when_false, value)


def _refuse(number: int) -> bytes:
    return _code(_RETURN, 0, 0, _ERRNO | number)


def _if_number(number: int, then: bytes) -> bytes:
    return _code(_JUMP_EQUAL, 0, len(then) // 8, number) + then


def _unless(jump: int, value: int, error: int) -> bytes:
    return _code(_LOAD, 0, 0, _FIRST_ARGUMENT) + _code(jump, 1, 0, value) + _refuse(error) + _allow()


def _when(jump: int, value: int, error: int) -> bytes:
    return _code(_LOAD, 0, 0, _FIRST_ARGUMENT) + _code(jump, 0, 1, value) + _refuse(error) + _allow()


def _allow() -> bytes:
    return _code(_RETURN, 0, 0, _ALLOW)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def enter() -> None:
    """
    Put every thread of this process under the filter, for good. no_new_privs must be set before.

    Raises OSError: no such filter for this processor, or none in this kernel.
    """
    machine = MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(errno.ENOSYS, f"no filter for {platform.machine()}")
    code = program(machine)
    told = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.syscall(machine.seccomp, _SET_MODE_FILTER, _TSYNC, ctypes.byref(told))
    if failed:  # a positive answer names a thread that could not be taken along
        number = ctypes.get_errno() if failed < 0 else errno.EBUSY
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def holds() -> bool:
    """Tried, not assumed: True if this process is refused what the filter refuses."""
    machine = MACHINES.get(platform.machine())
    if machine is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    socket = libc.syscall(machine.socket, 2, 1, 0)
    refused = socket < 0 and ctypes.get_errno() == errno.EAFNOSUPPORT
    if socket >= 0:
        os.close(socket)
    return refused and libc.syscall(machine.denied["bpf"], -1, 0, 0) < 0 and ctypes.get_errno() == errno.EPERM
