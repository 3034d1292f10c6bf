"""train(): a host loop around chunks of iterations."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
from jax.sharding import Mesh

from rl2jax.agents.base import Agent
from rl2jax.engines.base import DEVICE, EngineOf
from rl2jax.envs.base import TaskDistribution
from rl2jax.settings import UserError
from rl2jax.training.config import TrainConfig
from rl2jax.training.learner import Iterations, Learner, Program, whole_training
from rl2jax.training.on_engine import playing_on
from rl2jax.training.update import TrainState
from rl2jax.types import Metrics


class ChunkReport(NamedTuple):
    """What the host learns after a chunk.

    Attributes:
      state: the train state after the chunk; on the device.
      metrics: numpy arrays [iterations in the chunk].
      seconds: wall time of the chunk, compilation excluded.
      steps_per_second: environment steps collected and learned from per second, compilation excluded.
      compile_seconds: time spent compiling before the chunk; 0 if it was compiled already.
      iteration: iterations done.
    """

    state: TrainState
    metrics: Metrics
    seconds: float
    steps_per_second: float
    compile_seconds: float
    iteration: int


_TICK = 1e-9  # seconds that a chunk takes at least, whatever clocks say
Callback = Callable[[ChunkReport], bool | None]


class NonFiniteError(UserError, RuntimeError):
    """An update produced a number that is not finite.

    Attributes:
      state: the last good train state.
      report: of the chunk in which that happened, with the metrics of all its iterations, [..., iterations in the
        chunk], those before the bad one good; None if that is not known.
    """

    def __init__(self, state: TrainState, report: ChunkReport | None = None):
        self.state, self.report = state, report
        iterations = np.asarray(state.iteration)  # of many seeds, the one that is stuck is behind
        kept, stuck = int(iterations.min()), int(iterations.argmin())
        which = f" of seed number {stuck}" if iterations.ndim else ""
        what = "a non-finite loss or parameter"
        if report is not None:
            found = _non_finite(jax.tree.map(lambda x: x[stuck], report.metrics) if iterations.ndim else report.metrics)
            what = f"a non-finite {found[0]}" + (f" (and {', '.join(found[1:])})" if found[1:] else "")
        super().__init__(
            f"iteration {kept + 1}{which} produced {what}; the state of iteration "
            f"{kept} was kept. Look for infinite rewards or observations, or lower the learning rate."
        )


def _non_finite(metrics: Metrics) -> list[str]:
    """Names of what is not finite in the first iteration that was thrown away; metrics have leaves [iterations]."""
    first = int(np.argmin(metrics.finite))
    return [name for name, x in metrics._asdict().items() if not np.isfinite(x[first])] or ["parameter"]


def train(
    env: TaskDistribution,
    config: TrainConfig,
    key: chex.PRNGKey,
    *,
    callback: Callback | None = None,
    state: TrainState | None = None,
    teacher: Agent | None = None,
    mesh: Mesh | None = None,
    engine: str | EngineOf = DEVICE,
    network: Any = None,
    slow_rl: Any = None,
) -> tuple[TrainState, Metrics]:
    """Trains a recurrent policy on tasks drawn from `env`.

    Without a callback and with a traced or plain key this is one pure function, so it can be jitted and
    vmapped: `jax.vmap(lambda key: train(env, config, key))(keys)` trains one agent per key.

    Args:
      env: the task distribution.
      config: all settings; `config.iterations` is where training ends.
      key: the run's randomness; unused if `state` is given.
      callback: called on the host after each chunk of `config.iterations_per_chunk` iterations; returning
        True ends training there.
      state: continue from here instead of from scratch. Not donated.
      teacher: who is imitated, with slow_rl imitation; `metrics.mean_return` is of those who act.
      mesh: devices that share the trials of a batch, from `devices.make_mesh`; the result is one device's, but for
        the order of floating-point sums. Their number divides the number of trials.
      engine: who plays the trials: a name, as of `rl2jax train --engine`, or a `HostEngine`'s class, which is made of
        `env`, used and closed. Other than the device's, the function is no pure one.
      network: in place of `config.network`: settings, a name, or one's own `networks.memory.SequenceModel` or Flax
        module.
      slow_rl: in place of `config.slow_rl`: a name, settings, a settings class (`SlowRLSettings`), or a function
        (settings, problem) -> `SlowRL`.

    Returns:
      (state, metrics); metrics have leaves [iterations done by this call].

    Raises:
      ValueError: if the config does not fit the environment or the mesh, or the engine refuses.
      NonFiniteError: with a callback or an engine, if an update was not finite. Without one, see `metrics.finite`.
    """
    chosen = {"network": network, "slow_rl": slow_rl}
    config = config.replace({name: value for name, value in chosen.items() if value is not None})
    learner = Learner(env, config, teacher, mesh)
    if engine != DEVICE:
        with playing_on(engine, learner) as on_engine:
            start = on_engine.init(key) if state is None else on_engine.place(state)
            return run_chunks(on_engine, start, (lambda report: None) if callback is None else callback)
    if callback is None:
        if state is None:
            state = learner.init(key)
            length = config.iterations
        else:
            length = config.iterations - int(state.iteration)
            state = state if mesh is None else learner.place(state)
        return whole_training(learner, state, length)
    return run_chunks(learner, learner.init(key) if state is None else learner.place(state), callback)


def run_chunks(
    learner: Program, state: TrainState, callback: Callback, stopped: Callable[[], bool] = lambda: False
) -> tuple[TrainState, Metrics]:
    """Trains to the last iteration chunk by chunk, as `train` with a callback; `state` is donated.

    Compiles ahead of time, so that compilation is measured apart. Compiling may take minutes: `stopped` is asked before
    and after it whether training is to end there.
    """
    config = learner.config
    compiled: dict[int, Iterations] = {}
    history: list[Metrics] = []
    iteration = int(np.min(state.iteration))
    while iteration < config.iterations:
        # Chunks end at multiples of their length wherever training started, so that a resumed run
        # executes the same programs as an uninterrupted one.
        to_boundary = config.iterations_per_chunk - iteration % config.iterations_per_chunk
        length = min(to_boundary, config.iterations - iteration)
        compile_start = time.perf_counter()
        if length not in compiled:
            if stopped():
                break
            compiled[length] = learner.compile(state, length)
            if stopped():
                break
        start = time.perf_counter()
        state, metrics = compiled[length](state)
        metrics = jax.tree.map(np.asarray, metrics)  # waits for the device
        seconds = max(time.perf_counter() - start, _TICK)
        iteration += length
        rate = length * learner.steps_per_iteration / seconds
        report = ChunkReport(state, metrics, seconds, rate, max(start - compile_start, 0.0), iteration)
        if not metrics.finite.all():
            raise NonFiniteError(state, report)
        history.append(metrics)
        if callback(report):
            break
    if not history:
        shape = (*state.iteration.shape, 0)
        return state, jax.tree.map(lambda _: np.zeros(shape, np.float32), Metrics(*Metrics._fields))
    return state, jax.tree.map(lambda *chunks: np.concatenate(chunks, axis=-1), *history)
