"""Become another program that dies with its parent: `python leash.py PARENT_PID PROGRAM ARGUMENT...`.

The kernel sends SIGKILL to this process when the thread that started it ends (`prctl(2)`, PR_SET_PDEATHSIG), and the
promise outlives `execve`. A wrapper, because the same call made between fork and exec of a threaded parent may hang.
Standard library only: it runs with `-I -S`, in some 20 ms.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie this process to its parent, then replace it by the program.

    Args:
        arguments: The parent's process id, then the program and its arguments.
    """
    parent, *command = arguments
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the call above: then the kernel will never tell.
    if os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGKILL)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
