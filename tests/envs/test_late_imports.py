"""Modules that are loaded when they are used, and what is not loaded with the package."""

import subprocess
import sys

import pytest

from rl2jax.envs.late_imports import put_off

UNUSED = "colorsys"  # of the standard library, and of nobody's use here


@pytest.fixture
def not_loaded(monkeypatch):
    monkeypatch.delitem(sys.modules, UNUSED, raising=False)


def test_a_module_is_loaded_when_something_of_it_is_used(not_loaded):
    with put_off(UNUSED):
        import colorsys as stand_in
    assert UNUSED not in sys.modules
    assert stand_in.rgb_to_hsv(1.0, 0.0, 0.0) == (0.0, 1.0, 1.0)
    assert sys.modules[UNUSED].rgb_to_hsv is stand_in.rgb_to_hsv


def test_what_uses_it_at_once_gets_it_at_once(not_loaded):
    with put_off(UNUSED):
        from colorsys import hsv_to_rgb
    assert hsv_to_rgb is sys.modules[UNUSED].hsv_to_rgb
    with pytest.raises(AttributeError, match="has no attribute"):
        _ = sys.modules[UNUSED].nothing


def test_nothing_stays_behind_after_an_error(not_loaded):
    with pytest.raises(ModuleNotFoundError), put_off(UNUSED):
        import no_such_module_anywhere  # noqa: F401
    assert UNUSED not in sys.modules


def test_what_is_loaded_stays():
    loaded = sys.modules["subprocess"]
    with put_off("subprocess"):
        import subprocess as here
    assert here is loaded
    assert sys.modules["subprocess"] is loaded


def test_an_agent_is_loaded_without_the_libraries_that_draw():
    program = "import sys, rl2jax; rl2jax.load_agent('bandit-k5-n10')\n"
    program += "print(*sorted({'seaborn', 'pandas', 'matplotlib.pyplot', 'scipy.stats'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_gymnax_still_draws():
    from gymnax.environments.bsuite import catch

    assert callable(catch.plt.subplots)
    import matplotlib.pyplot as plt

    assert catch.plt.subplots is plt.subplots
