"""Several processes that train as one: how they find each other, agree, and stop together."""

import contextlib
import signal
import socket
import threading
import time
import zlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from rl2jax.settings import InputError, UserError

_PATIENCE = 300.0  # seconds that processes wait for the first; JAX's own


class ProcessError(UserError, RuntimeError):
    """Processes that cannot train as one; the message says what to do."""


def join(coordinator: str | None, num_processes: int | None, process_id: int | None, cluster: bool = False) -> None:
    """Makes this process one of several; does nothing without arguments. Comes before any other use of JAX.

    Args:
      coordinator: HOST:PORT of process 0, as all processes reach it.
      num_processes: how many.
      process_id: which this is, from 0.
      cluster: take all three from what launched the processes: SLURM's srun, Open MPI, a TPU pod.

    Raises:
      ValueError: naming the option that is missing or wrong.
      ProcessError: if the processes do not find each other.
    """
    options = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
    missing = [name for name, value in options.items() if value is None]
    if cluster and len(missing) < len(options):
        given = next(name for name in options if name not in missing)
        raise InputError(f"{given} and --distributed exclude each other: --distributed takes it from the cluster")
    if not cluster and len(missing) == len(options):
        return
    if not cluster:
        _check(missing, coordinator or "", num_processes or 0, process_id or 0)
        if process_id:
            _wait_for(coordinator or "")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (ValueError, RuntimeError) as error:
        if cluster:
            raise ProcessError(
                "--distributed found no cluster: start the processes with srun or mpirun, or give --coordinator, "
                f"--num-processes and --process-id ({error})"
            ) from error
        raise ProcessError(f"process {process_id} could not join the others at {coordinator}: {error}") from error


def _check(missing: list[str], coordinator: str, num_processes: int, process_id: int) -> None:
    if missing:
        raise InputError(f"{missing[0]} is missing: --coordinator, --num-processes and --process-id go together")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise InputError(f"--coordinator must be HOST:PORT, such as 10.0.0.1:1234, got {coordinator!r}")
    if num_processes < 1:
        raise InputError(f"--num-processes must be >= 1, got {num_processes}")
    if not 0 <= process_id < num_processes:
        raise InputError(f"--process-id must be from 0 to {num_processes - 1} (--num-processes - 1), got {process_id}")


def _wait_for(coordinator: str) -> None:
    """Until process 0 listens: JAX itself, where it waits in vain, ends the process without a word to the user."""
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            return
        except OSError as error:
            if isinstance(error, socket.gaierror) or time.monotonic() > deadline:
                raise ProcessError(f"--coordinator: cannot reach process 0 at {coordinator}: {error}") from error
        time.sleep(0.2)


def is_first() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return jax.process_index() == 0


def _of_all(value: int) -> np.ndarray:
    """Every process's `value`, by process; all processes must call this."""
    return np.atleast_1d(multihost_utils.process_allgather(np.uint32(value)))


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process. All must call it, at the same point."""
    return flag if jax.process_count() == 1 else bool(_of_all(flag).any())


@contextlib.contextmanager
def together(doing: str) -> Iterator[None]:
    """What happens inside succeeds in all processes, or none goes on after it.

    Raises:
      ProcessError: if it failed in another process.
    """
    try:
        yield
    except BaseException:
        any_process(True)
        raise
    if any_process(False):
        raise ProcessError(f"another process failed at {doing}; its own message says why")


def require_same(what: str, value: str) -> None:
    """Raises ProcessError where processes were started with different values."""
    if jax.process_count() > 1:
        of_all = _of_all(zlib.crc32(value.encode()))
        if (of_all != of_all[0]).any():
            raise ProcessError(f"{what} must be the same in all processes; here: {value}")


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set an event; a second one acts as usual. Does nothing outside the main thread."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in signals}

    def request_stop(number, frame):
        del frame
        stop.set()
        signal.signal(number, previous[number])

    for number in signals:
        signal.signal(number, request_stop)
    try:
        yield stop
    finally:
        for number in signals:
            signal.signal(number, previous[number])
