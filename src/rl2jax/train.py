"""train(): one jitted iteration, a scan over a chunk of them, and a host loop around the chunks."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from rl2jax.agents.base import Agent
from rl2jax.config import TrainConfig
from rl2jax.devices import TRIALS, put, replicate
from rl2jax.envs.base import TaskDistribution, require
from rl2jax.families import make_networks, make_trial
from rl2jax.imitation import imitating_agent
from rl2jax.learner import (
    TrainState,
    init_train_state,
    make_collect,
    make_update,
    num_trials_in_batch,
    steps_in_lane,
)
from rl2jax.networks import Networks
from rl2jax.trial import Trial
from rl2jax.types import Metrics, PyTree, Trajectory


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
Iterations = Callable[[TrainState], tuple[TrainState, Metrics]]


class NonFiniteError(RuntimeError):
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


@dataclass(frozen=True)
class Learner:
    """A task distribution and a config, bound together; equal learners share compiled code.

    Attributes:
      env: the task distribution.
      config: all settings.
      teacher: who is imitated, with algorithm "imitation".
      mesh: devices with one axis, "trials", that share the trials, or lanes, of a batch; None: the default device.
        States and metrics are whole on each of them.

    Raises:
      ValueError: at construction, if the config does not fit the environment or the mesh.
    """

    env: TaskDistribution
    config: TrainConfig
    teacher: Agent | None = None
    mesh: Mesh | None = None

    def __post_init__(self):
        imitates = self.config.algorithm == "imitation"
        require(imitates or self.teacher is None, "teacher", self.teacher, "given with algorithm imitation only")
        require(not imitates or self.teacher is not None, "teacher", self.teacher, "an agent, with imitation")
        num_trials_in_batch(self.trial, self.config)
        make_networks(self.env, self.config)
        if self.mesh is not None:
            require(self.mesh.axis_names == (TRIALS,), "mesh axes", self.mesh.axis_names, f"({TRIALS!r},)")
            self._require_equal_shares(self.mesh.size)

    def _require_equal_shares(self, num_devices: int) -> None:
        steps, share = self.lane_steps, self.num_trials // num_devices
        what = "lanes" if self.config.lane_steps else "trials"
        near = [str(shares * num_devices * steps) for shares in (share, share + 1) if shares]
        if self.num_trials % num_devices:
            raise ValueError(
                f"batch_size must hold a multiple of {num_devices} {what} ({steps} steps each) on {num_devices} "
                f"devices, such as {' or '.join(near)}, got {self.config.batch_size} ({self.num_trials} {what})"
            )

    @cached_property
    def trial(self) -> Trial:
        """The trial that is played."""
        return make_trial(self.env, self.config)

    @cached_property
    def networks(self) -> Networks:
        """The networks that are trained."""
        return make_networks(self.env, self.config)

    @cached_property
    def num_trials(self) -> int:
        """Trials in a batch; with `TrainConfig.lane_steps` lanes."""
        return num_trials_in_batch(self.trial, self.config)

    @property
    def lane_steps(self) -> int:
        """Steps of each of them: of a lane, or the most of a trial."""
        return steps_in_lane(self.trial, self.config)

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps that an iteration collects and learns from."""
        return self.num_trials * self.lane_steps

    def init(self, key: chex.PRNGKey) -> TrainState:
        """A fresh train state."""
        return _init(self, key)

    def place(self, state: TrainState) -> TrainState:
        """A copy of a train state where training wants it: whole, on every device of the mesh."""
        return put(state, self.mesh, PartitionSpec())

    def agent_of(self, params: PyTree) -> Agent:
        """Who plays the trials with a train state's params: the student, with the teacher's help where it has one."""
        student = self.networks.agent(params["policy"])
        if self.teacher is None:
            return student
        return imitating_agent(student, self.teacher, self.config.student_share if self.config.teacher_acts else 1.0)

    def train_step(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """One iteration: collect a batch, update on it."""
        key, key_collect, key_update = jax.random.split(state.key, 3)
        lane_steps, trials_per_task = self.config.lane_steps, self.config.trials_per_task
        collect = make_collect(self.trial, self.agent_of, self.num_trials, self.mesh, lane_steps, trials_per_task)
        trajectory = collect(key_collect, state.params)
        return self.learn(state, trajectory, key, key_update)

    def learn(
        self, state: TrainState, trajectory: Trajectory, key: chex.PRNGKey, key_update: chex.PRNGKey
    ) -> tuple[TrainState, Metrics]:
        """The second half of an iteration; `key` is the next iteration's. A non-finite update is thrown away."""
        update = make_update(self.networks, self.config, self.num_trials, self.mesh)
        new_state, metrics = update(state, trajectory, key_update)
        new_state = new_state._replace(key=key)
        # One scalar stands for all: a NaN or infinity anywhere in the new state reaches their sum. The gradient's need
        # not: a line search that finds no finite step takes none.
        total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(new_state._replace(key=())))
        finite = jnp.isfinite(total) & jnp.isfinite(metrics.baseline_loss) & jnp.isfinite(metrics.mean_return)
        finite = finite & jnp.isfinite(metrics.grad_norm)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new_state, state)
        return kept, metrics._replace(finite=finite.astype(jnp.float32))

    def train_chunk(self, state: TrainState, length: int) -> tuple[TrainState, Metrics]:
        """`length` iterations on the device; metrics have leaves [length]."""
        done = jax.lax.scan(lambda state, _: self.train_step(state), state, None, length=length)
        return replicate(done, self.mesh)

    def compile(self, state: TrainState, length: int) -> Iterations:
        """The program of `length` iterations, compiled; a state's memory is donated."""
        return train_chunk.lower(self, state, length).compile()


