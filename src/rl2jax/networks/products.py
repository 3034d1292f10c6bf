"""Matrix products at a chosen precision: float32, the device's own, or factors rounded to bfloat16.

A rounded product is a primitive of its own, as processors that multiply bfloat16 get it from XLA in one form
only: both factors in rows, the first's columns summed over the second's rows. In derivatives a factor would stand
transposed, and the product would be one of float32 again. So every product, derivatives included, is told as an
Einstein sum, and is brought into that form where it is compiled.
"""

import math
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def product(x: chex.Array, matrix: chex.Array, precision: str = "default") -> chex.Array:
    """The matrix product x @ matrix, accumulated in float32.

    Args:
      x: float32 [..., rows].
      matrix: float32 [rows, columns].
      precision: "default" leaves it to the device (TPUs round the factors to bfloat16, recent GPUs to TF32, CPUs do
        not round); "float32" rounds nothing anywhere; "bfloat16" rounds the factors to bfloat16 everywhere, those of
        the derivatives' products too.

    Returns:
      float32 [..., columns].
    """
    if precision == "bfloat16":
        lead = _LETTERS[: x.ndim - 1]
        return rounded_sum(f"{lead}y,yz->{lead}z", x, matrix)
    return jnp.matmul(x, matrix, precision="highest" if precision == "float32" else None)


def rounded_sum(terms: str, x: chex.Array, y: chex.Array) -> chex.Array:
    """The Einstein sum of two factors rounded to bfloat16, accumulated in float32.

    Args:
      terms: "ab,bc->ac", with a letter a dimension; each letter in exactly two or all three of the terms.
      x: float32 or bfloat16.
      y: float32 or bfloat16.

    Returns:
      float32.
    """
    return _rounded_sum.bind(x, y, terms=terms)


@lru_cache
def multiplies_bfloat16() -> bool:
    """Whether this machine's processor multiplies bfloat16 faster than float32; False where that cannot be read.

    With a matrix unit (AMX: four times as fast, and more) or by instructions of AVX-512 (twice: AMD's from Zen 4 on).
    """
    try:
        return not _MULTIPLY_BFLOAT16.isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False


_MULTIPLY_BFLOAT16 = {"amx_bf16", "avx512_bf16"}  # as Linux calls them
_LETTERS = "abcdefghijklmnopqrstuvwx"
_rounded_sum = Primitive("rounded_sum")


def _parts(terms: str) -> tuple[str, str, str]:
    factors, result = terms.split("->")
    first, second = factors.split(",")
    return first, second, result


def _result(x: Any, y: Any, *, terms: str) -> ShapedArray:
    first, second, result = _parts(terms)
    size = dict(zip(first + second, x.shape + y.shape, strict=True))
    return ShapedArray(tuple(size[letter] for letter in result), jnp.dtype(jnp.float32))


def _anywhere(x: chex.Array, y: chex.Array, *, terms: str) -> chex.Array:
    """The product on devices that take bfloat16 however it lies."""
    return jnp.einsum(terms, x.astype(jnp.bfloat16), y.astype(jnp.bfloat16), preferred_element_type=jnp.float32)


def _on_processor(x: chex.Array, y: chex.Array, *, terms: str) -> chex.Array:
    """The product on a CPU: by its own instructions, or rounded by hand, so that it has the same effect on learning."""
    first, second, result = _parts(terms)
    summed = [letter for letter in first if letter in second and letter not in result]
    rows = [letter for letter in first if letter not in second]
    columns = [letter for letter in second if letter not in first]
    if not multiplies_bfloat16() or len(summed) + len(rows) < len(first) or not (summed and rows and columns):
        x, y = (jax.lax.reduce_precision(a.astype(jnp.float32), exponent_bits=8, mantissa_bits=7) for a in (x, y))
        return jnp.einsum(terms, x, y, precision="highest")
    size = dict(zip(first + second, x.shape + y.shape, strict=True))
    total = math.prod(size[letter] for letter in summed)
    left = _in_rows(x, first, rows + summed).reshape(-1, total)
    right = _in_rows(y, second, summed + columns).reshape(total, -1)
    multiplied = _laid_in_rows(jnp.matmul(left, right, preferred_element_type=jnp.float32))
    multiplied = multiplied.reshape([size[letter] for letter in rows + columns])
    return jnp.transpose(multiplied, [(rows + columns).index(letter) for letter in result])


def _in_rows(x: chex.Array, have: str, want: list[str]) -> chex.Array:
    """A factor rounded, its dimensions in the wanted order."""
    x = x.astype(jnp.bfloat16)
    if list(have) != want:
        x = jnp.transpose(x, [have.index(letter) for letter in want])
    return _laid_in_rows(x)


def _laid_in_rows(x: chex.Array) -> chex.Array:
    """In memory too; where a transpose next to a product is left to XLA, it may compile what it cannot run."""
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


@lru_cache
def _compiled(terms: str) -> Any:
    return jax.jit(partial(rounded_sum, terms))


def _tangent_of_first(tangent: chex.Array, x: chex.Array, y: chex.Array, *, terms: str) -> chex.Array:
    del x
    return rounded_sum(terms, tangent, y.astype(jnp.bfloat16))  # what is kept for a backward pass is kept rounded


def _tangent_of_second(tangent: chex.Array, x: chex.Array, y: chex.Array, *, terms: str) -> chex.Array:
    del y
    return rounded_sum(terms, x.astype(jnp.bfloat16), tangent)


def _transposed(cotangent: Any, x: Any, y: Any, *, terms: str) -> tuple[Any, Any]:
    """Of the linear function of one factor: the sum over what the other factor and the result have in common."""
    first, second, result = _parts(terms)
    of_first = ad.is_undefined_primal(x)
    if isinstance(cotangent, ad.Zero):
        zero = ad.Zero((x if of_first else y).aval)
        return (zero, None) if of_first else (None, zero)
    if of_first:
        return rounded_sum(f"{result},{second}->{first}", cotangent, y), None
    return None, rounded_sum(f"{first},{result}->{second}", x, cotangent)


def _batched(factors: Any, axes: Any, *, terms: str) -> tuple[chex.Array, int]:
    """Under `vmap`: a letter more."""
    first, second, result = _parts(terms)
    letter = next(letter for letter in _LETTERS if letter not in terms)
    first, second = (
        term if axis is None else term[:axis] + letter + term[axis:]
        for term, axis in zip((first, second), axes, strict=True)
    )
    return rounded_sum(f"{first},{second}->{letter}{result}", *factors), 0


_rounded_sum.def_abstract_eval(_result)
_rounded_sum.def_impl(lambda x, y, *, terms: _compiled(terms)(x, y))
ad.defjvp(_rounded_sum, _tangent_of_first, _tangent_of_second)
ad.primitive_transposes[_rounded_sum] = _transposed
batching.primitive_batchers[_rounded_sum] = _batched
mlir.register_lowering(_rounded_sum, mlir.lower_fun(_anywhere, multiple_results=False))
mlir.register_lowering(_rounded_sum, mlir.lower_fun(_on_processor, multiple_results=False), platform="cpu")
