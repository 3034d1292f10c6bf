"""The network for frames, shared by policy and baseline: against numpy, its joint loss, and that it learns."""

from dataclasses import dataclass
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from flax import struct
from helpers import random_params
from jax.flatten_util import ravel_pytree

from rl2jax.agents.base import Agent
from rl2jax.devices import make_mesh
from rl2jax.envs.base import EnvParams, EnvState, TaskDistribution, spaces
from rl2jax.networks.base import Categorical, Encoding
from rl2jax.networks.frames import Frames, SharedVisionNetwork, convolution, convolution_of_many
from rl2jax.runs import checkpoint
from rl2jax.slow_rl.base import Batch
from rl2jax.slow_rl.natural_gradient import fisher_vector_product
from rl2jax.slow_rl.trpo import ratio_surrogate
from rl2jax.training.config import TrainConfig
from rl2jax.training.cost import _passes, phase_costs, sequential_steps
from rl2jax.training.families import make_networks
from rl2jax.training.learner import Learner
from rl2jax.training.loop import train
from rl2jax.training.update import make_update, problem_of
from rl2jax.trials.collect import make_collect
from rl2jax.types import TrialObservation

# --- A task whose frames say which of two actions pays.


@struct.dataclass
class Colour(EnvState):
    colour: chex.Array


@struct.dataclass
class Light(EnvParams):
    brightness: chex.Array = struct.field(kw_only=True)


@dataclass(frozen=True)
class Colours(TaskDistribution[Colour, Light]):
    """One step an episode: a frame that is all red or all blue, as bright as the task says. Action 1 pays at blue."""

    dtype: str = "uint8"
    height: int = 13
    episode_length: int = 1

    def sample_params(self, key):
        return Light(brightness=jax.random.randint(key, (), 100, 256).astype(jnp.uint8))

    def reset_env(self, key, params):
        colour = jax.random.bernoulli(key).astype(jnp.int32)
        frame = jnp.zeros((self.height, 14, 3), self.dtype).at[:, :, 2 * colour].set(params.brightness)
        return frame, Colour(time=jnp.zeros((), jnp.int32), colour=colour)

    def step_env(self, key, state, action, params):
        frame, fresh = self.reset_env(key, params)
        reward = (action == state.colour).astype(jnp.float32)
        return frame, fresh, reward, jnp.ones((), bool), {}

    def is_terminated(self, state, params):
        return jnp.ones((), bool)

    def task_features(self, params):
        return params.brightness.astype(jnp.float32)[None]

    def action_space(self, params=None):
        return spaces.Discrete(2)

    def observation_space(self, params=None):
        return spaces.Box(0, 255, (self.height, 14, 3), self.dtype)


ENV = Colours()
CONFIG = TrainConfig().replace(
    {
        "slow_rl": "ppo",
        "trial.num_episodes": 4,
        "iterations": 12,
        "batch.size": 160,
        "objective.discount": 0.5,
        "network.units": 8,
        "slow_rl.max_kl": float("inf"),
        "slow_rl.minibatch_trials": 10,
        "slow_rl.learning_rate": 1e-2,
        "iterations_per_chunk": 12,
    }
)

ACTIONS, UNITS, STEPS = 3, 6, 35  # more steps than are embedded at once, and not a multiple
SHAPE = (13, 18, 3)  # made into 5 x 7 x 16, then 1 x 2 x 16 numbers


def make(shape=SHAPE, **settings):
    return SharedVisionNetwork(Frames(shape), Encoding(ACTIONS, one_hot=True), Categorical(ACTIONS), **settings)


def trial_inputs(shape=SHAPE, steps=STEPS):
    rng = np.random.default_rng(0)
    return TrialObservation(
        obs=rng.integers(256, size=(steps, *shape), dtype=np.uint8),
        prev_action=rng.integers(ACTIONS, size=steps),
        prev_reward=rng.normal(size=steps).astype(np.float32),
        prev_done=rng.integers(2, size=steps).astype(np.float32),
    )


def tree_close(tree, expected, rtol=1e-4, atol=1e-5):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), tree, expected)


# --- The layers.


def test_bytes_become_numbers_from_minus_one_to_one():
    frame = np.zeros(SHAPE, np.uint8)
    frame[0, :3, 0] = [255, 51, 204]
    scaled = Frames(SHAPE)(jnp.asarray(frame))
    assert scaled.dtype == jnp.float32
    np.testing.assert_allclose(scaled[0, :4, 0], [1.0, -0.6, 0.6, -1.0], rtol=1e-6)
    assert (scaled[1:] == -1).all()


