"""Harlow's task: which of two new objects is the rewarded one? (Harlow 1949; Wang et al. 2016, section 3.2.2)."""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import struct

from rl2jax.envs.base import EnvParams, EnvState, TaskDistribution, spaces
from rl2jax.kinds import Choice, Kind
from rl2jax.settings import require

LEFT, RIGHT, FIXATE = 0, 1, 2
FIXATION_REWARD, RIGHT_OBJECT_REWARD, WRONG_OBJECT_REWARD = 0.2, 1.0, -1.0
SPLITS = ("train", "test")
OBSERVATIONS = ("vector", "image")
# A frame, and the square that an object fills of it, its upper left corners at these columns.
HEIGHT, WIDTH = 20, 40
_OBJECT, _TOP, _LEFT_COLUMN, _RIGHT_COLUMN = 16, 2, 2, 22
_BLOBS = 4


@struct.dataclass
class HarlowState(EnvState):
    """Where the block stands.

    Attributes:
      choices: objects chosen so far; int32 [].
      fixated: how long the cross has been looked at; int32 []. The objects are there once that is long enough.
      time: steps taken; int32 [].
    """

    choices: chex.Array
    fixated: chex.Array
    time: chex.Array


@struct.dataclass
class HarlowParams(EnvParams):
    """One pair of objects.

    Attributes:
      objects: numbers of the rewarded object and of the other in the set; int32 [2].
      appearance: what they look like; float32 [2, size], or uint8 [2, 16, 16, 3].
      rewarded_side: where the rewarded object is at each choice, LEFT or RIGHT; int32 [num_choices].
      max_steps_in_episode: the time limit.
    """

    objects: chex.Array = struct.field(kw_only=True)
    appearance: chex.Array = struct.field(kw_only=True)
    rewarded_side: chex.Array = struct.field(kw_only=True)
    max_steps_in_episode: int = struct.field(kw_only=True)


class HarlowPrivileged(NamedTuple):
    """What planners may see in place of the observation.

    Attributes:
      shows_objects: whether they are there to choose from; bool [].
      left_object: number of the left object in the set; int32 [].
      right_object: of the right one; int32 [].
    """

    shows_objects: chex.Array
    left_object: chex.Array
    right_object: chex.Array


