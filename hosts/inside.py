"""Runs a program on another host: ``inside.py NAMESPACE UID GID SIGNAL PROGRAM ARGS…``.

``NAMESPACE`` is the path of a network namespace or ``-``, ``UID`` and ``GID`` are numbers or ``-``. The program gets
``SIGNAL`` when the process that started it ends. Knows the standard library only, for it is started often.
"""

from __future__ import annotations

import ctypes
import os
import sys

_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1


def main(namespace: str, uid: str, gid: str, number: str, *program: str) -> None:
    """Become the program."""
    libc = ctypes.CDLL(None, use_errno=True)
    if namespace != "-":
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        if libc.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "this process may not enter the network namespace")
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    # Another user's process forgets it, so that it comes last.
    libc.prctl(_PR_SET_PDEATHSIG, int(number))
    os.execvp(program[0], program)


if __name__ == "__main__":
    main(*sys.argv[1:])
