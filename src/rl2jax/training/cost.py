"""What an iteration costs: operations and bytes of each of its phases, and how long a device takes for them.

Operations are those of the matrix products (a multiplication and an addition are two) and of the environment's
random numbers; bytes are those that must go to memory and back however the program is written, with weights and the
hidden state of the current step in cache. A device that reached its peak would need the larger of operations / peak
and bytes / bandwidth: the floor. `make benchmark` measures each phase beside it (docs/performance.md).
"""

import math
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rl2jax.agents.random import random_agent
from rl2jax.envs.names import parse_task
from rl2jax.networks.base import Encoding, PolicyAndBaseline
from rl2jax.networks.cells import CELLS, RecurrentNetwork
from rl2jax.networks.frames import Frames, SharedRecurrentNetwork
from rl2jax.networks.per_arm import ArmNetwork, PerArmNetworks
from rl2jax.networks.per_pair import VECTOR, PairNetwork, PerPairNetworks
from rl2jax.networks.planning import PLANS, Planner, PlanningNetwork
from rl2jax.networks.products import product
from rl2jax.slow_rl.sgd import num_minibatches
from rl2jax.training.learner import Learner
from rl2jax.training.presets import preset_for
from rl2jax.trials.rollout import rollout, rollout_lane, steps_apart
from rl2jax.trials.trial import Trial

# Floor / time of a phase: medians over tasks of the rows in experiments/results/benchmarks/cpu.json (rollout, values,
# gradient, 2 Fisher products, baseline; a line search is a forward pass, as values are), on two idle cores. A share
# differs between machines less than a time does: where products reached half as many FLOP/s, it was 1.1 to 1.4 times
# as large.
EFFICIENCY = {
    "collect": 0.56,
    "values": 0.69,
    "gradient": 0.47,
    "fisher": 0.63,
    "line search": 0.69,
    "baseline": 0.41,
}
# Threefry with 20 rounds of an addition, a rotation (three operations) and a xor, and its key schedule, per 64 bits.
_OPERATIONS_PER_HASH = 120
# Arrays of [units] that a backward pass needs of a step: state, both gates, candidate and U_c h; of an LSTM both
# states, three gates, candidate and the activation of c; with layer normalisation also what is normalised.
_KEPT = {"gru": 5, "layer_norm_gru": 11, "lstm": 7}
_FLOAT = 4  # bytes
_SEPARATE = (PolicyAndBaseline, PerArmNetworks, PerPairNetworks, PlanningNetwork)


class Cost(NamedTuple):
    """Work: floating-point (for random numbers, integer) operations, and bytes to and from memory."""

    operations: float
    bytes: float

    def times(self, factor: float) -> "Cost":
        """The same work `factor` times."""
        return Cost(self.operations * factor, self.bytes * factor)


class Peak(NamedTuple):
    """What a device reaches at best: FLOP/s in a large matrix product, byte/s in copying a large array."""

    operations_per_second: float
    bytes_per_second: float


def total(costs: list[Cost]) -> Cost:
    """The sum of several costs."""
    return Cost(sum(c.operations for c in costs), sum(c.bytes for c in costs))


def floor_seconds(cost: Cost, peak: Peak) -> float:
    """The least time for this work: that of its operations or of its bytes, whichever is longer."""
    return max(cost.operations / peak.operations_per_second, cost.bytes / peak.bytes_per_second)


def matmul_peak(size: int = 1024, repeats: int = 10, mesh: Mesh | None = None, precision: str = "default") -> float:
    """Measured matrix-product rate, in FLOP/s, of the default device, or of all of a mesh's at once.

    Args:
      size: rows and columns of both factors, float32.
      repeats: products timed in a row.
      mesh: devices that work at once.
      precision: as in `products.product`.
    """
    function, matrix = _product_at(precision), _ones((size, size), mesh)
    return 2.0 * size**3 * _num_devices(mesh) / _seconds(function, (matrix, matrix), repeats, mesh)