@dataclass(frozen=True)
class Harlow(TaskDistribution[HarlowState, HarlowParams]):
    """Look at the cross, then choose the left or the right object; one of the two is the rewarded one all the time.

    Looking at the cross for `num_fixations` steps pays 0.2 and shows the objects, on sides that are a fair draw at each
    choice. The rewarded object pays 1, the other -1, and the cross comes back. Looking aside from the cross starts its
    steps anew; looking straight on between the objects does nothing. None of this costs anything (Wang et al. 2018:
    no punishment of invalid actions here). A task is a pair; the episode is all its choices: the paper's 10, or 6 in
    2018.

    Simpler than the paper's, where the view turns by a few degrees at a time towards images of ImageNet: an action here
    is a whole saccade, the pause between choices is left out, and the time limit is `patience` times the least number
    of steps. As there, two sets of `num_objects` objects serve training and test (`held_out`), and no object is in
    both; a pair is two different ones of a set.

    Attributes:
      num_choices: in an episode.
      num_objects: in each set.
      object_size: numbers that describe an object, a random unit vector; of images not used.
      observation: "vector": whether the cross is there, then the left and the right object or zeros; float32
        [1 + 2 size]. "image": a frame with a red cross or the objects, patterns of colours; uint8 [20, 40, 3].
      num_fixations: steps of looking at the cross; the paper's four held a gaze within a tolerance.
      patience: time limit over the least number of steps.
      split: "train" or "test".
      object_seed: of both sets.
    """

    num_choices: int = 10
    num_objects: int = 1000
    object_size: int = 8
    observation: str = "vector"
    num_fixations: int = 1
    patience: int = 2
    split: str = "train"
    object_seed: int = 0

    def __post_init__(self):
        require(self.num_choices >= 1, "num_choices (trials)", self.num_choices, "an integer >= 1")
        require(self.num_objects >= 2, "num_objects (objects)", self.num_objects, "an integer >= 2")
        require(self.object_size >= 1, "object_size (size)", self.object_size, "an integer >= 1")
        require(self.observation in OBSERVATIONS, "observation", self.observation, f"one of {', '.join(OBSERVATIONS)}")
        require(self.num_fixations >= 1, "num_fixations (fixations)", self.num_fixations, "an integer >= 1")
        require(self.patience >= 1, "patience", self.patience, "an integer >= 1")
        require(self.split in SPLITS, "split", self.split, f"one of {', '.join(SPLITS)}")

    @property
    def episode_length(self) -> int:  # type: ignore[override]
        """The time limit."""
        return self.patience * self.num_choices * (self.num_fixations + 1)

    def held_out(self) -> "Harlow":
        """The same with the objects of the test set."""
        return dataclasses.replace(self, split="test")

    def sample_params(self, key: chex.PRNGKey) -> HarlowParams:
        """Draws a pair, which of it is rewarded, and its sides."""
        key_first, key_other, key_sides = jax.random.split(key, 3)
        first = jax.random.randint(key_first, (), 0, self.num_objects)
        other = jax.random.randint(key_other, (), 0, self.num_objects - 1)
        pair = jnp.stack([first, other + (other >= first)])
        objects = pair + (self.num_objects if self.split == "test" else 0)
        sides = jax.random.bernoulli(key_sides, shape=(self.num_choices,))
        return HarlowParams(
            objects=objects,
            appearance=jax.vmap(self.appearance_of)(objects),
            rewarded_side=jnp.where(sides, RIGHT, LEFT),
            max_steps_in_episode=self.episode_length,
        )

    def appearance_of(self, number: chex.Array) -> chex.Array:
        """What an object looks like.

        Args:
          number: int32 []; training objects count from 0, test objects from `num_objects`.

        Returns:
          float32 [object_size], or uint8 [16, 16, 3].
        """
        key = jax.random.fold_in(jax.random.key(self.object_seed), number)
        if self.observation == "image":
            return render_object(key)
        vector = jax.random.normal(key, (self.object_size,))
        return vector / jnp.linalg.norm(vector)

    def reset_env(self, key: chex.PRNGKey, params: HarlowParams):
        """The cross."""
        del key
        zero = jnp.zeros((), jnp.int32)
        state = HarlowState(choices=zero, fixated=zero, time=zero)
        return self._observe(state, params), state

    def step_env(self, key: chex.PRNGKey, state: HarlowState, action, params: HarlowParams):
        """A saccade."""
        del key
        shows_objects = self._shows_objects(state)
        chooses = shows_objects & (action != FIXATE)
        fixated = jnp.where(action == FIXATE, jnp.minimum(state.fixated + 1, self.num_fixations), 0)
        # Once the objects are there, only a choice takes them away.
        fixated = jnp.where(shows_objects & ~chooses, state.fixated, fixated)
        new_state = HarlowState(choices=state.choices + chooses.astype(jnp.int32), fixated=fixated, time=state.time + 1)
        reward = self.expected_reward(state, action, params)
        return self._observe(new_state, params), new_state, reward, self.is_terminated(new_state, params), {}

    def expected_reward(self, state: HarlowState, action: chex.Array, params: HarlowParams) -> chex.Array:
        """The reward: nothing of it is left to chance."""
        shows_objects = self._shows_objects(state)
        right = action == params.rewarded_side[self._choice(state)]
        of_choice = jnp.where(right, RIGHT_OBJECT_REWARD, WRONG_OBJECT_REWARD)
        fixates = action == FIXATE
        of_cross = jnp.where(fixates & (state.fixated + 1 >= self.num_fixations), FIXATION_REWARD, 0.0)
        return jnp.where(shows_objects, jnp.where(fixates, 0.0, of_choice), of_cross)

    def is_terminated(self, state: HarlowState, params: HarlowParams) -> chex.Array:
        """After the last choice."""
        del params
        return state.choices >= self.num_choices

    def task_features(self, params: HarlowParams) -> chex.Array:
        """How the rewarded object differs from the other, nothing of images; float32 [object_size] or [0]."""
        if self.observation == "image":
            return jnp.zeros((0,), jnp.float32)
        return params.appearance[0] - params.appearance[1]

    def privileged(self, state: HarlowState, params: HarlowParams) -> HarlowPrivileged:
        """The objects' numbers, for planners and teachers; which one is rewarded is left out."""
        left, right = self._sides(state, params)
        return HarlowPrivileged(self._shows_objects(state), params.objects[left], params.objects[right])

    def _shows_objects(self, state: HarlowState) -> chex.Array:
        return state.fixated >= self.num_fixations

    def _choice(self, state: HarlowState) -> chex.Array:
        return jnp.minimum(state.choices, self.num_choices - 1)

    def _sides(self, state: HarlowState, params: HarlowParams) -> tuple[chex.Array, chex.Array]:
        """Which of the pair is left and which right: 0 for the rewarded object, 1 for the other."""
        rewarded = params.rewarded_side[self._choice(state)]
        return (rewarded == RIGHT).astype(jnp.int32), (rewarded == LEFT).astype(jnp.int32)

    def _observe(self, state: HarlowState, params: HarlowParams) -> chex.Array:
        """What the agent is shown."""
        shows_objects = self._shows_objects(state)
        left, right = (params.appearance[side] for side in self._sides(state, params))
        if self.observation == "vector":
            objects = jnp.where(shows_objects, jnp.concatenate([left, right]), 0.0)
            return jnp.append(1.0 - shows_objects, objects).astype(jnp.float32)
        frame = jnp.zeros((HEIGHT, WIDTH, 3), jnp.uint8)
        rows = slice(_TOP, _TOP + _OBJECT)
        objects = frame.at[rows, _LEFT_COLUMN : _LEFT_COLUMN + _OBJECT].set(left)
        objects = objects.at[rows, _RIGHT_COLUMN : _RIGHT_COLUMN + _OBJECT].set(right)
        middle, center = HEIGHT // 2, WIDTH // 2
        cross = frame.at[middle - 1 : middle + 1, center - 3 : center + 3, 0].set(255)
        cross = cross.at[middle - 3 : middle + 3, center - 1 : center + 1, 0].set(255)
        return jnp.where(shows_objects, objects, cross)

    @property
    def num_actions(self) -> int:
        """Left, right, straight on."""
        return 3

    def action_space(self, params: HarlowParams | None = None) -> spaces.Discrete:
        """Left, right, straight on."""
        del params
        return spaces.Discrete(3)

    def observation_space(self, params: HarlowParams | None = None) -> spaces.Box:
        """A vector, or a frame."""
        del params
        if self.observation == "image":
            return spaces.Box(0, 255, (HEIGHT, WIDTH, 3), jnp.uint8)
        return spaces.Box(-1.0, 1.0, (1 + 2 * self.object_size,), jnp.float32)


