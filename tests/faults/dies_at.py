"""The command line in a process that kills itself at its N-th touch of a folder: dies_at.py N FOLDER ARGUMENTS...

A touch is an opening, renaming, making or removing below the folder, as Python's audit events tell. With N = 0 it
lives, and the number of touches is the last line of standard output.
"""

import os
import signal
import sys

TOUCHES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.scandir", "shutil.rmtree")


def main():
    last, folder, touches = int(sys.argv[1]), sys.argv[2], 0

    def touched(event, arguments):
        nonlocal touches
        if event in TOUCHES and any(isinstance(a, str | os.PathLike) and folder in os.fspath(a) for a in arguments):
            touches += 1
            if touches == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(touched)
    from rl2jax.cli.main import main as command

    try:
        command(sys.argv[3:])
    finally:
        print(touches)


if __name__ == "__main__":
    main()
