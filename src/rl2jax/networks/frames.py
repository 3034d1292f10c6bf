"""The trunk for frames (Duan et al. 2016, appendix A.3): convolutions before a memory."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from rl2jax.envs.base import spaces
from rl2jax.networks.base import Encoding
from rl2jax.networks.cells import NetworkWeights, RecurrentNetwork, weight_normalised
from rl2jax.networks.products import product
from rl2jax.settings import require
from rl2jax.types import TrialObservation

FILTERS, KERNEL, STRIDE = 16, 5, 2  # of both convolutions
_STEPS_AT_ONCE = 25


class TrunkWeights(NamedTuple):
    """Effective weights of what comes before the GRU.

    Attributes:
      kernels: of the convolutions, float32 [5, 5, channels, 16] and [5, 5, 16, 16].
      biases: float32 [16] each.
      features: of the joint layer, float32 [numbers that the convolutions make of a frame, units].
      action: the action's embedding and the joint layer's part for it, multiplied: float32 [action_size, units].
      joint_bias: float32 [units].
    """

    kernels: tuple[chex.Array, chex.Array]
    biases: tuple[chex.Array, chex.Array]
    features: chex.Array
    action: chex.Array
    joint_bias: chex.Array


def convolved_size(size: int) -> int:
    """Height or width after one convolution."""
    return (size - KERNEL) // STRIDE + 1


def convolution(x: chex.Array, kernel: chex.Array, bias: chex.Array, precision: str = "default") -> chex.Array:
    """A convolution with stride 2 and its rectifier: float32 [height, width, channels] to [height', width', filters].

    Without padding, as a border of zeros would be grey in a frame of [-1, 1], and cost half as much again: of 40 x 30
    pixels the last three columns and the last row are not seen.

    Args:
      x: one frame, or what a convolution made of it.
      kernel: float32 [5, 5, channels, filters].
      bias: float32 [filters].
      precision: as in `products.product`, but that "bfloat16" leaves it to the device.
    """
    outputs = jax.lax.conv_general_dilated(
        x[None],
        kernel,
        (STRIDE, STRIDE),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest" if precision == "float32" else None,
    )
    return jax.nn.relu(outputs[0] + bias)


def convolution_of_many(x: chex.Array, kernel: chex.Array, bias: chex.Array) -> chex.Array:
    """`convolution` of many frames as one product with their patches; [channels, height, width, frames] in and out.

    On CPUs a gradient through it takes 0.65 to 1 of the time of one through XLA's convolution, and is as fast inside a
    loop, where that one is several times slower. Frames come last, so that copying a patch copies runs of memory.
    """
    channels, height, width, count = x.shape
    rows, columns = convolved_size(height), convolved_size(width)
    even = jnp.pad(x, ((0, 0), (0, height % STRIDE), (0, width % STRIDE), (0, 0)))
    # By the remainders of row and column, so that what a position of the kernel sees is a slice without a stride.
    # Columns first, then rows: 10 slices compile in a third of the time of 25.
    x = even.reshape(channels, -1, STRIDE, even.shape[2] // STRIDE, STRIDE, count)
    x = jnp.concatenate([x[:, :, :, j // STRIDE :, j % STRIDE][:, :, :, :columns] for j in range(KERNEL)])
    x = jnp.concatenate([x[:, i // STRIDE :, i % STRIDE][:, :rows] for i in range(KERNEL)])
    patches = x.reshape(KERNEL**2 * channels, -1)
    outputs = kernel.reshape(KERNEL**2 * channels, -1).T @ patches
    return jax.nn.relu(outputs + bias[:, None]).reshape(-1, rows, columns, count)


class FrameNetwork(nn.Module):
    """Declares the parameters of appendix A.3; calling it returns the effective `NetworkWeights`.

    Weights of every layer are weight-normalised and start at their Xavier values, biases at 0.

    Attributes:
      frame_shape: height, width, channels.
      action_size: numbers that the previous action is given as.
      units: rectifiers of the joint layer.
      core: a `RecurrentNetwork`, memory and heads; its parameters are under "core".
      weight_norm: weight normalisation of the layers before them.
    """

    frame_shape: tuple[int, int, int]
    action_size: int
    units: int
    core: RecurrentNetwork
    weight_norm: bool = True

    @property
    def multiplications(self) -> tuple[int, int, int]:
        """Of one step before the recurrent layer: in each convolution, and in the joint layer."""
        first, second = self._positions()
        joint = second * FILTERS + self.action_size
        return (
            first * KERNEL**2 * self.frame_shape[2] * FILTERS,
            second * KERNEL**2 * FILTERS**2,
            joint * self.units,
        )

    def _positions(self) -> tuple[int, int]:
        """Positions of the kernel in each convolution."""
        once = [convolved_size(size) for size in self.frame_shape[:2]]
        return math.prod(once), math.prod(convolved_size(size) for size in once)

    @nn.compact
    def __call__(self) -> NetworkWeights:
        """Returns the effective weights."""
        channels = self.frame_shape[2]
        num_features = self._positions()[1] * FILTERS
        kernels = (
            self._weights("conv1", (KERNEL, KERNEL, channels, FILTERS)),
            self._weights("conv2", (KERNEL, KERNEL, FILTERS, FILTERS)),
        )
        biases = self._bias("conv1", FILTERS), self._bias("conv2", FILTERS)
        action = self._weights("action", (self.action_size, self.units))
        joint = self._weights("joint", (num_features + self.units, self.units))
        # Nothing but a matrix lies between the embedding and the joint layer: one product in place of two at each step.
        action = product(action, joint[num_features:], "float32")
        trunk = TrunkWeights(kernels, biases, joint[:num_features], action, self._bias("joint", self.units))
        return self.core()._replace(trunk=trunk)

    def _weights(self, name: str, shape: tuple[int, ...]) -> chex.Array:
        return weight_normalised(self, name, nn.initializers.xavier_uniform(), shape, self.weight_norm)

    def _bias(self, name: str, size: int) -> chex.Array:
        return self.param(f"{name}_bias", nn.initializers.zeros_init(), (size,))


@dataclass(frozen=True)
class Frames:
    """Frames of bytes, [height, width, channels], as numbers from -1 to 1.

    Raises:
      ValueError: at construction, if a frame is smaller than the two convolutions need.
    """

    shape: tuple[int, int, int]

    def __post_init__(self):
        least = KERNEL + STRIDE * (KERNEL - 1)
        require(min(self.shape[:2]) >= least, "frames", self.shape, f"at least {least} pixels high and wide")

    def __call__(self, frame: chex.Array) -> chex.Array:
        """Scales one frame, uint8 to float32 [height, width, channels]: 0 to -1, 255 to 1."""
        return frame.astype(jnp.float32) / 127.5 - 1.0

    def trunk(self, action: Encoding, settings: Any) -> "FrameTrunk":
        """What comes before the memory where this is the observation's encoding."""
        return FrameTrunk(self, action, settings.units, settings.weight_norm, settings.matmul_precision)


