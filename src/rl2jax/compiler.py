"""What XLA is told: before it compiles anything, lest it compute wrong numbers; and how hard it shall try."""

import os
from importlib.metadata import version

# jaxlib whose processor backend hands sums to a library that gets some of them wrong, without a word: of products of
# two large arrays, each broadcast against the other, over one of several axes in common (tests/test_compiler.py). Seen
# in 0.10.2; 0.11.0 has the same library, in which others met crashes (jax-ml/jax 39103, 39257). docs/troubleshooting.md
# says what was looked at: nothing of the package's own was wrong, but whoever adds a network may write such a sum.
_AFFECTED = ("0.10.2", "0.11.0")
_FUSIONS = "--xla_cpu_experimental_ynn_fusion_type"
SUMS_BY_XLA = f"{_FUSIONS}=-reduce"
"""XLA's flag that makes it compile sums itself; products of matrices stay with the library."""


def keep_sums() -> None:
    """Lets XLA compile sums itself where the installed jaxlib is known to need it.

    XLA reads XLA_FLAGS when JAX's backend starts: where it runs already, nothing changes any more. A choice that is
    made in that variable stays. To other versions the flag is not given, as an unknown one ends the process.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if version("jaxlib") in _AFFECTED and _FUSIONS not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {SUMS_BY_XLA}".strip()


def less_optimised() -> dict[str, int] | None:
    """Options of `jax.jit` for programs that take longer to compile than to run.

    On CPUs LLVM's first level of optimisation: as fast as its second for loops over time, in half the time to compile.
    """
    import jax  # not with the package, which is imported before JAX may be used

    if jax.default_backend() != "cpu" or jax.config.read("jax_disable_most_optimizations"):
        return None
    return {"xla_backend_optimization_level": 1}
