"""
System calls that no worker needs, refused by the kernel: a seccomp filter assembled here.

The one rule: a list of what is denied, never of what is allowed: a driver that needs an odd call must not break.
Some calls are refused by their first argument: for another process than the caller's own, or for a new process.
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
    "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semop": 65, "semctl": 66, "msgget": 68, "msgsnd": 69,
    "msgrcv": 70, "msgctl": 71, "semtimedop": 220, "mq_open": 240, "mq_unlink": 241, "mq_timedsend": 242,
    "mq_timedreceive": 243, "mq_notify": 244, "mq_getsetattr": 245,
    "socketpair": 53, "fork": 57, "vfork": 58, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94,
    "utime": 132, "setpriority": 141, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197,
    "lremovexattr": 198, "fremovexattr": 199, "tkill": 200, "utimes": 235, "ioprio_set": 251, "fchownat": 260,
    "futimesat": 261, "fchmodat": 268, "utimensat": 280,
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
    "mq_open": 180, "mq_unlink": 181, "mq_timedsend": 182, "mq_timedreceive": 183, "mq_notify": 184,
    "mq_getsetattr": 185, "msgget": 186, "msgctl": 187, "msgrcv": 188, "msgsnd": 189, "semget": 190, "semctl": 191,
    "semtimedop": 192, "semop": 193, "shmget": 194, "shmctl": 195, "shmat": 196,
    "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16,
    "ioprio_set": 30, "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55, "utimensat": 88, "tkill": 130,
    "setpriority": 140, "socketpair": 199,
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
    "pidfd_send_signal": 424, "pidfd_open": 434, "process_madvise": 440, "process_mrelease": 448, "fchmodat2": 452,
    "setxattrat": 463, "removexattrat": 466, "open_tree_attr": 467, "file_setattr": 469,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438,
    "mount_setattr": 442, "quotactl_fd": 443,
}  # fmt: skip

_OF_ITSELF = {
    "x86_64": {"sched_setparam": 142, "sched_setscheduler": 144, "sched_setaffinity": 203, "migrate_pages": 256,
               "move_pages": 279, "prlimit64": 302, "sched_setattr": 314},
    "aarch64": {"sched_setparam": 118, "sched_setscheduler": 119, "sched_setaffinity": 122, "migrate_pages": 238,
                "move_pages": 239, "prlimit64": 261, "sched_setattr": 274},
}  # fmt: skip
"""Allowed where the first argument is 0 or the process itself. A thread's own number counts as somebody else's."""
_SIGNALS = {
    "x86_64": {"kill": 62, "rt_sigqueueinfo": 129, "tgkill": 234, "rt_tgsigqueueinfo": 297},
    "aarch64": {"kill": 129, "tgkill": 131, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240},
}  # fmt: skip
"""Allowed where the first argument is the process itself: abort() sends itself a signal."""
_TO_OTHERS = {
    "x86_64": {"connect": 42, "bind": 49, "listen": 50},
    "aarch64": {"bind": 200, "listen": 201, "connect": 203},
}
"""Denied, but for a worker that has to reach the driver's own server through a socket."""

_MEMORY = {
    "x86_64": {"memfd_create": 319, "memfd_secret": 447},
    "aarch64": {"memfd_create": 279, "memfd_secret": 447},
}
"""Denied, but for a driver: memory that no limit of a process counts."""
_COMMANDS = {
    "x86_64": {"ioctl": 16, "fcntl": 72},
    "aarch64": {"fcntl": 25, "ioctl": 29},
}
_OWNING = {"fcntl": (8, 10, 15), "ioctl": (0x5412, 0x8901, 0x8902)}
"""Refused as second arguments: F_SETOWN, F_SETSIG, F_SETOWN_EX; TIOCSTI, FIOSETOWN, SIOCSPGRP. They signal others."""

_CLONE3 = 435
"""Its flags lie in memory, where no filter can look; told that it does not exist, libc falls back to clone."""
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_NEW_THREAD = 0x00010000
"""CLONE_THREAD: without it, clone is a fork."""
_FOREIGN = 0x40000000
"""x86-64's second numbering (x32) starts here: the same calls by other numbers."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the filter needs to know of a processor's numbering."""

    audit: int
    denied: dict[str, int]
    of_itself: dict[str, int]
    signals: dict[str, int]
    to_others: dict[str, int]
    memory: dict[str, int]
    commands: dict[str, int]
    mmap: int
    socket: int
    clone: int
    seccomp: int


MACHINES = {
    name: Machine(
        audit,
        denied | _EVERYWHERE,
        _OF_ITSELF[name],
        _SIGNALS[name],
        _TO_OTHERS[name],
        _MEMORY[name],
        _COMMANDS[name],
        mmap,
        socket,
        clone,
        seccomp,
    )
    for name, audit, denied, mmap, socket, clone, seccomp in (
        ("x86_64", 0xC000003E, _X86_64, 9, 41, 56, 317),
        ("aarch64", 0xC00000B7, _AARCH64, 222, 198, 220, 277),
    )
}

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
_FIRST_ARGUMENT, _SECOND_ARGUMENT, _FOURTH_ARGUMENT = 16, 24, 40  # their low words, little-endian
_MAP_SHARED, _MAP_ANONYMOUS = 0x01, 0x20
_AF_UNIX = 1
_SET_MODE_FILTER, _TSYNC = 1, 1


