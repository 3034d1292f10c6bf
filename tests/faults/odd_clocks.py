"""The command line in a process whose clocks jump by a day, there and back: odd_clocks.py PERIOD ARGUMENTS...

Each jumps after every PERIOD readings: `time.time` for everybody, `monotonic` and `perf_counter` for our modules and
the progress bar. (The standard library waits by `monotonic`: set back for all, a wait of a second may take a day.)
"""

import sys
import time
from types import SimpleNamespace

DAY = 86400.0


def jumping(clock, period):
    readings = 0

    def read():
        nonlocal readings
        readings += 1
        return clock() + DAY * (0, 1, 0, -1)[readings // period % 4]

    return read


if __name__ == "__main__":
    period = int(sys.argv[1])
    monotonic, perf_counter = (jumping(clock, period) for clock in (time.monotonic, time.perf_counter))
    time.time = jumping(time.time, period)

    import rich.console

    rich.console.monotonic = monotonic  # before ours is made
    import rl2jax.cli.main
    import rl2jax.runs.session

    for module in (rl2jax.runs.session, sys.modules["rl2jax.training.loop"]):
        module.time = SimpleNamespace(monotonic=monotonic, perf_counter=perf_counter)
    rl2jax.cli.main.main(sys.argv[2:])
