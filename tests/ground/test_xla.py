"""What XLA is told, and that sums are right with it."""

import os
import subprocess
import sys

import pytest

from rl2jax import xla as compiler

# In float32 as a user compiles it; [K, P, N] in all, summed over T, where jaxlib 0.10.2 has all but k = 0 wrong.
PROGRAM = """
import numpy as np
import rl2jax
import jax

moves, values = np.random.default_rng(0).normal(size=(2, 50, 10, 512)).astype(np.float32)
values = values[:4]
expected = 2 * np.einsum("ptn,ktn->kpn", moves.astype(float), values.astype(float))
found = jax.jit(lambda m, v: 2 * (m[None] * v[:, None]).sum(axis=2))(moves, values)
print(np.abs(np.asarray(found) - expected).max())
"""


def test_sums_are_right_in_a_users_process():
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment)
    assert float(done.stdout) < 1e-4


@pytest.mark.parametrize("installed", ["0.10.2", "0.11.0"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", compiler.SUMS_BY_XLA),
        ("--xla_a=1", f"--xla_a=1 {compiler.SUMS_BY_XLA}"),
        ("--xla_cpu_experimental_ynn_fusion_type=", "--xla_cpu_experimental_ynn_fusion_type="),
    ],
)
def test_flags_of_versions_that_need_it(monkeypatch, installed, before, after):
    monkeypatch.setattr(compiler, "version", {"jaxlib": installed}.get)
    monkeypatch.setenv("XLA_FLAGS", before)
    for _ in range(2):  # once is enough
        compiler.keep_sums()
        assert os.environ["XLA_FLAGS"] == after


def test_other_versions_are_told_nothing(monkeypatch):
    monkeypatch.setattr(compiler, "version", {"jaxlib": "0.10.1"}.get)
    monkeypatch.delenv("XLA_FLAGS")
    compiler.keep_sums()
    assert "XLA_FLAGS" not in os.environ
