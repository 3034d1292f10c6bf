"""Damaged files: every change is noticed before anything of the file is used, and by an error of ours."""

import ast
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from command import refused
from damage import contents, damage, put_back
from helpers import change_config
from untrained import CONFIG, ROW, TASK, untrained_run

import rl2jax
from rl2jax.envs.names import parse_task
from rl2jax.files import read_regular, sealed, unsealed
from rl2jax.runs import checkpoint, shipped
from rl2jax.runs import session as sessions
from rl2jax.runs.checkpoint import CheckpointError
from rl2jax.runs.run import RunError, create_run, load_state, open_run
from rl2jax.runs.session import Recorder, read_metrics
from rl2jax.runs.shipped import ShippedAgentError, load_agent, ship

OURS = (ShippedAgentError, checkpoint.CheckpointError, RunError)
HERE = Path(__file__).parents[2]


class Fuzzed(NamedTuple):
    """One kind of files.

    Attributes:
      files: what is damaged.
      strangers: sound contents that belong elsewhere.
      load: reads the files and returns what it understood.
      harmless: what may come of damage that is mended: `load`'s own result.
      absent: the error where the only file is gone.
    """

    files: list[Path]
    strangers: list[bytes]
    load: Any
    harmless: Any = None
    absent: tuple[type[Exception], ...] = ()


def row(iteration):
    return json.dumps({"iteration": iteration, "mean_return": 2.0 + 0.1 * iteration, "seconds": 0.25})


def trained_folder(folder, seed):
    """A run with checkpoints and rows up to iteration 3, as a session of training leaves them."""
    run = create_run(folder, TASK, CONFIG, seed)
    state = run.learner.init(jax.random.key(seed))
    (folder / "metrics.jsonl").write_text("".join(row(i) + "\n" for i in (1, 2, 3)))
    for iteration in (2, 3):
        with Recorder(run, 3) as recorder:
            recorder._saved_iteration = None
            recorder.save(state._replace(iteration=np.int32(iteration)))
    return run


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    """What is damaged, by kind."""
    folder = tmp_path_factory.mktemp("fuzzed")
    ours, other = (trained_folder(folder / name, seed) for name, seed in (("ours", 1), ("other", 2)))
    ship(untrained_run(folder / "shipped"), "best", ROW, folder / "agents")
    sibling = parse_task("bandit:k=3,n=4")
    ship(untrained_run(folder / "sibling", sibling), "best", ROW | {"task": sibling.name}, folder / "agents")
    agent, stranger = (folder / "agents" / "best" / f"bandit-k{k}-n4.safetensors" for k in (2, 3))
    template = jax.eval_shape(ours.learner.init, jax.random.key(0))
    saved = [path for path in contents(ours.checkpoints) if path.parts[-2] == "3" or "3" in path.parts]
    strangers = [path.read_bytes() for path in contents(other.checkpoints)]
    strangers += [path.read_bytes() for path in contents(ours.checkpoints) if path not in saved]
    metrics = ours.folder / "metrics.jsonl"
    kept = metrics.read_bytes()

    def run_json():
        return load_state(open_run(ours.folder))

    def load_ours():
        return load_agent("bandit-k2-n4", folder=folder / "agents")

    return {
        "agent": Fuzzed([agent], [stranger.read_bytes()], load_ours, absent=(ValueError,)),
        "checkpoint": Fuzzed(saved, strangers, lambda: checkpoint.restore(ours.checkpoints, 3, template)),
        "run.json": Fuzzed([ours.folder / "run.json"], [(other.folder / "run.json").read_bytes()], run_json),
        "metrics.jsonl": Fuzzed([metrics], [], lambda: sessions._rows_until(ours, 3), kept),
    }


def fuzz(kind: Fuzzed, number: int, seed: int) -> dict[str, list[str]]:
    """Damages files `number` times and loads them; what was done where it went wrong."""
    rng, originals = np.random.default_rng(seed), {path: path.read_bytes() for path in kind.files}
    found: dict[str, list[str]] = {"crashes": [], "silent": []}
    done = 0
    while done < number:
        what, touched = damage(rng, kind.files, kind.strangers)
        same = all(p.is_file() and p.read_bytes() == originals.get(p) for p in touched)
        beside = touched[0] not in originals and "state" not in touched[0].parts  # a file that nobody reads
        if not same and not beside:
            done += 1
            try:
                loaded = kind.load()
            except OURS:
                pass
            except kind.absent as error:
                if kind.files[0].exists():
                    found["crashes"].append(f"{what}: {error!r:.200}")
            except BaseException as error:
                found["crashes"].append(f"{what}: {error!r:.200}")
            else:
                if kind.harmless is None or loaded not in (None, kind.harmless):
                    found["silent"].append(what)
        put_back(touched, originals)
    kind.load()  # as it was
    return found


@pytest.fixture
def no_arrays_are_opened(monkeypatch):
    """Fails where orbax is given a checkpoint that is damaged."""
    given = []
    original = checkpoint._checkpointer
    monkeypatch.setattr(checkpoint, "_checkpointer", lambda: given.append(1) or original())
    return given


NUMBERS = {"agent": 4500, "checkpoint": 4000, "run.json": 1000, "metrics.jsonl": 500}


@pytest.mark.parametrize("kind", NUMBERS)
def test_a_few_damaged_files(fuzzed, kind, no_arrays_are_opened):
    assert fuzz(fuzzed[kind], 30, seed=0) == {"crashes": [], "silent": []}
    assert len(no_arrays_are_opened) == (kind in ("checkpoint", "run.json"))  # the sound one, at the end


