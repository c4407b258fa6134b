"""`python -m router.worker --fd N --parent PID --backend llama|echo`: only the gateway starts this."""

from __future__ import annotations

import argparse
import os
import socket
import threading
from collections.abc import Callable

from router.worker import life

# The tokeniser's std::regex recurses once per character: 200 kB of one letter needs this much stack.
_STACK = 64 * 2**20


def main() -> None:
    arguments = _arguments()
    life.tie_to_parent(arguments.parent)
    os.dup2(2, 1)  # what C++ prints on stdout belongs into the log
    # Only now, since these take a while: a gateway that dies meanwhile must not leave us behind.
    from router.worker.backends import backend
    from router.worker.link import Link
    from router.worker.sandbox import Sandbox, SandboxMissing
    from router.worker.service import Service

    kind = backend(arguments.backend)
    sandbox = Sandbox(arguments.sandbox, kind.gpu_offload)
    try:
        sandbox.enter()
    except SandboxMissing as error:
        life.log("error", "this worker may not start", error=str(error))
        os._exit(life.NO_SANDBOX)
    service = Service(Link(socket.socket(fileno=arguments.fd)), kind, sandbox=sandbox)
    life.watch_signals(service.stop)
    service.greet()
    threading.stack_size(_STACK)
    _start("intake", service.intake)
    _start("step", service.steps)
    sandbox.confine_when_named()
    threading.Event().wait()  # this thread only takes signals; the first thread to return ends the process


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m router.worker")
    parser.add_argument("--fd", type=int, required=True, help="the worker's end of the socketpair")
    parser.add_argument("--parent", type=int, required=True, help="the gateway's process id")
    parser.add_argument("--backend", choices=("llama", "echo"), default="llama")
    parser.add_argument("--sandbox", default="auto", help="auto, on, off, or layers by name")
    return parser.parse_args()


def _start(name: str, run: Callable[[], int]) -> None:
    def body() -> None:
        code = life.UNEXPECTED
        try:
            code = run()
        except BaseException as error:
            life.log_error(f"the {name} thread failed", error)
        finally:
            # Not sys.exit: the other thread may be deep in C++ and would hold the process up.
            os._exit(code)

    threading.Thread(target=body, name=name, daemon=True).start()


if __name__ == "__main__":
    main()
