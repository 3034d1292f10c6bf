"""What plays trials on the host: the interface of a simulator, their names, and what each refuses.

A new one is a class of its own file and a line in `ENGINES`; a user's own needs no line: "package.module:object".
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from rl2jax.settings import InputError, UserError, load_object, require

if TYPE_CHECKING:  # who only asks for names, or starts workers, has no use for JAX
    from rl2jax.envs.base import TaskDistribution
    from rl2jax.types import PyTree

DEVICE = "device"  # no engine: the task distribution itself, in JAX
ENGINES = {"vizdoom": "rl2jax.engines.vizdoom.mazes:VizdoomMazes"}


class EngineError(UserError, RuntimeError):
    """An engine that cannot go on; the message says why, to whoever started it."""


class HostEngine(Protocol):
    """A vector of slots, each of which plays one trial at a time; a context manager. To be derived from.

    It knows tasks and episodes, but neither trials nor agents: `collection` hands it tasks, starts its episodes and
    makes its steps a `Trajectory`. Arrays are NumPy's; what it returns is copied before its next call.

    Attributes:
      env: the task distribution. Its spaces, `sample_params` and `task_features` are used, and not its steps: it may
        have none.
      num_slots: how many trials it plays at once.
    """

    env: "TaskDistribution"
    num_slots: int

    @classmethod
    def refuses(cls, env: "TaskDistribution") -> str | None:
        """Why it cannot play a task distribution, asked before it is made; None (default): it can."""
        del env
        return None

    def assign(self, slots: np.ndarray, params: "PyTree", seeds: np.ndarray) -> None:
        """Gives slots another task; what they play until it is given is of no interest.

        Args:
          slots: which; int [n], each once.
          params: their tasks, from `env.sample_params`; numpy leaves [n, ...].
          seeds: of whatever is left to chance in them, so that a trial is the same in any slot; uint32 [n].
        """
        ...

    def reset(self, slots: np.ndarray) -> np.ndarray:
        """Starts episodes of the slots' tasks; int [n], each once. The others stay where they are.

        Returns:
          Their first observations; [n, ...].
        """
        ...

    def step(self, action: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One step of the active slots; an episode that ends waits for `reset`.

        Args:
          action: of all slots, those of a Box within its bounds; [num_slots, ...].
          active: slots that make the step; bool [num_slots]. The others stay where they are.

        Returns:
          (obs, reward, terminated, truncated), [num_slots, ...]: observations, rewards, whether the episode ended by
          itself, and whether the time limit ended it. Of slots that are not active anything.
        """
        ...

    def privileged(self) -> "PyTree":
        """What `env.privileged` says of each slot now, leaves [num_slots, ...], for planners; default nothing."""
        return ()

    def expected_reward(self, action: np.ndarray) -> np.ndarray | None:
        """Mean reward of an action in each slot now, as `env.expected_reward`; [num_slots], None where not known."""
        del action
        return None

    def close(self) -> None:
        """Ends it; does nothing the second time."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


EngineOf = Callable[["TaskDistribution"], HostEngine]  # from a task distribution to what plays it


def find_engine(
    engine: "str | EngineOf", env: "TaskDistribution", *, lane_steps: int = 0, alone: bool = True
) -> "EngineOf | None":
    """What makes the engine of that name. This is where engines, and the device, refuse what they cannot do.

    Args:
      engine: `DEVICE`, one of `ENGINES`, or "package.module:object": a `HostEngine`'s class, or a function that makes
        one of a task distribution; or that class or function itself.
      env: what it is to play.
      lane_steps: of a training (`TrainConfig.lane_steps`).
      alone: whether one agent plays, in one process.

    Returns:
      What makes it; None for the device.

    Raises:
      ValueError: if there is no such engine, or it refuses; saying why.
    """
    if engine == DEVICE:
        what = f"one that plays {type(env).__name__}, which has no step_env of its own"
        require(env.plays_on_device, "--engine", DEVICE, what)
        return None
    name = engine if isinstance(engine, str) else getattr(engine, "__name__", str(engine))
    known = not isinstance(engine, str) or engine in ENGINES or ":" in engine
    require(known, "--engine", name, f"{', '.join((DEVICE, *ENGINES))} or package.module:object")
    make = load_object(ENGINES.get(engine, engine), "--engine") if isinstance(engine, str) else engine
    require(callable(make), f"--engine {name}", make, "a HostEngine's class, or a function that makes one")
    if not alone:
        raise InputError(f"--engine {name} trains one agent in one process")
    require(lane_steps == 0, "lane_steps", lane_steps, f"0 with --engine {name}")
    reason = getattr(make, "refuses", HostEngine.refuses)(env)
    if reason is not None:
        raise InputError(f"--engine {name}: {reason}")
    return make