@pytest.mark.faults
@pytest.mark.parametrize("kind", NUMBERS)
def test_ten_thousand_damaged_files(fuzzed, kind, no_arrays_are_opened):
    assert sum(NUMBERS.values()) == 10_000
    assert fuzz(fuzzed[kind], NUMBERS[kind], seed=1) == {"crashes": [], "silent": []}
    assert len(no_arrays_are_opened) == (kind in ("checkpoint", "run.json"))


def test_the_fuzzing_can_fail(fuzzed):
    """Without digests it finds what they find: silent loads and crashes."""
    kind = fuzzed["metrics.jsonl"]
    path = kind.files[0]
    read = kind._replace(load=lambda: [json.loads(line) for line in read_regular(path).splitlines()])
    found = fuzz(read, 100, seed=0)
    assert found["crashes"]
    assert found["silent"]


@pytest.fixture
def ours(tmp_path):
    return trained_folder(tmp_path / "run", 1)


# --- What a change is called.


def test_an_edited_description_is_refused(capsys, ours):
    """Other settings would train from a checkpoint that was made with these."""
    path = ours.folder / "run.json"
    text = path.read_text()
    path.write_text(text.replace('"objective.discount": 0.99', '"objective.discount": 0.5'))
    assert path.read_text() != text
    with pytest.raises(RunError, match=r"run.json cannot be read: it was truncated or changed.*put back.*--start"):
        open_run(ours.folder)
    refused(capsys, ["train", TASK.name, "--resume", "--out", ours.folder], "changed since it was written")


def test_a_description_of_other_settings_is_refused(ours):
    """One that is sound in itself, in the place of another."""
    path = ours.folder / "run.json"
    description = {k: v for k, v in unsealed(path.read_bytes()).items() if k != "file_sha256"}
    path.write_text(sealed(description | {"config": CONFIG.replace({"objective.discount": 0.5}).to_json()}))
    with pytest.raises(RunError, match="not the one that iteration 3 was saved with"):
        load_state(open_run(ours.folder))
    change_config(ours.folder, **{"objective.discount": 0.5})  # as a test does that knows how
    assert int(load_state(open_run(ours.folder)).iteration) == 3


def test_a_checkpoint_of_another_iteration_is_refused(ours):
    shutil.rmtree(ours.checkpoints / "3")
    shutil.copytree(ours.checkpoints / "2", ours.checkpoints / "3")
    with pytest.raises(checkpoint.CheckpointError, match="is of iteration 2; delete that folder"):
        load_state(ours)


def test_a_damaged_checkpoint_deleted_leaves_the_one_before(ours):
    (ours.checkpoints / "3" / "manifest.json").write_text("{}")
    with pytest.raises(checkpoint.CheckpointError, match=r"damaged.*delete that folder"):
        load_state(ours)
    shutil.rmtree(ours.checkpoints / "3")
    assert int(load_state(ours).iteration) == 2


def test_a_changed_row_is_refused_and_a_torn_one_repaired(ours):
    path = ours.folder / "metrics.jsonl"
    kept = path.read_bytes()
    path.write_bytes(kept + b'{"iteration": 4, "mean_re')
    assert [r["iteration"] for r in read_metrics(ours.folder)] == [1, 2, 3]
    Recorder(ours, 3).__exit__()
    assert path.read_bytes() == kept
    path.write_bytes(kept.replace(b"2.1", b"2.9"))
    with pytest.raises(RunError, match=r"its rows are not those that iteration 3 was saved with.*move the file away"):
        Recorder(ours, 3)
    path.write_bytes(kept.replace(b'"iteration": 2', b'"iteration" 2'))
    with pytest.raises(RunError, match="line 2 is no row of metrics"):
        read_metrics(ours.folder)
    path.unlink()  # as told
    Recorder(ours, 3).__exit__()
    assert path.read_bytes() == b""


def test_files_of_another_format_are_named(ours):
    """And those without a digest of themselves."""
    path = ours.folder / "run.json"
    description = unsealed(path.read_bytes())
    del description["file_sha256"]
    path.write_text(sealed(description | {"format": 2}))
    with pytest.raises(RunError, match="format must be 3, which this version reads, got 2"):
        open_run(ours.folder)
    path.write_text(json.dumps(description, indent=2) + "\n")
    with pytest.raises(RunError, match="its digest is missing"):
        open_run(ours.folder)
    path.write_text(sealed(description))
    manifest = ours.checkpoints / "3" / "manifest.json"
    whole = {name: value for name, value in unsealed(manifest.read_bytes()).items() if name != "file_sha256"}
    manifest.write_text(sealed(whole | {"format": 2}))
    with pytest.raises(CheckpointError, match="has format 2, this version reads 3"):
        load_state(open_run(ours.folder))


# --- Nothing that runs code when it is read.


def test_nothing_is_pickled():
    """No source imports what unpickles, nor asks NumPy to."""
    unpickling = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    sources = [*Path(rl2jax.__file__).parent.rglob("*.py"), *(HERE / "experiments").rglob("*.py")]
    assert len(sources) > 50
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not unpickling & {name.split(".")[0] for name in names}, path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path


def test_no_saved_file_is_a_pickle(ours, fuzzed):
    files = {**contents(ours.folder), **{path: path.read_bytes() for path in fuzzed["agent"].files}}
    assert len(files) > 5
    for path, content in files.items():
        assert content[:1] != b"\x80", path  # every pickle of protocol 2 and later begins so
        assert content[:2] != b"PK", path  # nor an archive that may hold one
        assert path.suffix not in (".pkl", ".pickle", ".npy", ".npz", ".pt"), path


def test_agents_are_sorted_whatever_their_names(tmp_path):
    (tmp_path / "best").mkdir()
    for name in ("²", "a1²", "a10"):
        (tmp_path / "best" / f"{name}.safetensors").touch()
    assert {name for name, _ in shipped._listed(tmp_path)} == {"²", "a1²", "a10"}
