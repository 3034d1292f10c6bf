"""Settings shared by all tests: compiling is what they spend their time on, so compile quickly and once."""

import gc
import os
import subprocess
from pathlib import Path

import hypothesis
import jax
import jaxlib
import pytest

hypothesis.settings.register_profile("rl2jax", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("rl2jax")

# What compiles in half the time. XLA reads its variable when it first compiles; a flag that it does not know is fatal.
QUICK_TO_COMPILE = ["--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE"]
if jaxlib.version.__version_info__ < (0, 11):
    QUICK_TO_COMPILE += ["--xla_cpu_use_fusion_emitters=false"]


def pytest_configure(config):
    """Compiles without LLVM's optimisations, and keeps what was compiled in .pytest_cache."""
    # Variables are for processes that tests start too: same programs, same bits.
    os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys(os.environ.get("XLA_FLAGS", "").split() + QUICK_TO_COMPILE))
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    # An entry that a killed process left unfinished is compiled again.
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent:UserWarning")
    cache = getattr(config, "cache", None)  # absent under `-p no:cacheprovider`
    if cache is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    # For processes that tests start, xdist's workers among them, and lest the command line chooses a folder of its own.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder = str(cache.mkdir("jax"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(scope="module")
def strict_ranks():
    """Rank promotion raises while a module's tests run.

    For the modules that hold up under it. networks.py and evaluate.py add vectors to matrices on purpose.
    """
    with jax.numpy_rank_promotion("raise"):
        yield


# A process may have 65530 regions of memory mapped, by Linux's default, and every compiled program has some of its own.
# A worker crashed while it wrote a program to the cache, in a run where another had 53800.
MOST_REGIONS = 20_000


@pytest.fixture(autouse=True, scope="module")
def room_for_programs():
    """Forgets what was compiled, between modules, once it fills a third of the memory map."""
    yield
    regions = Path("/proc/self/maps")
    if regions.exists() and regions.read_bytes().count(b"\n") > MOST_REGIONS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def mounted(tmp_path):
    """Mounts a tmpfs on a folder with the given options; skips where the machine does not allow it."""
    points = []

    def mount(options):
        point = tmp_path / f"mount{len(points)}"
        point.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)]
        try:
            if subprocess.run(command, capture_output=True).returncode != 0:
                pytest.skip("this machine does not allow mounts")
        except OSError:
            pytest.skip("no mount command")
        points.append(point)
        return point

    yield mount
    for point in points:
        subprocess.run(["umount", str(point)], check=True)