def render_object(key: chex.PRNGKey) -> chex.Array:
    """Round blobs of random colours, sizes and places on a ground of a random colour; uint8 [16, 16, 3]."""
    key_ground, key_places, key_sizes, key_colours = jax.random.split(key, 4)
    places = jax.random.uniform(key_places, (_BLOBS, 2), maxval=float(_OBJECT))
    sizes = jax.random.uniform(key_sizes, (_BLOBS,), minval=2.0, maxval=6.0)
    colours = jax.random.uniform(key_colours, (_BLOBS, 3))
    picture = jnp.broadcast_to(jax.random.uniform(key_ground, (3,)), (_OBJECT, _OBJECT, 3))
    grid = jnp.stack(jnp.meshgrid(jnp.arange(_OBJECT), jnp.arange(_OBJECT), indexing="ij"), axis=-1) + 0.5
    for place, size, colour in zip(places, sizes, colours, strict=True):
        distance = jnp.linalg.norm(grid - place[None, None], axis=-1)
        cover = jnp.clip(size - distance, 0.0, 1.0)[..., None]  # the edge is a pixel wide
        picture = cover * colour[None, None] + (1.0 - cover) * picture
    return jnp.round(255.0 * picture).astype(jnp.uint8)


HARLOW = Kind(
    "harlow",
    Harlow,
    {
        "trials": "num_choices",
        "objects": "num_objects",
        "size": "object_size",
        "image": Choice("observation", OBSERVATIONS),
        "fixations": "num_fixations",
        "patience": "patience",
    },
    defaults={"trials": 10},
    unspelled={"objects": 1000, "size": 8, "image": 0, "fixations": 1, "patience": 2},
    num_episodes=1,
    words="Harlow's task",
    agents="rl2jax.agents.harlow:HARLOW_AGENTS",
)
