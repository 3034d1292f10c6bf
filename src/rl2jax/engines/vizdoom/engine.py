"""One game of the real ViZDoom, and the program that runs several of them in a process of its own.

The program is this file: `python engine.py FOLDER SOCKET`. It imports nothing else of ours, so that a worker starts
without JAX. What it must know of mazes stands in `GameSettings`; `workers` is its other end.

A tic is a step, and the same actions give the same frames, in any engine.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

IDLE, RESET, STEP = 0, 1, 2  # orders to a game; their argument: nothing, a maze's index, an action
UNIT = 65536  # a map unit

_RENDERED = (120, 160)
_IDLE_TICS = 10  # input is ignored in the first ones of an episode
_SHARED_MEMORY = Path("/dev/shm")
_PREFIXES = ("ViZDoomSM", "ViZDoomMQCtr", "ViZDoomMQDoom")  # an instance's files in shared memory
SETTINGS, INSTANCES, LOG = "settings.json", "instances", "log"  # files in a worker's folder
_PROGRAM = Path(__file__).name
_ORPHANED = 1.0  # seconds
GRACE = 2.0  # seconds that whoever is to end may take to do so by itself


class VizdoomMissingError(ImportError):
    """The package `vizdoom` is not installed; the message says what to do."""


class GameSettings(NamedTuple):
    """What a game is; goes through JSON.

    Attributes:
      wad: path of the file with the maps.
      maps: their names. An engine that is asked for a map it does not have never answers.
      buttons: for each action how far forward and how many degrees clockwise; [num_actions][2].
      num_headings: that a turn is counted in.
      stride: rendered pixels per kept one, in each direction.
      offset: the first rendered pixel that is kept.
    """

    wad: str
    maps: list[str]
    buttons: list[list[float]]
    num_headings: int
    stride: int
    offset: int


def view_type(settings: GameSettings) -> np.dtype:
    """What a game shows after an order, as a record.

    frame is uint8 [height, width, 3]; x and y are in 1/65536 of a map unit; heading counts counter-clockwise from
    east; `lost` is whether the engine has died. The next order to its game, a RESET, starts another.
    """
    height, width = (len(range(settings.offset, size, settings.stride)) for size in _RENDERED)
    frame = ("frame", np.uint8, (height, width, 3))
    return np.dtype([frame, ("x", np.int32), ("y", np.int32), ("heading", np.int32), ("lost", np.bool_)])


def import_vizdoom() -> Any:
    """The module `vizdoom`.

    Raises:
      VizdoomMissingError: saying what to install.
    """
    try:
        import vizdoom
    except ImportError as error:
        raise VizdoomMissingError("the real engine needs ViZDoom: pip install 'rl2jax[vision]'") from error
    return vizdoom


class Engine:
    """A running game; `close` ends it."""

    def __init__(self, settings: GameSettings, config_file: Path):
        """Starts the engine.

        Args:
          settings: of the game.
          config_file: where the engine may write its own settings; one for each running game.
        """
        vizdoom = import_vizdoom()
        self._settings = settings
        game = self._game = vizdoom.DoomGame()
        game.set_doom_scenario_path(settings.wad)
        game.set_doom_config_path(str(config_file))
        game.set_doom_map(settings.maps[0])
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_available_buttons([vizdoom.Button.MOVE_FORWARD, vizdoom.Button.TURN_LEFT_RIGHT_DELTA])
        variables = vizdoom.GameVariable
        game.set_available_game_variables([variables.POSITION_X, variables.POSITION_Y, variables.ANGLE])
        for switch in ("hud", "crosshair", "weapon", "decals", "particles", "effects_sprites", "messages", "corpses"):
            getattr(game, f"set_render_{switch}")(False)
        game.set_window_visible(False)
        game.set_sound_enabled(False)
        game.set_mode(vizdoom.Mode.PLAYER)
        game.set_episode_timeout(0)
        game.set_episode_start_time(_IDLE_TICS)
        game.set_seed(0)
        game.add_game_args("+set movebob 0")
        game.init()
        self._map = 0
        # What its shared-memory files are called after; the game does not tell any more once it has died.
        self.instance_id: str = game.get_instance_id()

    def reset(self, index: int, view: np.void) -> None:
        """Starts an episode on map `index` and writes what is seen into `view`."""
        if index != self._map:
            self._game.set_doom_map(self._settings.maps[index])
            self._map = index
        self._game.new_episode()
        self._look(view)

    def step(self, action: int, view: np.void) -> None:
        """One tic; writes what is seen into `view`."""
        self._game.make_action(self._settings.buttons[action])
        self._look(view)

    def _look(self, view: np.void) -> None:
        settings, state = self._settings, self._game.get_state()
        x, y, angle = state.game_variables
        view["frame"] = state.screen_buffer[settings.offset :: settings.stride, settings.offset :: settings.stride]
        view["x"], view["y"] = round(x * UNIT), round(y * UNIT)
        view["heading"] = round(angle * settings.num_headings / 360) % settings.num_headings

    def close(self) -> None:
        """Ends the engine."""
        with contextlib.suppress(Exception):
            self._game.close()


def processes_of(folder: Path) -> list[int]:
    """Workers whose folder this is or lies in it, and their engines: process ids, by their command lines."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended since, or is somebody else's
            words = [os.fsdecode(word) for word in line.read_bytes().split(b"\0")]
            named = [after for word, after in pairwise(words) if word == "-config" or Path(word).name == _PROGRAM]
            if any(Path(name).is_relative_to(folder) for name in named):
                found.append(int(line.parent.name))
    return found


