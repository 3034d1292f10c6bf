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


def take_turns(call: Callable[[], Any], probe: Callable[[], tuple[float, float]], context: dict[str, Any]) -> None:
    """The other side of a `Contestant`: warms up, says `context`, then one sample for each line that comes in."""
    call()
    probe()
    print(json.dumps(context), flush=True)
    for _ in sys.stdin:
        before, start = probe(), time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        print(
            json.dumps(Sample(seconds, *((a + b) / 2 for a, b in zip(before, probe(), strict=True)))),
            flush=True,
        )


class Contestant:
    """A process of `module.main(settings)` that is warm and waits for its turn; its stderr goes to ours.

    Attributes:
      context: what it said of itself when it was ready.

    Raises:
      subprocess.CalledProcessError: here or in `sample`, if the process ended.
    """

    def __init__(self, module: str, settings: dict[str, Any], environment: dict[str, str] | None = None):
        command, variables = _command(module, settings, environment)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        )
        self.context: dict[str, Any] = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            raise subprocess.CalledProcessError(self._process.returncode, self._process.args)
        return json.loads(line)

    @property
    def is_open(self) -> bool:
        """Whether it has turns to come."""
        return self._process.stdin is not None and not self._process.stdin.closed

    def sample(self) -> Sample:
        """Its turn."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Sample(*self._answer())

    def close(self) -> None:
        """No more turns; may be called again."""
        if self.is_open:
            self._process.communicate()  # closes its stdin


def _command(module: str, settings: dict[str, Any], environment: dict[str, str] | None) -> tuple[list[str], Any]:
    """(command line, environment) of a benchmark's module."""
    command = [sys.executable, "-m", f"experiments.benchmarks.{module}", json.dumps(settings)]
    return command, {**os.environ, **(environment or {})}


def run_child(module: str, settings: dict[str, Any], environment: dict[str, str] | None = None) -> Any:
    """What `module.main(settings)` returned in a process of its own; its stderr goes to ours.

    Raises:
      subprocess.CalledProcessError: if the process failed.
    """
    command, variables = _command(module, settings, environment)
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
