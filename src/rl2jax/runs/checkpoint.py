"""Train states on disk: orbax, a manifest of what was written, and a rename that makes it all count at once.

FOLDER/ITERATION/state/          orbax's files
FOLDER/ITERATION/manifest.json   shapes of the arrays, SHA-256 of every file, of what lies beside FOLDER, and of itself
"""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.files import read_regular, sealed, unsealed
from rl2jax.settings import InputError, UserError
from rl2jax.types import PyTree

_STATE, _MANIFEST = "state", "manifest.json"
_KEEP = 2
_FORMAT = 3
_FIELDS = {"file_sha256", "format", "iteration", "beside", "arrays", "sha256"}


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be written or read; the message says what to do."""


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _on_this_process(leaf: Any) -> Any:
    """Of an array that several processes hold, each the whole, this process's."""
    return leaf if getattr(leaf, "is_fully_addressable", True) else leaf.addressable_data(0)


def _checkpointer() -> Any:
    """Orbax's, for this process alone: where there are several, it would wait for the others."""
    import orbax.checkpoint as ocp

    this = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"process-{this}"
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _to_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """A flat dict from a leaf's path to its array; random keys as their data."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.tree.map(_on_this_process, tree))
    return {
        jax.tree_util.keystr(path): np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        for path, leaf in leaves
    }


def _from_arrays(arrays: dict[str, np.ndarray], template: PyTree) -> PyTree:
    def restore(path, leaf):
        array = jnp.asarray(arrays[jax.tree_util.keystr(path)])
        return jax.random.wrap_key_data(array) if _is_key(leaf) else array

    return jax.tree_util.tree_map_with_path(restore, template)


def _shapes(tree: PyTree) -> dict[str, list]:
    """Path -> [shape, dtype] of each array that saving `tree` writes; `tree` may be abstract."""
    described = jax.eval_shape(
        lambda tree: jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree), tree
    )
    leaves = jax.tree_util.tree_leaves_with_path(described)
    return {jax.tree_util.keystr(path): [list(leaf.shape), str(leaf.dtype)] for path, leaf in leaves}


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under `folder`; what is neither file nor folder, or a link to one, has none."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        name = str(path.relative_to(folder))
        if not path.is_file():
            digests[name] = ""
            continue
        with open(path, "rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the checkpoint in `path`, found unchanged.

    Raises:
      CheckpointError: if it is damaged, or of another version.
    """
    try:
        manifest = unsealed(read_regular(path / _MANIFEST))
        if set(manifest) != _FIELDS:
            raise InputError("its fields are not those that were written")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged: its manifest cannot be read ({error}); {_GO_BACK}"
        ) from error
    if manifest["format"] != _FORMAT:
        raise CheckpointError(f"checkpoint {path} has format {manifest['format']}, this version reads {_FORMAT}")
    if manifest["iteration"] != int(path.name):
        raise CheckpointError(f"checkpoint {path} is of iteration {manifest['iteration']}; {_GO_BACK}")
    return manifest


_GO_BACK = "delete that folder to go back to the checkpoint before it"


def saved_beside(folder: Path, iteration: int) -> dict[str, str]:
    """SHA-256 of the files that lay beside `folder` when folder/iteration was saved, as `save` was told.

    Raises:
      CheckpointError: if the manifest is damaged.
    """
    return _read_manifest(folder / str(iteration))["beside"]


def iterations_on_disk(folder: Path) -> list[int]:
    """Iterations that have a checkpoint in `folder`, ascending."""
    if not folder.is_dir():
        return []
    names = (entry.name for entry in folder.iterdir() if entry.is_dir())
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]{0,11}", name))


