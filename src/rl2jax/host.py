"""Settings of the host process that make JAX's CPU backend faster; used by the command line."""

import ctypes
import os
import warnings

import jax

from rl2jax.files import cache_folder

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
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    jax.config.update("jax_compilation_cache_max_size", 2 * 1024**3)


def prepare() -> None:
    """All of the above and below: what the command line and the experiments do first."""
    keep_freed_memory()
    cache_compilations()
    quieten_imports()


def quieten_imports() -> None:
    """Hides deprecation warnings that distrax's dependencies raise on import."""
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(tensorflow_probability|distrax)\b.*")