def shows_frames(space: Any) -> bool:
    """Whether observations of this space are images, for `FrameTrunk`: Boxes of rank 3."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3


def frames_for(space: Any) -> Frames:
    """The frames of a space that `shows_frames`.

    Raises:
      ValueError: if its numbers are no bytes, or a frame is too small.
    """
    require(jnp.dtype(space.dtype) == jnp.uint8, "observation space of frames", space, "of dtype uint8")
    height, width, channels = (int(size) for size in space.shape)
    return Frames((height, width, channels))


@dataclass(frozen=True)
class FrameTrunk:
    """The convolutional trunk of appendix A.3.

    Two convolutions of a frame, flattened, and a learned embedding of the previous action (as many numbers as `units`)
    go through a layer of `units` rectifiers; the previous reward and episode-end flag join its output.

    Attributes:
      observation: the frames.
      action: how the previous action enters.
      units: of the joint layer.
      weight_norm: weight normalisation of the layers.
      matmul_precision: as in `products.product`.
    """

    observation: Frames
    action: Encoding
    units: int
    weight_norm: bool
    matmul_precision: str

    @property
    def size(self) -> int:
        """Numbers in the embedding."""
        return self.units + 2

    def network(self, core: RecurrentNetwork) -> FrameNetwork:
        """Declaration of the parameters of a network with this trunk, whose memory and heads `core` declares."""
        return FrameNetwork(self.observation.shape, self.action.size, self.units, core, self.weight_norm)

    def embed(self, weights: NetworkWeights, trial_obs: TrialObservation) -> chex.Array:
        """The joint embedding phi(s, a, r, d) of one step; float32 [units + 2]."""
        x = self.observation(trial_obs.obs)
        for kernel, bias in zip(weights.trunk.kernels, weights.trunk.biases, strict=True):
            x = convolution(x, kernel, bias, self.matmul_precision)
        return self._join(weights, x.reshape(-1), trial_obs)

    def _join(self, weights: NetworkWeights, features: chex.Array, trial_obs: TrialObservation) -> chex.Array:
        trunk, precision = weights.trunk, self.matmul_precision
        joint = product(features, trunk.features, precision)
        joint += product(self.action(trial_obs.prev_action), trunk.action, precision)
        joint = jax.nn.relu(joint + trunk.joint_bias)
        return jnp.concatenate([joint, trial_obs.prev_reward[None], trial_obs.prev_done[None]])

    def embed_trial(self, weights: NetworkWeights, trial_obs: TrialObservation) -> chex.Array:
        """`embed` at every step of a trial, some steps at once; float32 [num_steps, units + 2].

        Patches and activations of a frame are some 50 times its bytes. Those of some steps stay near a core's cache,
        and a backward pass computes them anew: it holds those of some steps, not of a whole batch.
        """
        embed = self._embed_for_cpu if jax.default_backend() == "cpu" else self._embed_each
        num_steps = trial_obs.prev_reward.shape[0]
        size = min(num_steps, _STEPS_AT_ONCE)
        count = math.ceil(num_steps / size)

        def chunks(x):
            filled = jnp.pad(x, [(0, count * size - num_steps)] + [(0, 0)] * (x.ndim - 1))
            return filled.reshape(count, size, *x.shape[1:])

        inputs = jax.tree.map(chunks, trial_obs._replace(privileged=()))
        embedded = jax.lax.map(jax.checkpoint(partial(embed, weights), prevent_cse=False), inputs)
        return embedded.reshape(count * size, -1)[:num_steps]

    def _embed_each(self, weights: NetworkWeights, trial_obs: TrialObservation) -> chex.Array:
        return jax.vmap(partial(self.embed, weights))(trial_obs)

    def _embed_for_cpu(self, weights: NetworkWeights, trial_obs: TrialObservation) -> chex.Array:
        """`embed` at some steps; float32 [num_steps, units + 2]."""
        x = self.observation(jnp.transpose(trial_obs.obs, (3, 1, 2, 0)))
        # A zero that differs from trial to trial makes the kernels each trial's own: under `jax.vmap` over trials the
        # products are then one for each, and patches are not transposed to make one product of all (2 times slower).
        own = 0.0 * trial_obs.prev_done[0]
        for kernel, bias in zip(weights.trunk.kernels, weights.trunk.biases, strict=True):
            x = convolution_of_many(x, kernel + own, bias)
        features = jnp.transpose(x, (3, 1, 2, 0)).reshape(x.shape[-1], -1)
        return jax.vmap(partial(self._join, weights))(features, trial_obs)
