"""What XLA and the host process are told: wrong sums avoided, memory kept, compiled programs cached.

Nothing here imports JAX before it is needed: some of it must be said before JAX's backend starts.
"""

import ctypes
import os
import warnings
from importlib.metadata import version

from rl2jax.files import cache_folder

# jaxlib whose CPU backend hands sums to a library that gets some of them wrong, silently: of products of two large
# arrays, each broadcast against the other, over one of several common axes (tests/ground/test_xla.py). Seen in 0.10.2;
# 0.11.0 has the same library, in which others met crashes (jax-ml/jax 39103, 39257). docs/troubleshooting.md says what
# was checked: nothing of the package's own was wrong, but whoever adds a network may write such a sum.
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


ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"
"""XLA's flag for products that stay on one thread."""
# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory instead of returning it to the system after every computation.

    Every call of a compiled function allocates its buffers anew; a returned gigabyte costs a quarter of a
    million page faults the next time (a third of a training iteration, measured on 2 cores).

    Returns:
      whether the C library understood; False where it is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1))
    return all(mallopt(option, value) for option, value in settings)


def cache_compilations() -> None:
    """Keeps compiled programs on disk between processes, unless JAX_COMPILATION_CACHE_DIR says otherwise.

    The folder is $XDG_CACHE_HOME/rl2jax/xla, by default ~/.cache/rl2jax/xla; JAX bounds its size.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    jax.config.update("jax_compilation_cache_max_size", 2 * 1024**3)


def split_processor(num_devices: int | None) -> None:
    """Makes `num_devices` devices of the processor's cores, with a thread each; at most as many as there are cores.

    Devices work on trials of their own and wait for each other once a gradient; threads share every product and every
    loop of one device, and wait after each (docs/performance.md). To be called before JAX's backend starts; does
    nothing where it runs already, where XLA_FLAGS says how many devices there are, or for 1 or None.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if num_devices is None or num_devices < 2 or "xla_force_host_platform_device_count" in flags:
        return
    import jax

    try:
        jax.config.update("jax_num_cpu_devices", min(num_devices, os.cpu_count() or 1))
    except RuntimeError:  # the backend runs
        return
    os.environ["XLA_FLAGS"] = f"{flags} {ONE_THREAD}".strip()


def prepare() -> None:
    """All of the above and below: what the command line and the experiments do first."""
    keep_freed_memory()
    cache_compilations()
    quieten_imports()


def quieten_imports() -> None:
    """Hides deprecation warnings that distrax's dependencies raise on import."""
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(tensorflow_probability|distrax)\b.*")
