"""Worker processes that play ViZDoom in lockstep, watched from outside: what dies or hangs is replaced.

Each worker has a folder in the cache, named on its own command line and on its engines', by which they are found when
they are to end. The folder of a process that was killed is swept by whoever comes next: its owner's lock is free then.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np

from rl2jax.engines.base import EngineError
from rl2jax.engines.vizdoom import engine
from rl2jax.engines.vizdoom.engine import IDLE, RESET, GameSettings
from rl2jax.files import cache_folder

_START_TIMEOUT = 120.0  # seconds; a start is no step
PATIENCE = 1 / 3  # share of the timeout that an answer may take; the rest is for replacing who gives none
_MOST_FAILURES = 8  # in a row
_OWNER = "owner.lock"


def registry() -> Path:
    """Where the folders of all running workers on this machine are."""
    return cache_folder() / "vizdoom"


@contextlib.contextmanager
def _locked(path: Path, block: bool):
    """Yields whether the lock was free; whoever holds it loses it by dying."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if block else fcntl.LOCK_NB))
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def sweep() -> None:
    """Ends what was left behind by processes that were killed, and removes its files."""
    for folder in registry().iterdir():
        if folder.is_dir():
            with _locked(folder / _OWNER, block=False) as orphaned:
                if orphaned:
                    _remove(folder)
    engine.remove_orphaned_shared_memory()


def _remove(folder: Path) -> None:
    engine.remove_leftovers(folder)
    shutil.rmtree(folder, ignore_errors=True)


