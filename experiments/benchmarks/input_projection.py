"""The input's part of a GRU's gates: a product with one-hot vectors, as the package has it, against rows of the matrix.

The previous action is an index, so that its product with the matrix is a row of it. Reading the row costs no
operations; its derivative adds each step's gradient to a row, one step after another, unless that is done as the
product that the one-hot vectors have (`row by product`).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rl2jax import xla
from rl2jax.networks.cells import CellWeights, gru_step
from rl2jax.networks.products import product

EXTRA = 3  # inputs that are no index: observation, reward and termination
Projection = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def by_product(matrix: jax.Array, action: jax.Array, rest: jax.Array) -> jax.Array:
    """float32 [k + EXTRA, 3 * units], int32 [], float32 [EXTRA] -> float32 [3 * units]."""
    one_hot = jax.nn.one_hot(action, matrix.shape[0] - EXTRA)
    return product(jnp.concatenate([one_hot, rest]), matrix)


def by_row(matrix: jax.Array, action: jax.Array, rest: jax.Array) -> jax.Array:
    """The same, reading the action's row."""
    return matrix[action] + product(rest, matrix[-EXTRA:])


@jax.custom_vjp
def _row(matrix: jax.Array, action: jax.Array) -> jax.Array:
    return matrix[action]


def _row_forward(matrix: jax.Array, action: jax.Array) -> tuple[jax.Array, tuple]:
    return matrix[action], (action, matrix.shape[0])


def _row_backward(kept: tuple, gradient: jax.Array) -> tuple[jax.Array, np.ndarray]:
    action, rows = kept
    return jnp.outer(jax.nn.one_hot(action, rows), gradient), np.zeros((), jax.dtypes.float0)


_row.defvjp(_row_forward, _row_backward)


def by_row_and_product(matrix: jax.Array, action: jax.Array, rest: jax.Array) -> jax.Array:
    """The same, whose derivative is a product again; it has no forward derivative, which Fisher products need."""
    return _row(matrix, action) + product(rest, matrix[-EXTRA:])


PROJECTIONS: dict[str, Projection] = {
    "product": by_product,
    "row": by_row,
    "row by product": by_row_and_product,
}


def unroll(projection: Projection, weights: CellWeights, actions: jax.Array, rest: jax.Array) -> jax.Array:
    """Final states; actions int32 [num_steps, num_trials], rest float32 [num_steps, num_trials, EXTRA]."""
    units = weights.hidden.shape[0]

    def trial(actions, rest):
        def step(state, x):
            projected = projection(weights.input, *x)
            weights_now = weights._replace(input=jnp.zeros((0, 3 * units)), bias=weights.bias + projected)
            return gru_step(weights_now, jax.nn.relu, state, jnp.zeros((0,))), None

        return jax.lax.scan(step, jnp.zeros(units), (actions, rest))[0]

    return jax.vmap(trial, 1)(actions, rest)


def compared(num_arms: int, num_trials: int, num_steps: int, units: int, rounds: int) -> str:
    """A Markdown table: seconds of a forward pass and of a gradient by projection, medians of calls in turns."""
    keys = jax.random.split(jax.random.key(0), 4)
    weights = CellWeights(
        input=0.1 * jax.random.normal(keys[0], (num_arms + EXTRA, 3 * units)),
        hidden=units**-0.5 * jax.random.normal(keys[1], (units, 3 * units)),
        bias=jnp.zeros(3 * units),
    )
    actions = jax.random.randint(keys[2], (num_steps, num_trials), 0, num_arms)
    rest = jax.random.uniform(keys[3], (num_steps, num_trials, EXTRA))
    programs = {}
    for name, projection in PROJECTIONS.items():

        def loss(weights, actions, rest, projection=projection):
            return jnp.sum(jnp.square(unroll(projection, weights, actions, rest)))

        for kind, function in (("forward", loss), ("gradient", jax.grad(loss))):
            programs[name, kind] = jax.jit(function).lower(weights, actions, rest).compile()
    expected = programs["product", "gradient"](weights, actions, rest)
    for name in PROJECTIONS:
        found = programs[name, "gradient"](weights, actions, rest)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max()), found, expected
        )
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in programs}
    for _ in range(rounds):
        for key, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(weights, actions, rest))
            seconds[key].append(time.perf_counter() - start)
    lines = ["| input | forward | gradient | to the product's |", "|---|---:|---:|---:|"]
    for name in PROJECTIONS:
        forward, gradient = (statistics.median(seconds[name, kind]) for kind in ("forward", "gradient"))
        share = [
            statistics.median(seconds[name, kind]) / statistics.median(seconds["product", kind])
            for kind in ("forward", "gradient")
        ]
        lines.append(f"| {name} | {forward:.3f} s | {gradient:.3f} s | {share[0]:.2f}, {share[1]:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Prints a table for few arms and short trials, and one for many arms and long ones."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.input_projection", description=__doc__)
    parser.add_argument("--gru-units", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7, help="calls of each program, in turns")
    a = parser.parse_args()
    for num_arms, num_trials, num_steps in ((5, 5000, 10), (50, 200, 500)):
        print(f"k={num_arms}, {num_trials} trials of {num_steps} steps, GRU-{a.gru_units}\n")
        print(compared(num_arms, num_trials, num_steps, a.gru_units, a.rounds) + "\n")


if __name__ == "__main__":
    xla.prepare()
    main()
