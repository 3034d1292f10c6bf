"""One game of the real ViZDoom, set up so that a tic is a step and the same actions give the same frames."""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rl2jax.vision.kinematics import FORWARD, TURN_LEFT, TURN_RIGHT
from rl2jax.vision.mazes import HEADINGS
from rl2jax.vision.raycast import OFFSET, STRIDE
from rl2jax.vision.wad import map_name

_DEGREES = 360 / HEADINGS
_IDLE_TICS = 10  # input is ignored in the first ones of an episode


class VizdoomMissingError(ImportError):
    """The package `vizdoom` is not installed; the message says what to do."""


class View(NamedTuple):
    """What a step brings about.

    Attributes:
      frame: uint8 [30, 40, 3].
      x, y: position in 1/65536 of a map unit.
      heading: sixteenths of a turn, counter-clockwise from east.
    """

    frame: np.ndarray
    x: int
    y: int
    heading: int


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
    """A running game of the mazes in a WAD file; a context manager."""

    def __init__(self, wad: Path, num_mazes: int, config_file: Path, turn: int = 1):
        """Starts the engine.

        Args:
          wad: written by `wad.write_wad`.
          num_mazes: in it; an engine that is asked for a map it does not have never answers.
          config_file: where the engine may write its settings; one for each running game.
          turn: sixteenths of a full turn that a turning action makes.
        """
        vizdoom = import_vizdoom()
        self._num_mazes = num_mazes
        self._actions = {
            FORWARD: [1.0, 0.0],
            TURN_LEFT: [0.0, -turn * _DEGREES],
            TURN_RIGHT: [0.0, turn * _DEGREES],
        }
        game = self._game = vizdoom.DoomGame()
        game.set_doom_scenario_path(str(wad))
        game.set_doom_config_path(str(config_file))
        game.set_doom_map(map_name(0))
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

    def reset(self, index: int) -> View:
        """Starts an episode in maze `index`."""
        if not 0 <= index < self._num_mazes:
            raise ValueError(f"maze index must be between 0 and {self._num_mazes - 1}, got {index}")
        if index != self._map:
            self._game.set_doom_map(map_name(index))
            self._map = index
        self._game.new_episode()
        return self._view()

    def step(self, action: int) -> View:
        """One tic."""
        self._game.make_action(self._actions[action])
        return self._view()

    def _view(self) -> View:
        state = self._game.get_state()
        x, y, angle = state.game_variables
        frame = state.screen_buffer[OFFSET::STRIDE, OFFSET::STRIDE]
        return View(np.ascontiguousarray(frame), round(x * 65536), round(y * 65536), round(angle / _DEGREES) % HEADINGS)

    @property
    def instance_id(self) -> str:
        """What the engine's shared-memory files are called after."""
        return self._game.get_instance_id()

    def close(self) -> None:
        """Ends the engine."""
        with contextlib.suppress(Exception):
            self._game.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