def copy_bandwidth(megabytes: int = 128, repeats: int = 4, mesh: Mesh | None = None) -> float:
    """Measured rate of reading one large array and writing another, in byte/s: both directions, all devices."""
    x = _ones((megabytes * 1_000_000 // _FLOAT,), mesh)
    return 2.0 * x.nbytes / _seconds(_negation, (x,), repeats, mesh)


def measure_peak(mesh: Mesh | None = None, precision: str = "default") -> Peak:
    """Both of the above, on arrays large enough for the device: a quarter of a second on an idle CPU.

    Args:
      mesh: devices that work at once, each on arrays of its own; None: the default device alone.
      precision: of the products, as in `products.product`.
    """
    if jax.default_backend() == "cpu":
        return Peak(matmul_peak(mesh=mesh, precision=precision), copy_bandwidth(mesh=mesh))
    return Peak(matmul_peak(8192, mesh=mesh, precision=precision), copy_bandwidth(1024, mesh=mesh))


@lru_cache
def _product_at(precision: str) -> Callable:
    """One function for each precision: what is compiled for it is found again."""
    return partial(product, precision=precision)


def _negation(x: jax.Array) -> jax.Array:
    return -x


def _num_devices(mesh: Mesh | None) -> int:
    return 1 if mesh is None else mesh.size


def _ones(shape: tuple[int, ...], mesh: Mesh | None) -> jax.Array:
    """Ones of this shape on each device, one device's below another's."""
    x = jnp.ones((shape[0] * _num_devices(mesh), *shape[1:]))
    return x if mesh is None else jax.device_put(x, NamedSharding(mesh, PartitionSpec(mesh.axis_names[0])))


@lru_cache
def _on_each(function: Callable, mesh: Mesh | None) -> Callable:
    """Compiled; each device of a mesh computes with its own rows."""
    if mesh is None:
        return jax.jit(function)
    rows = PartitionSpec(mesh.axis_names[0])
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=rows, out_specs=rows))


def _seconds(function: Callable, arguments: tuple, repeats: int, mesh: Mesh | None) -> float:
    """Mean time of a call; the first call is not counted."""
    function = _on_each(function, mesh)
    function(*arguments).block_until_ready()
    start = time.perf_counter()
    for _ in range(repeats):
        function(*arguments).block_until_ready()
    return (time.perf_counter() - start) / repeats


class _Passes(NamedTuple):
    """Operations per time step of one network.

    Attributes:
      forward: all matrix products once.
      gradient: forward, and backward: each product's weights, and its argument unless that is the network's input.
      product: a Jacobian-vector product and a vector-Jacobian product, each as much as a backward pass.
    """

    forward: float
    gradient: float
    product: float


def _passes(network: RecurrentNetwork | SharedRecurrentNetwork | ArmNetwork | PairNetwork | Planner) -> _Passes:
    if isinstance(network, Planner):
        plans, layers = (2.0 * number for number in network.multiplications)
        derivative = plans + 2.0 * layers  # counts need none
        return _Passes(plans + layers, plans + layers + derivative, 2.0 * derivative)
    if isinstance(network, ArmNetwork):
        return _arm_passes(network)
    if isinstance(network, PairNetwork):
        forward = 2.0 * network.multiplications
        return _Passes(forward, 3.0 * forward, 4.0 * forward)
    if isinstance(network, SharedRecurrentNetwork):
        return _shared_passes(network)
    gates = CELLS[network.cell].num_gates * network.units
    recurrent = 2.0 * network.units * (gates + network.num_outputs)
    from_input = 2.0 * network.input_size * gates
    derivative = 2.0 * recurrent + from_input
    return _Passes(recurrent + from_input, recurrent + from_input + derivative, 2.0 * derivative)


def _shares_start(learner: Learner, network: Any) -> bool:
    """Whether a network takes the first step once for all trials (`unroll_trials`)."""
    alike = learner.networks.starts_alike and not learner.config.batch.lane_steps and learner.trial.num_steps > 1
    return alike and not getattr(network, "num_task_inputs", 0)


def _of_state(network: Any) -> _Passes:
    """Of one step, the part that multiplies the recurrent layer's state."""
    forward = 2.0 * network.units * CELLS[network.cell].num_gates * network.units
    return _Passes(forward, 3.0 * forward, 4.0 * forward)


def _spared(learner: Learner, network: Any, num_trials: int) -> _Passes:
    """Operations of a trial that are not done where this many are unrolled together (`unroll_trials`).

    Trials that start alike take their first step once for all of them. The next step, or the first where they do not
    start alike, multiplies no state of each trial's own: all have one in common, or zeros. Where trials follow one
    another in lanes that product is done all the same.
    """
    networks, devices = learner.networks, 1 if learner.mesh is None else learner.mesh.size
    nothing = _Passes(0.0, 0.0, 0.0)
    if learner.config.batch.lane_steps or not isinstance(network, RecurrentNetwork | SharedRecurrentNetwork):
        return nothing
    first = _passes(network) if _shares_start(learner, network) else nothing
    in_lanes = networks.abreast and round(num_trials / devices / networks.abreast) > 1
    next_state = nothing if in_lanes else _of_state(network)
    return _Passes(*(sum(both) for both in zip(first, next_state, strict=True)))