def save(folder: Path, iteration: int, state: PyTree, beside: dict[str, str] | None = None) -> Path:
    """Writes `state` to folder/iteration and keeps the one before.

    Everything goes to a temporary folder first, which is renamed when complete: a crash leaves either the
    whole checkpoint or none. One process at a time; what killed ones left behind is removed first.

    Args:
      folder: of all checkpoints; made if there is none.
      iteration: the checkpoint's name.
      state: arrays.
      beside: names and SHA-256 of files that belong to it, for `saved_beside`.

    Raises:
      CheckpointError: if it cannot be written; earlier checkpoints are untouched.
    """
    import orbax.checkpoint as ocp

    final = folder / str(iteration)
    temporary = folder / f"{_TEMPORARY}-{iteration}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_temporaries(folder)
        temporary.mkdir()
        with _checkpointer() as checkpointer:
            checkpointer.save((temporary / _STATE).absolute(), args=ocp.args.StandardSave(_to_arrays(state)))
        manifest = {"format": _FORMAT, "iteration": iteration, "beside": beside or {}, "arrays": _shapes(state)}
        with open(temporary / _MANIFEST, "w") as file:
            file.write(sealed(manifest | {"sha256": _digests(temporary / _STATE)}))
            file.flush()
            os.fsync(file.fileno())
        if final.exists():  # set aside whole: a folder that is half removed would be a damaged checkpoint
            final.rename(folder / f"{_TEMPORARY}-old-{iteration}-{os.getpid()}")
        temporary.rename(final)
    except Exception as error:  # orbax reports a full disk under several types
        shutil.rmtree(temporary, ignore_errors=True)
        kept = iterations_on_disk(folder)
        last = f"the checkpoint of iteration {kept[-1]} is kept" if kept else "no checkpoint was saved yet"
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"cannot write a checkpoint to {folder}: {reason}; {last}") from error
    _remove(folder, iterations_on_disk(folder)[:-_KEEP])
    return final


def remove_after(folder: Path, iteration: int) -> None:
    """Removes the checkpoints of later iterations, for a training that goes on from this one."""
    _remove(folder, [later for later in iterations_on_disk(folder) if later > iteration])


def _remove(folder: Path, iterations: Iterable[int]) -> None:
    for old in iterations:
        # Set aside whole, too: what is killed now must not leave a checkpoint that lacks files.
        aside = folder / f"{_TEMPORARY}-old-{old}-{os.getpid()}"
        with contextlib.suppress(OSError):
            (folder / str(old)).rename(aside)
    _remove_temporaries(folder)


_TEMPORARY = "tmp"


def _remove_temporaries(folder: Path) -> None:
    for leftover in folder.glob(f"{_TEMPORARY}-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def restore(folder: Path, iteration: int, template: PyTree) -> PyTree:
    """Reads folder/iteration back; no file of it is opened as arrays before its digest was found right.

    Args:
      folder: as in `save`.
      iteration: one of `iterations_on_disk`.
      template: a PyTree of the same structure, of arrays or `jax.ShapeDtypeStruct`.

    Raises:
      CheckpointError: if the files are damaged, or the arrays are not those of `template`.
    """
    import orbax.checkpoint as ocp

    path = folder / str(iteration)
    manifest = _read_manifest(path)
    saved_arrays, saved_digests = manifest["arrays"], manifest["sha256"]
    try:
        digests = _digests(path / _STATE)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    changed = [name for name in sorted({*digests, *saved_digests}) if digests.get(name) != saved_digests.get(name)]
    if changed:
        raise CheckpointError(
            f"checkpoint {path} is damaged: {changed[0]} is missing, truncated or changed; {_GO_BACK}"
        )
    expected = _shapes(template)
    for name in sorted({*expected, *saved_arrays}):
        if expected.get(name) != saved_arrays.get(name):
            raise CheckpointError(
                f"checkpoint {path} is of another architecture: {name} is {_describe(saved_arrays.get(name))} "
                f"there, but this config makes it {_describe(expected.get(name))}"
            )
    abstract = {name: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype)) for name, (shape, dtype) in expected.items()}
    try:
        with _checkpointer() as checkpointer:
            arrays = checkpointer.restore((path / _STATE).absolute(), args=ocp.args.StandardRestore(abstract))
    except Exception as error:  # orbax and tensorstore raise many types on bad files
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason}") from error
    return _from_arrays(arrays, template)


def _describe(shape_and_dtype: list | None) -> str:
    """A manifest's [shape, dtype], in words."""
    if shape_and_dtype is None:
        return "absent"
    return "".join(map(str, reversed(shape_and_dtype)))


def restore_latest(folder: Path, template: PyTree) -> tuple[int, PyTree]:
    """The newest checkpoint: (iteration, state).

    Raises:
      CheckpointError: if there is none, or it cannot be read.
    """
    iterations = iterations_on_disk(folder)
    if not iterations:
        raise CheckpointError(f"{folder} holds no checkpoint")
    chex.assert_tree_no_nones(template)
    return iterations[-1], restore(folder, iterations[-1], template)
