"""Calls timed in turns with a probe of the machine, because a shared machine is not equally fast from minute to minute.

Knows neither JAX nor PyTorch: both sides of a comparison are timed by this.
"""

import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# A first call pays for page faults and is dropped, unless it took so long that they do not show.
LONG_SECONDS = 10.0
# Short calls are repeated until a sample is long enough for the probes around it to have met the same machine.
SAMPLE_SECONDS = 0.3
ENOUGH_SECONDS, MOST_SAMPLES = 3.0, 7


class Sample(NamedTuple):
    """Wall seconds of a call; the machine's FLOP/s and byte/s, each the mean of just before and just after."""

    seconds: float
    operations_per_second: float
    bytes_per_second: float


def interleave(
    call: Callable[[], Any], probe: Callable[[], tuple[float, float]], long_samples: int = 1
) -> list[Sample]:
    """Samples of a call that returns when its work is done: `long_samples` if it is long, else 3 to `MOST_SAMPLES`.

    Args:
      call: what is timed.
      probe: measures (FLOP/s, byte/s).
      long_samples: of a call that takes longer than `LONG_SECONDS`.
    """
    samples: list[Sample] = []
    before, calls = probe(), 1
    while True:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        seconds = (time.perf_counter() - start) / calls
        after = probe()
        samples.append(Sample(seconds, *((a + b) / 2 for a, b in zip(before, after, strict=True))))
        before = after
        if seconds > LONG_SECONDS:
            if len(samples) >= long_samples:
                return samples
            continue
        calls = math.ceil(SAMPLE_SECONDS / seconds)
        spent = sum(sample.seconds for sample in samples[1:]) * calls
        if len(samples) > MOST_SAMPLES or (len(samples) > 3 and spent > ENOUGH_SECONDS):
            return samples[1:]


def run_child(module: str, settings: dict[str, Any], environment: dict[str, str] | None = None) -> Any:
    """What `module.main(settings)` returned in a process of its own; its stderr goes to ours.

    Raises:
      subprocess.CalledProcessError: if the process failed.
    """
    command = [sys.executable, "-m", f"experiments.benchmarks.{module}", json.dumps(settings)]
    variables = {**os.environ, **(environment or {})}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=variables)
    return json.loads(done.stdout.splitlines()[-1])


def answer_parent(main: Callable[[dict[str, Any]], Any]) -> None:
    """The other side of `run_child`."""
    print(json.dumps(main(json.loads(sys.argv[1]))))


def peak_memory() -> int:
    """Bytes of memory this process held at most.

    On Linux from /proc: what `getrusage` says of a child begins with what its parent held when it started the child.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024


def note(text: str) -> None:
    """A line of progress; stdout belongs to the result."""
    print(text, file=sys.stderr, flush=True)
