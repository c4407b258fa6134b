"""Workers as they must not be, by the first argument. Speaks through the socket that `--fd` names."""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import time

from router import protocol


def main() -> None:
    kind, fd = sys.argv[1], int(sys.argv[sys.argv.index("--fd") + 1])
    sock = socket.socket(fileno=fd)
    match kind:
        case "old":
            sock.sendall(hello(version=protocol.VERSION + 1))
        case "mute":
            pass
        case "rude":
            sock.sendall(protocol.encode(protocol.Pong(1, 0, False)))
        case "garbage":
            sock.sendall(b"\xff" * 64)
        case "oversized":
            sock.sendall(struct.pack("<I", protocol.MAX_FRAME + 1))
        case "dies":
            sys.stderr.write("no device\n")
            sys.exit(9)
        case "hangs-up":
            sock.sendall(hello())
            sock.close()
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            sock.sendall(hello())
        case "short-lived":
            sock.sendall(hello())
            return
    time.sleep(60)


def hello(version: int = protocol.VERSION) -> bytes:
    return protocol.encode(protocol.Hello(version, os.getpid(), "rogue", False))


if __name__ == "__main__":
    main()
