"""The command line in a process whose clocks jump by a day, there and back: odd_clocks.py PERIOD ARGUMENTS...

Each of `time`, `monotonic` and `perf_counter` jumps after every PERIOD readings.
"""

import sys
import time

DAY = 86400.0


def jumping(clock, period):
    readings = 0

    def read():
        nonlocal readings
        readings += 1
        return clock() + DAY * (0, 1, 0, -1)[readings // period % 4]

    return read


if __name__ == "__main__":
    for name in ("time", "monotonic", "perf_counter"):
        setattr(time, name, jumping(getattr(time, name), int(sys.argv[1])))
    from rl2jax.cli import main

    main(sys.argv[2:])