def end_processes(pids: list[int]) -> None:
    """Kills them."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _files_of(instance: str) -> list[Path]:
    return [_SHARED_MEMORY / (prefix + instance) for prefix in _PREFIXES]


def shared_memory_of(folder: Path, pids: list[int]) -> set[Path]:
    """The shared-memory files of a folder's engines: those that the worker wrote down, and those in use now.

    An engine that is just starting is in no list yet; but the files are mapped.
    """
    found = set()
    for instances in [*folder.glob(INSTANCES), *folder.glob(f"*/{INSTANCES}")]:
        found |= {file for name in instances.read_text().split() for file in _files_of(name)}
    for pid in pids:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/maps").read_text().split()
            found |= {Path(word) for word in words if word.startswith(f"{_SHARED_MEMORY}/ViZDoom")}
    return found


def remove_orphaned_shared_memory() -> None:
    """Removes shared memory of engines that nobody uses any more, whoever started them.

    A worker crashes if its engine dies while it starts, before it can say what the files are called. Both ends of a
    game have its files mapped from the first moment on; to one that runs, the names are of no use.
    """
    old = time.time() - _ORPHANED
    for prefix in _PREFIXES:
        for file in _SHARED_MEMORY.glob(prefix + "*"):
            with contextlib.suppress(OSError):
                status = file.stat()
                if status.st_uid == os.getuid() and status.st_mtime < old and not _is_mapped(file):
                    file.unlink()


def _is_mapped(file: Path) -> bool:
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if f"{file}\n" in maps.read_text():
                return True
    return False


def remove_leftovers(folder: Path) -> None:
    """Ends all processes of a folder, and removes their shared memory."""
    deadline = time.monotonic() + GRACE
    pids, files = processes_of(folder), set()
    while True:
        files |= shared_memory_of(folder, pids)
        end_processes(pids)
        pids = processes_of(folder)
        if not pids or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    for file in files:
        file.unlink(missing_ok=True)


class _Worker:
    """Several games in lockstep, played as the process at the other end of a connection says."""

    def __init__(self, folder: Path, connection: Connection):
        description = json.loads((folder / SETTINGS).read_text())
        self._folder = folder
        self._connection = connection
        self._settings = GameSettings(**description["settings"])
        self._views = np.zeros(description["num_games"], view_type(self._settings))
        threading.Thread(target=self._watch_parent, daemon=True).start()
        with ThreadPoolExecutor(len(self._views)) as pool:  # starting does not hold Python's lock
            self._engines: list[Engine | None] = list(pool.map(self._start, range(len(self._views))))

    def _start(self, game: int) -> Engine:
        engine = Engine(self._settings, self._folder / f"game{game}.ini")
        with open(self._folder / INSTANCES, "a") as file:
            file.write(engine.instance_id + "\n")
        return engine

    def serve(self) -> None:
        """Until the other end closes."""
        try:
            self._connection.send_bytes(self._views.tobytes())
            while True:
                orders = np.frombuffer(self._connection.recv_bytes(), np.int32).reshape(-1, 2)
                self._views["lost"] = False
                for game, (order, argument) in enumerate(orders.tolist()):
                    if order != IDLE:
                        self._obey(game, order, argument)
                self._connection.send_bytes(self._views.tobytes())
        except (EOFError, OSError):  # the other end has closed
            return
        finally:
            # To close an engine that hangs would hang too, and hold Python's lock; they have nothing to save.
            end_processes([pid for pid in processes_of(self._folder) if pid != os.getpid()])
            for engine in self._engines:
                if engine is not None:
                    engine.close()

    def _obey(self, game: int, order: int, argument: int) -> None:
        engine, view = self._engines[game], self._views[game]
        if engine is None:
            engine = self._engines[game] = self._start(game)
        try:
            (engine.reset if order == RESET else engine.step)(argument, view)
        except Exception:  # whatever it says: this engine is of no use any more
            traceback.print_exc()
            engine.close()
            for file in _files_of(engine.instance_id):
                file.unlink(missing_ok=True)
            # The next one starts with the next order: the other end knows then that it takes its time.
            self._engines[game] = None
            view["lost"] = True

    def _watch_parent(self) -> None:
        """Takes the engines along when the parent has closed its end or died, even if one of them hangs."""
        os.read(sys.stdin.fileno(), 1)
        time.sleep(GRACE / 2)  # then whoever could has ended
        pids = processes_of(self._folder)
        files = shared_memory_of(self._folder, pids)
        end_processes([pid for pid in pids if pid != os.getpid()])  # the main thread then buries them
        time.sleep(GRACE / 4)
        for file in files:
            file.unlink(missing_ok=True)
        os.killpg(0, signal.SIGKILL)


def main() -> None:
    """The worker's program; its standard input is open for as long as the parent lives."""
    folder, socket = Path(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(socket, False)  # or it would stay open for as long as an engine lives
    _Worker(folder, Connection(socket)).serve()


if __name__ == "__main__":
    main()