@partial(jax.jit, static_argnums=0)
def _init(learner: Learner, key: chex.PRNGKey) -> TrainState:
    # One program instead of an eager operation per parameter: seconds less to wait.
    return replicate(init_train_state(learner.networks, learner.config, learner.num_trials, key), learner.mesh)


_whole_training = jax.jit(Learner.train_chunk, static_argnums=(0, 2))  # made once: a second call is not traced again


class Program(Protocol):
    """What the host loop runs: a `Learner`, many seeds of one (`seeds.SeedLearner`), or one with games of an engine."""

    @property
    def config(self) -> TrainConfig: ...  # noqa: D102

    @property
    def steps_per_iteration(self) -> int: ...  # noqa: D102

    def compile(self, state: TrainState, length: int) -> Iterations: ...  # noqa: D102


class Trainable(Protocol):
    """A program that is one function of JAX; hashable, static."""

    def train_chunk(self, state: TrainState, length: int) -> tuple[TrainState, Metrics]: ...  # noqa: D102


@partial(jax.jit, static_argnums=(0, 2), donate_argnums=1)
def train_chunk(learner: Trainable, state: TrainState, length: int) -> tuple[TrainState, Metrics]:
    """Jitted `Learner.train_chunk`; the state's memory is donated."""
    return learner.train_chunk(state, length)


def train(
    env: TaskDistribution,
    config: TrainConfig,
    key: chex.PRNGKey,
    *,
    callback: Callback | None = None,
    state: TrainState | None = None,
    teacher: Agent | None = None,
    mesh: Mesh | None = None,
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
      teacher: who is imitated, with `config.algorithm` "imitation"; `metrics.mean_return` is of those who act.
      mesh: devices that share the trials of a batch, from `devices.make_mesh`; the result is one device's, but for
        the order of floating-point sums. Their number divides the number of trials.

    Returns:
      (state, metrics); metrics have leaves [iterations done by this call].

    Raises:
      ValueError: if the config does not fit the environment or the mesh.
      NonFiniteError: with a callback, if an update was not finite. Without one, see `metrics.finite`.
    """
    learner = Learner(env, config, teacher, mesh)
    if callback is None:
        if state is None:
            state = learner.init(key)
            length = config.iterations
        else:
            length = config.iterations - int(state.iteration)
            state = state if mesh is None else learner.place(state)
        return _whole_training(learner, state, length)
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
