"""Checkpoints: what was saved comes back to the bit, and what was not is never mistaken for it."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl2jax.runs import checkpoint


@pytest.fixture
def state():
    return {"w": jnp.arange(6.0).reshape(2, 3), "n": jnp.int32(7), "key": jax.random.key(3)}


def test_round_trip_is_exact(tmp_path, state):
    checkpoint.save(tmp_path, 5, state)
    iteration, back = checkpoint.restore_latest(tmp_path, jax.eval_shape(lambda: state))
    assert iteration == 5
    np.testing.assert_array_equal(back["w"], state["w"])
    assert back["n"].dtype == jnp.int32
    assert jnp.array_equal(jax.random.key_data(back["key"]), jax.random.key_data(state["key"]))


def test_keeps_the_last_two_and_leaves_no_temporaries(tmp_path, state):
    (tmp_path / "tmp-99-1").mkdir()
    for iteration in (1, 2, 10):
        checkpoint.save(tmp_path, iteration, state)
    assert checkpoint.iterations_on_disk(tmp_path) == [2, 10]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["10", "2"]


def test_every_changed_file_is_noticed(tmp_path, state):
    saved = checkpoint.save(tmp_path, 1, state)
    files = [p for p in saved.rglob("*") if p.is_file()]
    assert len(files) >= 3
    for path in files:
        content = path.read_bytes()
        for damage in (content[: len(content) // 2], bytes([content[0] ^ 1]) + content[1:], None):
            path.unlink() if damage is None else path.write_bytes(damage)
            with pytest.raises(checkpoint.CheckpointError, match="damaged"):
                checkpoint.restore(tmp_path, 1, state)
            path.write_bytes(content)
    checkpoint.restore(tmp_path, 1, state)


def test_another_architecture_is_named(tmp_path, state):
    checkpoint.save(tmp_path, 1, state)
    with pytest.raises(
        checkpoint.CheckpointError, match=r"another architecture.*'w'.*float32\[2, 3\].*float32\[2, 4\]"
    ):
        checkpoint.restore(tmp_path, 1, {**state, "w": jnp.zeros((2, 4))})
    with pytest.raises(checkpoint.CheckpointError, match=r"another architecture.*absent"):
        checkpoint.restore(tmp_path, 1, {**state, "extra": jnp.zeros(1)})


def test_a_failed_save_keeps_the_one_before(tmp_path, state, monkeypatch):
    checkpoint.save(tmp_path, 1, state)

    def no_space(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(checkpoint.CheckpointError, match=r"No space left.*iteration 1 is kept"):
        checkpoint.save(tmp_path, 2, state)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1"]


def test_no_checkpoint_is_an_error(tmp_path, state):
    with pytest.raises(checkpoint.CheckpointError, match="holds no checkpoint"):
        checkpoint.restore_latest(tmp_path / "nowhere", state)