@pytest.mark.parametrize("shape", [(13, 18, 3), (6, 5, 16)])
def test_convolutions_are_xlas(shape):
    """One by one and of many at once: outputs and all gradients; padded nowhere."""
    rng = np.random.default_rng(1)
    height, width, channels = shape
    kernel, bias = (rng.normal(size=size).astype(np.float32) for size in ((5, 5, channels, 16), (16,)))
    frames = rng.normal(size=(2, *shape)).astype(np.float32)
    cotangent = rng.normal(size=(2, (height - 3) // 2, (width - 3) // 2, 16)).astype(np.float32)

    def run(function):
        outputs, pullback = jax.vjp(function, frames, kernel, bias)
        return outputs, pullback(cotangent)

    def each(frames, kernel, bias):
        return jax.vmap(convolution, (0, None, None))(frames, kernel, bias)

    def together(frames, kernel, bias):
        last = jnp.transpose(frames, (3, 1, 2, 0))
        return jnp.transpose(convolution_of_many(last, kernel, bias), (3, 1, 2, 0))

    outputs = jax.jit(partial(run, each))()
    tree_close(jax.jit(partial(run, together))(), outputs, atol=1e-4)
    expected = numpy_convolution(np.float64(frames[1]), kernel, bias)
    np.testing.assert_allclose(outputs[0][1], expected, rtol=1e-4, atol=1e-4)


def test_the_papers_network_has_so_many_parameters():
    """For each layer weights, a scale for each output, biases; 40 x 30 pixels become 5 x 7 x 16 numbers."""
    networks = SharedVisionNetwork(Frames((30, 40, 3)), Encoding(3, one_hot=True), Categorical(3))
    params = jax.eval_shape(networks.init, jax.random.key(0))
    units = 256
    convolutions = (5 * 5 * 3 + 2) * 16 + (5 * 5 * 16 + 2) * 16
    embedding = (3 + 1) * units
    joint = (5 * 7 * 16 + units + 2) * units
    gru = (units + 2 + 1 + units + 1 + 1) * 3 * units
    heads = (units + 2) * (1 + 3)
    total = convolutions + embedding + joint + gru + heads
    assert sum(leaf.size for leaf in jax.tree.leaves(params["policy"])) == total
    assert params["baseline"] == {}


def test_initial_weights():
    """Orthogonal hidden matrices, Xavier elsewhere, every scale its output's norm, biases 0."""
    networks = make(units=32)

    @jax.jit
    def initialise(key):
        variables = networks.policy_network.init(key)
        return variables["params"], networks.policy_network.apply(variables)

    params, weights = initialise(jax.random.key(0))
    for name in ("conv1", "conv2", "action", "joint"):
        direction = np.asarray(params[name])
        norms = np.linalg.norm(direction.reshape(-1, direction.shape[-1]), axis=0)
        np.testing.assert_allclose(params[f"{name}_scale"], norms, rtol=1e-4)
        field = np.prod(direction.shape[:-2])  # positions of a kernel; 1 of a matrix
        bound = np.sqrt(6 / (field * (direction.shape[-2] + direction.shape[-1])))
        assert scipy.stats.kstest(direction.ravel() / bound, "uniform", (-1, 2)).pvalue > 1e-3
    tree_close(weights.trunk.kernels, (params["conv1"], params["conv2"]))
    np.testing.assert_allclose(weights.trunk.features, params["joint"][:-32], rtol=1e-5)
    for block in np.split(np.asarray(weights.cell.hidden), 3, axis=1):
        np.testing.assert_allclose(block.T @ block, np.eye(32), atol=1e-5)
    for bias in (*weights.trunk.biases, weights.trunk.joint_bias, weights.cell.bias, weights.head_bias):
        np.testing.assert_array_equal(bias, 0.0)


# --- The whole network.


def normalised(params, name):
    """g v / |v| for each output, in double precision."""
    v = np.float64(params[name])
    return np.float64(params[f"{name}_scale"]) * v / np.sqrt((v**2).sum(axis=tuple(range(v.ndim - 1))))


def numpy_convolution(x, kernel, bias):
    height, width = ((size - 5) // 2 + 1 for size in x.shape[:2])
    outputs = np.empty((height, width, 16))
    for i, j in np.ndindex(height, width):
        outputs[i, j] = np.tensordot(x[2 * i : 2 * i + 5, 2 * j : 2 * j + 5], kernel, 3)
    return np.maximum(outputs + bias, 0)


def numpy_outputs(params, inputs):
    """Appendix A.3 step by step: the embedding and the flattened convolutions concatenated, and so on."""
    core, h, outputs = params["core"], np.zeros(UNITS), []
    for t in range(len(inputs.prev_reward)):
        x = np.float64(inputs.obs[t]) / 255 * 2 - 1
        for name in ("conv1", "conv2"):
            x = numpy_convolution(x, normalised(params, name), params[f"{name}_bias"])
        embedded = normalised(params, "action")[inputs.prev_action[t]]
        joint = np.concatenate([x.ravel(), embedded]) @ normalised(params, "joint") + params["joint_bias"]
        x = np.concatenate([np.maximum(joint, 0), [inputs.prev_reward[t], inputs.prev_done[t]]])
        (xr, xz, xc) = np.split(x @ normalised(core, "gru_input") + core["gru_bias"], 3)
        (hr, hz, hc) = np.split(h @ normalised(core, "gru_hidden"), 3)
        r, z = 1 / (1 + np.exp(-(xr + hr))), 1 / (1 + np.exp(-(xz + hz)))
        h = (1 - z) * h + z * np.maximum(xc + r * hc, 0)
        outputs.append(h @ normalised(core, "head") + core["head_bias"])
    return np.array(outputs)


@pytest.fixture(scope="module")
def played():
    """(networks, parameters, inputs, what the network says of them); off the initial point."""
    networks, inputs = make(units=UNITS, num_task_features=2), trial_inputs()
    params = random_params(networks, seed=1, scale=0.3)["policy"]

    @jax.jit
    def outputs(params):
        return networks.policy_outputs(params, inputs), networks.values(params, inputs)

    return networks, params, inputs, outputs(params)


def test_against_numpy(played):
    _, params, inputs, (outputs, values) = played
    steps = 5
    expected = numpy_outputs(params["params"], jax.tree.map(lambda x: x[:steps], inputs))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(outputs.value[:steps], expected[:, 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs.inferred[:steps], expected[:, 1:3], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs.dist_params[:steps], expected[:, 3:], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(values, outputs.value)
    assert outputs.dist_params.shape == (STEPS, ACTIONS)


def test_acting_step_by_step_equals_unrolling(played):
    networks, params, inputs, (outputs, _) = played

    @jax.jit
    def act(params):
        agent = networks.agent(params)

        def step(state, trial_obs):
            state, _, info = agent.step(jax.random.key(0), state, trial_obs)
            return state, info.dist_params

        return jax.lax.scan(step, agent.init(jax.random.key(0)), inputs)[1]

    np.testing.assert_allclose(act(params), outputs.dist_params, rtol=1e-4, atol=1e-5)


def test_some_steps_at_once_have_the_gradient_of_all(played):
    """Though what the backward pass needs is computed anew."""
    networks, params, inputs, _ = played

    def loss(embed_all, params):
        weights = networks.policy_network.apply(params)
        return jnp.mean(jnp.square(embed_all(weights)))

    some = jax.jit(jax.grad(partial(loss, lambda weights: networks.embed_trial(weights, inputs))))(params)
    everything = jax.jit(jax.grad(partial(loss, lambda w: jax.vmap(partial(networks.embed, w))(inputs))))(params)
    assert optax.tree.norm(everything) > 0.01
    tree_close(some, everything)


def test_scaling_a_direction_changes_nothing(played):
    networks, params, inputs, (outputs, _) = played
    params = params["params"]
    longer = {name: 7.0 * x if f"{name}_scale" in params else x for name, x in params.items()}
    again = jax.jit(networks.policy_outputs)({"params": longer}, inputs)
    tree_close(again, outputs, atol=1e-4)


def test_its_cost_is_counted():
    """Products of a step, at the paper's size of frames, against XLA's count, which has the other operations too."""
    networks = make((30, 40, 3), units=64)
    network = networks.policy_network
    weights = jax.eval_shape(lambda: network.apply(network.init(jax.random.key(0))))
    first = jax.tree.map(lambda x: x[0], trial_inputs((30, 40, 3), steps=1))
    compiled = jax.jit(networks.step).lower(weights, jax.ShapeDtypeStruct((64,), jnp.float32), first).compile()
    passes = _passes(network)
    assert passes.forward == pytest.approx(compiled.cost_analysis()["flops"], rel=0.05)
    assert 3 * passes.forward < passes.gradient < 4 * passes.forward  # the trunk's forward pass twice
    learner = Learner(ENV, CONFIG)
    costs = phase_costs(learner)
    assert costs["baseline"] == costs["values"]
    assert sequential_steps(learner) == 4 * (2 + 2 * 5 * 4 + 1 + 1)


# --- The joint loss.


def batch_of(networks, params, num_trials=6):
    """A batch of random numbers, half of it masked out."""
    rng = np.random.default_rng(2)
    inputs = [trial_inputs(ENV.observation_space().shape, 4) for _ in range(num_trials)]
    trial_obs = jax.tree.map(lambda *x: jnp.stack(x, axis=1), *inputs)
    trial_obs = trial_obs._replace(
        obs=rng.integers(256, size=trial_obs.obs.shape, dtype=np.uint8), prev_action=trial_obs.prev_action % 2
    )
    old = jax.vmap(networks.dist_params, (None, 1), 1)(params, trial_obs)
    action = rng.integers(2, size=(4, num_trials))
    log_prob = jnp.take_along_axis(jax.nn.log_softmax(old), action[..., None], -1)[..., 0]
    advantage, target = rng.normal(size=(2, 4, num_trials)).astype(np.float32)
    features = rng.normal(size=(1, num_trials, 1)).astype(np.float32)
    mask = rng.integers(2, size=(4, num_trials)).astype(np.float32)
    return Batch(trial_obs, action, log_prob, old, advantage, mask, features, target)


@pytest.fixture(scope="module")
def losses():
    """(networks, parameters, a batch)."""
    networks = make_networks(ENV, CONFIG.replace({"objective.task_inference_coefficient": 1.0}))
    params = random_params(networks, seed=3, scale=0.3)["policy"]
    return networks, params, batch_of(networks, params)


def test_the_joint_gradient_is_the_sum_of_its_parts(losses):
    """Policy's + c * values' + task inference's, each by itself; the values' against a plain squared error."""
    networks, params, batch = losses

    def losses_of(params, mesh=None):
        return problem_of(networks, CONFIG, 6, mesh).losses(params, batch, ratio_surrogate)

    @jax.jit
    def gradients(params):
        found = jax.jacrev(losses_of)(params)

        def joint(params):  # shared by devices: a mesh of one is a mesh
            losses = losses_of(params, make_mesh(jax.devices()[:1]))
            return losses.policy + 0.7 * losses.value + 0.2 * losses.inference

        def plain(params):
            values = jax.vmap(networks.values, (None, 1), 1)(params, batch.trial_obs)
            return jnp.sum(jnp.square(values - batch.target) * batch.mask) / jnp.sum(batch.mask)

        return found, jax.grad(joint)(params), jax.grad(plain)(params)

    found, joint, plain = gradients(params)
    tree_close(found.value, plain)
    assert all(optax.tree.norm(g) > 1e-3 for g in (found.policy, found.value, found.inference))
    parts = jax.tree.map(lambda p, v, i: p + 0.7 * v + 0.2 * i, found.policy, found.value, found.inference)
    tree_close(joint, parts)


def test_natural_steps_know_the_values(losses):
    """F = mean of J^T M J over kept steps: M of the softmax, and 2 c for the value."""
    networks, params, batch = losses
    vector, unravel = ravel_pytree(params)
    coefficient = 0.7
    problem = problem_of(networks, CONFIG.replace({"baseline.loss_coefficient": coefficient}), 6)

    def outputs(params):
        return problem.joint_params(params, batch.trial_obs)

    def kl(old, new):
        return jnp.sum(problem.joint_kl(old, new) * batch.mask) / jnp.sum(batch.mask)

    @jax.jit
    def jacobian_and_products(directions):
        product = fisher_vector_product(outputs, kl, params)
        products = jax.vmap(lambda v: ravel_pytree(product(unravel(v)))[0])(directions)
        tangents = jax.vmap(lambda v: jax.jvp(outputs, (params,), (unravel(v),))[1])(directions)
        return outputs(params)[0], tangents, products

    directions = np.random.default_rng(4).normal(size=(4, vector.size)).astype(np.float32)
    logits, (dist_tangents, value_tangents), products = jax.tree.map(np.float64, jacobian_and_products(directions))
    probs = np.exp(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    weights = np.asarray(batch.mask) / np.sum(batch.mask)
    centred = dist_tangents - (probs * dist_tangents).sum(-1, keepdims=True)
    expected = np.einsum("tb,itba,tba,jtba->ij", weights, centred, probs, centred)
    of_values = 2 * coefficient * np.einsum("tb,itb,jtb->ij", weights, value_tangents, value_tangents)
    assert np.abs(of_values).max() > 0.01 * np.abs(expected).max()
    expected += of_values
    np.testing.assert_allclose(directions @ products.T, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


# --- Learning.


@pytest.mark.slow
def test_ppo_learns_what_it_sees():
    """With the auxiliary head too, which infers how bright this task's frames are."""
    config = CONFIG.replace({"objective.task_inference_coefficient": 1.0})
    state, metrics = train(ENV, config, jax.random.key(0))
    assert metrics.finite.all()
    assert metrics.mean_return[0] < 2.8  # of 4; 2 by chance
    assert metrics.mean_return[-3:].mean() > 3.6
    assert state.params["baseline"] == {}
    assert metrics.explained_variance[-1] > metrics.explained_variance[0]


@pytest.mark.slow
def test_trpo_learns_within_its_limit():
    config = CONFIG.replace(
        {"slow_rl": "trpo", "slow_rl.max_kl": 0.05, "trpo.cg_damping": 0.01, "trpo.fisher_fraction": 0.5}
    )
    _, metrics = train(ENV, config, jax.random.key(0))
    assert metrics.finite.all()
    assert (metrics.kl <= 0.05).all()
    assert (metrics.kl > 0).sum() >= 10
    assert (metrics.surrogate_gain >= 0).all()
    assert metrics.mean_return[-3:].mean() > metrics.mean_return[:3].mean() + 0.5


@pytest.fixture(scope="module")
def imitated():
    """(learner, states before each iteration and after the last, the first batch, metrics) of imitating who knows."""

    def right(key, state, trial_obs):
        del key
        return state, (trial_obs.obs[0, 0, 2] > 0).astype(jnp.int32), ()

    teacher = Agent(lambda key: (), right)
    config = CONFIG.replace({"slow_rl": "imitation", "imitation.student_share": 0.5})
    learner = Learner(ENV, config, teacher)
    collect = jax.jit(make_collect(learner.trial, learner.agent_of, learner.num_trials))
    update = jax.jit(make_update(learner.networks, config, learner.num_trials))
    states, batches, history = [learner.init(jax.random.key(0))], [], []
    for iteration in range(config.iterations):
        batches.append(collect(jax.random.key(iteration), states[-1].params))
        state, metrics = update(states[-1], batches[-1], jax.random.key(100 + iteration))
        states.append(state)
        history.append(metrics)
    return learner, states, batches[0], jax.tree.map(lambda *x: np.array(x), *history)


def test_imitation_learns_actions_and_values(imitated):
    """The teacher's actions become likely, and the values the returns': half a baseline for what follows."""
    _, states, _, metrics = imitated
    assert metrics.surrogate_gain[0] > 0
    assert metrics.entropy[-1] < 0.3 < metrics.entropy[0]
    assert metrics.baseline_loss[-1] < 0.8 * metrics.baseline_loss[0]
    assert metrics.explained_variance[-1] > metrics.explained_variance[0]
    assert states[-1].params["baseline"] == {}


def test_frames_stay_bytes(imitated):
    _, _, batch, _ = imitated
    assert batch.trial_obs.obs.dtype == jnp.uint8
    assert batch.trial_obs.obs.shape == (4, 40, 13, 14, 3)


def test_the_reported_error_is_that_of_the_new_values(imitated):
    """On this batch's returns, normalised by its own moments: it is the first."""
    learner, states, batch, metrics = imitated
    rewards, returns = np.asarray(batch.reward), np.zeros((5, 40))
    for t in reversed(range(4)):
        returns[t] = rewards[t] + 0.5 * returns[t + 1]
    target = (returns[:4] - returns[:4].mean()) / returns[:4].std()
    values_of = jax.jit(jax.vmap(learner.networks.values, (None, 1), 1))
    old, new = (np.mean((values_of(s.params["policy"], batch.trial_obs) - target) ** 2) for s in states[:2])
    np.testing.assert_allclose(metrics.baseline_loss[0], new, rtol=1e-3)
    assert abs(old - new) > 0.01


def test_a_checkpoint_without_a_baseline(imitated, tmp_path):
    learner, states, _, _ = imitated
    state = states[-1]
    checkpoint.save(tmp_path, 1, state)
    template = jax.eval_shape(learner.init, jax.random.key(0))
    restored = checkpoint.restore(tmp_path, 1, template)
    jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)
    assert restored.params["baseline"] == {}


# --- What does not fit.


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [("baseline.sees_task", True, "false"), ("baseline.warmup_iterations", 3, "0")],
)
def test_what_needs_a_baseline_of_its_own_is_refused(field, value, wanted):
    wording = f"{field} must be {wanted} for Colours, whose policy and baseline share a network, got {value}"
    with pytest.raises(ValueError, match=wording):
        Learner(ENV, CONFIG.replace({field: value}))


def test_frames_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"observation space of frames must be of dtype uint8, got Box\(.*float32"):
        Learner(Colours(dtype="float32"), CONFIG)
    with pytest.raises(ValueError, match=r"frames must be at least 13 pixels high and wide, got \(12, 14, 3\)"):
        Learner(Colours(height=12), CONFIG)