def _arm_passes(network: ArmNetwork) -> _Passes:
    """Of the network with a memory for each arm: one of them is stepped and read anew, all go through the readout.

    The readout's hidden layer is no matrix product but counts here: with many arms it is most of the work. Per number:
    adding what all share, the rectifier, and a product with the output, or mean and maximum.
    """
    core = _passes(RecurrentNetwork(network.input_size, network.units, network.hidden + network.num_inferred))
    of_all = 2.0 * network.num_context * network.hidden
    per_number = 4.0
    if network.is_baseline:
        of_all += 2.0 * (2 * network.hidden + 4) * network.units
        per_number = 6.0
    readout = per_number * network.num_arms * network.hidden
    derivative = 2.0 * of_all + 1.75 * readout
    return _Passes(
        core.forward + of_all + readout, core.gradient + of_all + readout + derivative, core.product + 2.0 * derivative
    )


def _shared_passes(network: SharedRecurrentNetwork) -> _Passes:
    """Of the network for frames: a backward pass computes anew what comes before the cell."""
    inputs = network.units + 2 + network.num_time_inputs
    core = _passes(RecurrentNetwork(inputs, network.units, network.num_outputs, cell=network.cell))
    # Of the gates' gradient: their input is no network's input here.
    into_cell = 2.0 * network.units * CELLS[network.cell].num_gates * network.units
    of_frame, *products = (2.0 * number for number in network.multiplications)
    trunk = of_frame + sum(products)
    derivative = of_frame + 2.0 * sum(products)
    return _Passes(
        core.forward + trunk,
        core.gradient + into_cell + 2.0 * trunk + derivative,
        core.product + 2.0 * (into_cell + trunk + derivative),
    )


def environment_cost(trial: Trial, num_trials: int = 1, lane_steps: int = 0) -> Cost:
    """Playing trials, or lanes, without a network: the random numbers drawn, and writing down what happened."""
    agent = random_agent(trial.env.action_space(None))

    def play(key):
        if lane_steps:
            return rollout_lane(key, agent, trial, lane_steps)
        key_task, key_rollout = jax.random.split(key)
        return rollout(key_rollout, agent, trial, trial.env.sample_params(key_task))

    traced, trajectory = jax.make_jaxpr(play, return_shape=True)(jax.random.key(0))
    written = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(trajectory))
    return Cost(_OPERATIONS_PER_HASH * _hashes(traced.jaxpr), written).times(num_trials)


def _hashes(jaxpr: Any) -> int:
    """64-bit blocks of random bits that a traced function draws; bodies of `while` count once."""
    count = 0
    for equation in jaxpr.eqns:
        blocks = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        match equation.primitive.name:
            case "random_split" | "random_fold_in":
                count += blocks
            case "random_bits":
                count += math.ceil(blocks * equation.params["bit_width"] / 64)
            case _:
                inner = sum(_hashes(sub) for sub in _inner_jaxprs(equation.params))
                count += inner * equation.params.get("length", 1)
    return count


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)  # closed or not
            if hasattr(inner, "eqns"):
                yield inner


def fisher_cost(learner: Learner, products: int) -> Cost:
    """Linearising the policy once, and this many Fisher-vector products."""
    network, fraction = learner.networks.policy_network, learner.config.slow_rl.work().fraction
    passes, spared = _passes(network), _spared(learner, network, round(fraction * learner.num_trials))
    kept = _FLOAT * (_seen(learner) + _kept(learner))
    per_step = Cost(passes.forward + products * passes.product, kept * (1 + 2 * products))
    of_start = per_step.bytes if _shares_start(learner, network) else 0.0
    per_trial = Cost(spared.forward + products * spared.product, of_start)
    every = total([per_step.times(_steps(learner)), per_trial.times(-learner.num_trials)])
    return every.times(fraction)