def program(machine: Machine, pid: int, sockets: bool = False, driver: bool = False) -> bytes:
    """
    The filter in classic BPF: EPERM for what is denied, EAFNOSUPPORT for sockets.

    `pid`: the process that it is for. `sockets`: it may use AF_UNIX, and connect to what has a path. `driver`: it may
    have shared memory without a file, as a GPU's driver does.
    """
    denied = set(machine.denied.values())
    denied |= set() if sockets else set(machine.to_others.values())
    denied |= set() if driver else set(machine.memory.values())
    return b"".join(
        (
            _code(_LOAD, 0, 0, _ARCHITECTURE),
            _code(_JUMP_EQUAL, 1, 0, machine.audit),
            _refuse(errno.EPERM),
            _code(_LOAD, 0, 0, _NUMBER),
            _code(_JUMP_AT_LEAST, 0, 1, _FOREIGN),
            _refuse(errno.EPERM),
            *(_if_number(number, _refuse(errno.EPERM)) for number in sorted(denied)),
            *(
                _if_number(number, _only(errno.EPERM, 0, pid))
                for number in sorted(machine.of_itself.values())
            ),
            *(_if_number(number, _only(errno.EPERM, pid)) for number in sorted(machine.signals.values())),
            *(_if_number(number, _not_second(_OWNING[name])) for name, number in machine.commands.items()),
            b"" if driver else _if_number(machine.mmap, _no_shared_memory()),
            _if_number(_CLONE3, _refuse(errno.ENOSYS)),
            _if_number(machine.socket, _only(errno.EAFNOSUPPORT, *((_AF_UNIX,) if sockets else ()))),
            _if_number(machine.clone, _threads_only()),
            _code(_RETURN, 0, 0, _ALLOW),
        )
    )


def _code(operation: int, when_true: int, when_false: int, value: int) -> bytes:
    return struct.pack("=HBBI", operation, when_true, when_false, value)


def _refuse(number: int) -> bytes:
    return _code(_RETURN, 0, 0, _ERRNO | number)


def _if_number(number: int, then: bytes) -> bytes:
    return _code(_JUMP_EQUAL, 0, len(then) // 8, number) + then


def _only(error: int, *values: int) -> bytes:
    """Allow where the first argument, of 32 bits, is one of these."""
    found = b"".join(_code(_JUMP_EQUAL, 0, 1, value) + _allow() for value in values)
    return _code(_LOAD, 0, 0, _FIRST_ARGUMENT) + found + _refuse(error)


def _not_second(values: tuple[int, ...]) -> bytes:
    """Refuse where the second argument is one of these."""
    found = b"".join(_code(_JUMP_EQUAL, 0, 1, value) + _refuse(errno.EPERM) for value in values)
    return _code(_LOAD, 0, 0, _SECOND_ARGUMENT) + found + _allow()


def _no_shared_memory() -> bytes:
    """Of mmap: nothing that is shared and lies in no file, since no limit of the process counts it."""
    return b"".join(
        (
            _code(_LOAD, 0, 0, _FOURTH_ARGUMENT),
            _code(_JUMP_SET, 0, 2, _MAP_ANONYMOUS),
            _code(_JUMP_SET, 0, 1, _MAP_SHARED),
            _refuse(errno.EPERM),
            _allow(),
        )
    )


def _threads_only() -> bytes:
    """Of clone: threads of this process, in its own namespaces."""
    return b"".join(
        (
            _code(_LOAD, 0, 0, _FIRST_ARGUMENT),
            _code(_JUMP_SET, 0, 1, _NEW_NAMESPACES),
            _refuse(errno.EPERM),
            _code(_JUMP_SET, 1, 0, _NEW_THREAD),
            _refuse(errno.EPERM),
            _allow(),
        )
    )


def _allow() -> bytes:
    return _code(_RETURN, 0, 0, _ALLOW)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def enter(sockets: bool = False, driver: bool = False) -> None:
    """
    Put every thread of this process under the filter, for good. no_new_privs must be set before.

    `sockets`, `driver`: see `program`. Raises OSError: no such filter for this processor, or none in this kernel.
    """
    machine = MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(errno.ENOSYS, f"no filter for {platform.machine()}")
    code = program(machine, os.getpid(), sockets, driver)
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
    # The limits of the parent are only asked for.
    calls = ((machine.denied["bpf"], -1), (machine.of_itself["prlimit64"], os.getppid()))
    return refused and all(
        libc.syscall(number, first, 0, 0, 0) < 0 and ctypes.get_errno() == errno.EPERM
        for number, first in calls
    )