class _Process:
    """A worker as its parent sees it."""

    def __init__(self, folder: Path, settings: GameSettings, num_games: int):
        self._folder = folder
        self._settings = settings
        self._num_games = num_games
        self.record = engine.view_type(settings)
        self.start()

    def start(self) -> None:
        """Does not wait for the engines: the first answer says that they have started."""
        self._folder.mkdir()
        description = {"settings": self._settings._asdict(), "num_games": self._num_games}
        (self._folder / engine.SETTINGS).write_text(json.dumps(description))
        self.connection, theirs = Pipe()
        with theirs, open(self._folder / engine.LOG, "wb") as log:
            # -P: the program's own folder is no place to import from.
            self._popen = subprocess.Popen(
                [sys.executable, "-P", engine.__file__, str(self._folder), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.PIPE,  # never written to: it ends with this process
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def send(self, orders: np.ndarray) -> None:
        """A worker that is gone is noticed when its answer does not come."""
        with contextlib.suppress(OSError):
            self.connection.send_bytes(orders.tobytes())

    def receive(self) -> np.ndarray | None:
        """What its games show, [num_games] of `view_type`; None if the worker has died."""
        try:
            return np.frombuffer(self.connection.recv_bytes(), self.record)
        except (EOFError, OSError):
            return None

    def last_words(self) -> str:
        """The end of what it wrote to its log."""
        with contextlib.suppress(OSError):
            return (self._folder / engine.LOG).read_text(errors="replace").strip()[-2000:]
        return ""

    def cause_of_death(self) -> str:
        """Of a worker that has closed its connection."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(engine.GRACE)
        return f"a worker ended with exit status {self._popen.returncode}: {self.last_words()}"

    def hang_up(self) -> None:
        """Asks it to end; a worker in good health does."""
        self.connection.close()
        if self._popen.stdin:
            self._popen.stdin.close()

    def end(self, healthy: bool) -> None:
        """Ends it and its engines, whatever they do, and removes what they leave. Comes after `hang_up`."""
        pids = engine.processes_of(self._folder)
        if not healthy:
            # Without its engines, and awake, it can still bury them: orphans may stay zombies, as in containers.
            files = engine.shared_memory_of(self._folder, pids)
            engine.end_processes([pid for pid in pids if pid != self._popen.pid])
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGCONT)
        try:
            self._popen.wait(engine.GRACE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()
        if not healthy:
            for file in files:
                file.unlink(missing_ok=True)
        _remove(self._folder)


def _end_all(processes: list[_Process], folder: Path, owner: contextlib.ExitStack, pid: int) -> None:
    """Ends workers and removes their folder; not in a child that has inherited them by a fork."""
    if os.getpid() != pid:
        return
    for process in processes:
        process.hang_up()
    for process in processes:
        process.end(healthy=True)
    processes.clear()
    _remove(folder)
    engine.remove_orphaned_shared_memory()
    owner.close()


class Workers:
    """`num_workers` processes of `games_per_worker` games each."""

    def __init__(self, settings: GameSettings, num_workers: int, games_per_worker: int, timeout_s: float):
        """Starts them, after sweeping up after owners that were killed.

        Args:
          settings: of every game.
          num_workers: processes.
          games_per_worker: engines in each.
          timeout_s: within which `play` returns even if a worker or engine hangs, in seconds. A worker that has given
            no answer after `PATIENCE` of it is replaced and its games replayed, which is meant to fit into the rest.

        Raises:
          EngineError: if they do not start.
        """
        self.num_games = num_workers * games_per_worker
        self.replaced = 0  # engines, since the start
        self.last_failure = ""  # why engines were last replaced
        self._games_per_worker = games_per_worker
        self._answer_s = timeout_s * PATIENCE
        self._failures = 0
        self._history: list[list[tuple[int, int]]] = [[] for _ in range(self.num_games)]
        self._views = np.zeros(self.num_games, engine.view_type(settings))
        registry().mkdir(parents=True, exist_ok=True)
        owner = contextlib.ExitStack()
        # Nobody may take a folder for an orphan's before its owner has locked it.
        with _locked(registry() / "lock", block=True):
            sweep()
            folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=registry()))
            owner.enter_context(_locked(folder / _OWNER, block=True))
        self._processes: list[_Process] = []
        self._close = weakref.finalize(self, _end_all, self._processes, folder, owner, os.getpid())
        with self._closing_on_errors():
            for number in range(num_workers):
                self._processes.append(_Process(folder / f"worker{number}", settings, games_per_worker))
            self._collect(list(range(num_workers)), _START_TIMEOUT)

    def play(self, orders: np.ndarray, arguments: np.ndarray) -> np.ndarray:
        """One order to each game.

        Args:
          orders: IDLE, RESET or STEP for each game; int [num_games].
          arguments: of the orders; int [num_games].

        Returns:
          What each game shows, `view_type` [num_games]; of idle games what they last showed. Overwritten by the next.

        Raises:
          EngineError: if engines fail again and again, with the last words of one; everything is closed then.
        """
        commands = np.stack([orders, arguments], axis=1).astype(np.int32)
        for game, (order, argument) in enumerate(commands.tolist()):
            if order == RESET:
                self._history[game].clear()
            if order != IDLE:
                self._history[game].append((order, argument))
        with self._closing_on_errors():
            lost = self._round(commands, self._answer_s)
            while lost.any():
                lost = self._replay(lost)
        self._failures = 0
        return self._views

    def _round(self, commands: np.ndarray, timeout_s: float) -> np.ndarray:
        """Sends commands and takes the answers; returns which games were lost; bool [num_games]."""
        size = self._games_per_worker
        asked = [w for w in range(len(self._processes)) if (commands[w * size : (w + 1) * size, 0] != IDLE).any()]
        for worker in asked:
            self._processes[worker].send(commands[worker * size : (worker + 1) * size])
        return self._collect(asked, timeout_s)

    def _collect(self, asked: list[int], timeout_s: float) -> np.ndarray:
        """Takes the answers of workers, and replaces those from which none comes; returns which games were lost."""
        lost = np.zeros(self.num_games, bool)
        deadline = time.monotonic() + timeout_s
        waiting = {self._processes[worker].connection: worker for worker in asked}
        dead = []
        while waiting and (ready := wait(list(waiting), max(deadline - time.monotonic(), 0.0))):
            for connection in ready:
                assert isinstance(connection, Connection)
                worker = waiting.pop(connection)
                views = self._processes[worker].receive()
                if views is None:
                    dead.append(worker)
                else:
                    games = self._games_of(worker)
                    self._views[games] = views
                    lost[games] = views["lost"]
        if lost.any():
            words = self._processes[int(lost.argmax()) // self._games_per_worker].last_words()
            self._count_failure(f"an engine died: {words}")
        self.replaced += int(lost.sum())
        gone = [*dead, *waiting.values()]
        for worker in gone:
            hung = worker not in dead
            self._count_failure(
                f"no answer came within {timeout_s:g} s" if hung else self._processes[worker].cause_of_death()
            )
            self._processes[worker].hang_up()
            self._processes[worker].end(healthy=False)
            self._processes[worker].start()
            self.replaced += self._games_per_worker
            lost[self._games_of(worker)] = True
        if gone:  # their engines start at the same time
            self._collect(gone, _START_TIMEOUT)
        return lost

    def _replay(self, lost: np.ndarray) -> np.ndarray:
        """Brings lost games to where they were; returns those, of these or others, that were lost over it."""
        games = np.flatnonzero(lost)
        for step in range(max(len(self._history[game]) for game in games)):
            commands = np.full((self.num_games, 2), IDLE, np.int32)
            for game in games:
                if step < len(self._history[game]):
                    commands[game] = self._history[game][step]
            # The first order to a game whose engine has died starts another.
            lost_again = self._round(commands, self._answer_s if step else _START_TIMEOUT)
            if lost_again.any():
                return lost | lost_again
        return np.zeros_like(lost)

    def _games_of(self, worker: int) -> slice:
        return slice(worker * self._games_per_worker, (worker + 1) * self._games_per_worker)

    def _count_failure(self, reason: str) -> None:
        self._failures += 1
        self.last_failure = reason
        if self._failures > _MOST_FAILURES:
            raise EngineError(f"ViZDoom failed {self._failures} times in a row; the last time: {reason}")

    @contextlib.contextmanager
    def _closing_on_errors(self):
        """What was interrupted half-way, even by Ctrl-C, cannot go on: answers would be taken for later ones."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    @property
    def closed(self) -> bool:
        """Whether there is nobody left to play."""
        return not self._close.alive

    def close(self) -> None:
        """Ends all processes and removes what they leave; does nothing the second time."""
        self._close()