def phase_costs(learner: Learner) -> dict[str, Cost]:
    """The work of one iteration by phase; the phases of `EFFICIENCY` that its algorithm has.

    How often the algorithm goes over the batch is its own to say (`SlowRLSettings.work`): "gradient" is all its
    gradients, "line search" its evaluations on the whole batch. What a teacher does is not counted.
    """
    config, networks, steps = learner.config, learner.networks, _steps(learner)
    policy, every = networks.policy_network, learner.num_trials
    baseline = networks.baseline_network if isinstance(networks, _SEPARATE) else policy
    outputs = policy.num_outputs + networks.distribution.num_constants
    seen, kept = _seen(learner), _kept(learner)
    work = config.slow_rl.work()

    def unrolled(network: Any, kind: str, num_trials: int, numbers: float, times: float = 1.0) -> Cost:
        """Passes of a kind over the batch, so many trials at a time, with so many numbers read or written a step."""
        spared = getattr(_spared(learner, network, num_trials), kind) * every
        own_steps = steps - every * _shares_start(learner, network)
        return Cost(getattr(_passes(network), kind) * steps - spared, _FLOAT * numbers * own_steps).times(times)

    # What the policy adds to the record: log_prob, dist_params.
    acting = Cost(_passes(policy).forward, _FLOAT * (1 + outputs)).times(steps)
    if _shares_start(learner, policy) and steps_apart(learner.trial):
        spared = _passes(policy).forward + _of_state(policy).forward
        acting = total([acting, Cost(-spared * every, 0.0)])
    at_once = min(every, work.minibatch_trials or every)
    costs = {
        "collect": total([acting, environment_cost(learner.trial, every, config.batch.lane_steps)]),
        "values": unrolled(baseline, "forward", every, seen + 1),
        "gradient": unrolled(policy, "gradient", at_once, 2 * (seen + kept), work.gradients),
    }
    if work.linearisations:
        costs["fisher"] = fisher_cost(learner, work.products).times(work.linearisations)
    costs["line search"] = unrolled(policy, "forward", every, seen + outputs, work.evaluations)
    if networks.shares_trunk:  # learned with the policy; what is left of it
        costs["baseline"] = costs["values"]
    elif config.slow_rl.fits_baseline:
        at_once = min(every, config.baseline.minibatch_trials)
        costs["baseline"] = unrolled(baseline, "gradient", at_once, 2 * (seen + kept), config.baseline.epochs)
    return costs


def _steps(learner: Learner) -> int:
    return learner.steps_per_iteration


def _kept(learner: Learner) -> int:
    """Numbers that a backward pass needs of one step: in the recurrent layer, of all arms or pairs, of plans."""
    networks = learner.networks
    if isinstance(networks, PlanningNetwork):
        states, actions = networks.observation.size, networks.action.size
        return PLANS * states * (1 + actions) + actions * (states + networks.units)
    kept = _KEPT[networks.cell] * networks.units
    if isinstance(networks, PerArmNetworks):
        kept += networks.num_actions * networks.policy_network.hidden
    if isinstance(networks, PerPairNetworks):  # fast weights, what each pair hears, its hidden layer, what it says
        states, actions = networks.num_states, networks.num_actions
        kept += states * actions * (states + 2 * VECTOR + networks.units) + actions * networks.units
    return kept


def _seen(learner: Learner) -> int:
    """Numbers in the observation of one step: one for an index or four bytes of a frame, reward and flag."""
    encodings = (learner.networks.observation, learner.networks.action)
    return sum(_size(encoding) for encoding in encodings) + 2


def _size(encoding: Encoding | Frames) -> int:
    if isinstance(encoding, Frames):
        return math.ceil(math.prod(encoding.shape) / _FLOAT)
    return 1 if encoding.one_hot else encoding.size


def sequential_steps(learner: Learner) -> int:
    """Steps of loops over time in one iteration, one after another however wide the device and however many there are.

    A backward pass is a second loop; a Fisher-vector product is one in each direction of the linearised network.
    """
    config, every = learner.config, learner.num_trials
    work = config.slow_rl.work()
    loops = 2  # collect, values
    loops += 2 * work.gradients * num_minibatches(every, work.minibatch_trials or every) + work.evaluations
    loops += work.linearisations * (1 + 2 * work.products)
    if learner.networks.shares_trunk:
        loops += 1  # values, after the update
    elif config.slow_rl.fits_baseline:
        loops += 2 * config.baseline.epochs * num_minibatches(every, config.baseline.minibatch_trials)
    return loops * learner.lane_steps


def iteration_seconds(learner: Learner, peak: Peak, devices: int = 1, step_seconds: float = 0.0) -> float:
    """About how long one iteration takes on devices with this peak.

    Args:
      learner: what is trained.
      peak: of one device.
      devices: that share the trials; what they send each other is not counted.
      step_seconds: a device's own time for a step of a loop, however little there is to do: launches.
    """
    work = sum(floor_seconds(cost, peak) / EFFICIENCY[phase] for phase, cost in phase_costs(learner).items())
    return work / devices + step_seconds * sequential_steps(learner)


def training_seconds(task_name: str, preset_name: str, peak: Peak) -> float:
    """About how long a training takes on a device with this peak."""
    task = parse_task(task_name)
    config = preset_for(task, preset_name)
    return config.iterations * iteration_seconds(Learner(task.env, config), peak)
