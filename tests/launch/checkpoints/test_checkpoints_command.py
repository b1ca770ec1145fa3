"""`tuneyard checkpoints …` as a user meets it: two runs of a sweep that share their blobs, and one run by itself."""

import json
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from tests.tune.records import write_run, write_sweep
from tuneyard.cluster.seaweedfs import SeaweedServer
from tuneyard.launch.main import app
from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.errors import ConfigError, TuneyardError
from tuneyard.trainers.stores.file_store import FileStore
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.store import Store, open_store

SWEEP = "fashion/s1/"
FROZEN_BYTES = 4000


def save_run(store: Store, prefix: str, blob_prefix: str, metrics: list[float]) -> None:
    """Checkpoints at the steps 10, 20, …; a frozen part, the same in all runs, and one that differs everywhere."""
    checkpoints = Checkpoints(store, prefix, blob_prefix, keep_last=9)
    for number, metric in enumerate(metrics, start=1):
        seed = zlib.crc32(prefix.encode()) + number
        state = {
            "frozen": torch.arange(FROZEN_BYTES // 4, dtype=torch.int32),
            "model": {"weight": torch.rand(100, generator=torch.Generator().manual_seed(seed))},
        }
        checkpoints.save(state, step=10 * number, epoch=number, metric=metric)
        checkpoints.wait()
    checkpoints.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the sweep s1 of two runs, and the run alone."""
    folder = tmp_path_factory.mktemp("original")
    fill(FileStore(folder))
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(original, tmp_path / "store"))


def fill(store: Store) -> None:
    write_sweep(store, SWEEP, ["t0", "t1"])
    for name, metrics in (("t0", [0.5, 0.9, 0.7]), ("t1", [0.6, 0.4])):
        write_run(store, f"{SWEEP}{name}/", metrics, overrides={"optimizer.lr": 0.1})
        save_run(store, f"{SWEEP}{name}/", SWEEP, metrics)
    write_run(store, "fashion/alone/", [0.3])
    save_run(store, "fashion/alone/", "fashion/alone/", [0.3])


def call(*words: str | Path, answer: str | None = None) -> Result:
    """The command, whose own errors are raised here as they are."""
    return CliRunner().invoke(
        app, ["checkpoints", *map(str, words)], input=answer, catch_exceptions=False, env={"COLUMNS": "80"}
    )


def listed(*words: str | Path) -> list[tuple[str, int]]:
    """Runs and steps."""
    return [(row["run"], row["step"]) for row in json.loads(call("list", *words, "--json").output)]


def blobs_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("blobs/*/*") if path.is_file()]


def damage_weights(folder: Path, run: str, step: int) -> None:
    """Flip a byte of what only this checkpoint holds."""
    rows = {(row["run"], row["step"]): row for row in json.loads(call("list", folder, "--json").output)}
    manifest = json.loads(Path(rows[run, step]["uri"].removeprefix("file://")).read_text())
    name = manifest["body"]["parts"]["model"]["blobs"][0][0]
    (path,) = (path for path in blobs_of(folder) if path.name == name)
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def test_list_marks_the_best_and_the_last_and_counts_what_each_holds_alone(folder: Path) -> None:
    rows = json.loads(call("list", folder / SWEEP, "--json").output)
    assert [(row["run"], row["step"], row["best"], row["last"]) for row in rows] == [
        ("t0", 10, False, False), ("t0", 20, True, False), ("t0", 30, False, True),
        ("t1", 10, True, False), ("t1", 20, False, True),
    ]  # fmt: skip
    assert all(row["size_bytes"] - row["own_bytes"] >= FROZEN_BYTES > row["own_bytes"] >= 400 for row in rows)


def test_the_table_fits_eighty_columns(folder: Path) -> None:
    lines = call("list", folder).output.splitlines()
    assert "own" in lines[0]
    assert "saved at" in lines[0]
    assert any("★" in line and "0.9" in line and "t0" in line for line in lines)
    assert lines[-1].startswith("6 checkpoints, ")
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)


def test_a_run_of_a_sweep_is_found_by_its_own_folder(folder: Path) -> None:
    assert listed(folder / SWEEP / "t1") == [("t1", 10), ("t1", 20)]
    assert call("verify", folder / SWEEP / "t1").exit_code == 0


def test_a_run_named_twice_counts_once(folder: Path) -> None:
    assert listed(folder / SWEEP / "t1", folder / SWEEP) == [("t1", 10), ("t1", 20), ("t0", 10), ("t0", 20), ("t0", 30)]


def test_verify_names_the_damaged_one_and_the_one_that_is_whole(folder: Path) -> None:
    assert call("verify", folder).exit_code == 0
    damage_weights(folder, "t0", 30)
    result = call("verify", folder)
    assert result.exit_code == 1
    assert "t0, step 30: a blob of part 'model' does not have the digest" in result.output
    assert "Step 20 is the newest that is whole" in result.output
    assert "t1, step 20: whole" in result.output


def test_verify_of_the_newest_reads_no_other(folder: Path) -> None:
    damage_weights(folder, "t0", 10)
    assert call("verify", folder, "--newest").exit_code == 0
    assert call("verify", folder).exit_code == 1


def test_what_is_fetched_lies_as_in_any_store(folder: Path, tmp_path: Path) -> None:
    call("fetch", folder / SWEEP, "--to", tmp_path / "copy", "--best")
    assert listed(tmp_path / "copy") == [("t0", 20), ("t1", 10)]
    assert call("verify", tmp_path / "copy").exit_code == 0
    assert len(blobs_of(tmp_path / "copy")) == 3  # the frozen part once
    state = Checkpoints(FileStore(tmp_path / "copy"), f"{SWEEP}t0/", SWEEP).load()
    assert state is not None
    assert state[0].metric == 0.9


def test_a_damaged_checkpoint_is_not_fetched(folder: Path, tmp_path: Path) -> None:
    damage_weights(folder, "alone", 10)
    with pytest.raises(TuneyardError, match="does not have the digest"):
        call("fetch", folder / "fashion/alone", "--to", tmp_path / "copy")
    assert listed(tmp_path / "copy") == []


def test_prune_asks_and_takes_no_for_an_answer(folder: Path) -> None:
    before = blobs_of(folder)
    result = call("prune", folder, "--keep-last", "1", answer="n\n")
    assert result.exit_code == 1
    assert "Delete them?" in result.output
    assert len(listed(folder)) == 6
    assert blobs_of(folder) == before


def test_a_dry_run_says_what_the_pruning_then_frees(folder: Path) -> None:
    words = ("prune", folder, "--keep-last", "1", "--keep-best", "0")
    foretold = call(*words, "--dry-run").output
    assert len(listed(folder)) == 6
    assert "t0: 2 checkpoints to delete, of step 10, 20" in foretold
    assert "3 checkpoints to delete, with 1.34 kB that no other names" in foretold
    assert "freed 1.34 kB in 3 blobs" in call(*words, "--yes").output
    assert listed(folder) == [("alone", 10), ("t0", 30), ("t1", 20)]


def test_pruning_one_run_keeps_what_the_others_name(folder: Path) -> None:
    call("prune", folder / SWEEP / "t0", "--keep-last", "1", "--keep-best", "0", "--yes")
    assert listed(folder / SWEEP) == [("t0", 30), ("t1", 10), ("t1", 20)]
    assert call("verify", folder).exit_code == 0


def test_prune_keeps_the_best_unless_told_otherwise(folder: Path) -> None:
    call("prune", folder / SWEEP, "--keep-last", "1", "--yes")
    assert listed(folder / SWEEP) == [("t0", 20), ("t0", 30), ("t1", 10), ("t1", 20)]


def test_the_young_stay(folder: Path) -> None:
    assert "0 checkpoints to delete" in call("prune", folder, "--older-than", "1", "--yes").output
    assert len(listed(folder)) == 6


def test_prune_wants_to_know_what_stays(folder: Path) -> None:
    with pytest.raises(ConfigError, match="--keep-last"):
        call("prune", folder)


def test_force_deletes_what_a_killed_save_has_left(folder: Path) -> None:
    store = FileStore(folder)
    digest = "ab" * 32
    store.put(f"{SWEEP}blobs/ab/{digest}", bytes(1000))
    store.put(
        f"{SWEEP}pending/{'0' * 32}.json",
        json.dumps({"run": "t0/", "attempt": 1, "step": 40, "digests": [digest]}).encode(),
    )
    assert "freed" not in call("prune", folder, "--keep-last", "9", "--yes").output
    assert "freed 1 kB in 1 blob" in call("prune", folder, "--force", "--yes").output
    assert call("verify", folder).exit_code == 0


def test_only_one_checkpoint_can_be_meant(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only one"):
        call("fetch", folder, "--to", tmp_path / "copy", "--best", "--step", "10")


def test_a_step_that_is_not_there_is_told_with_those_that_are(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TuneyardError, match=r"none of step 15\. Saved steps: 10"):
        call("fetch", folder / "fashion/alone", "--to", tmp_path / "copy", "--step", "15")


def test_export_wants_one_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TuneyardError, match="several runs: alone, t0, t1"):
        call("export", folder, "--to", tmp_path / "out")


@pytest.mark.s3
def test_all_of_it_on_s3(s3_server: SeaweedServer, tmp_path: Path) -> None:
    place, endpoint = "s3://tests/checkpoints-command", ("--endpoint-url", s3_server.endpoint_url)
    fill(open_store(place, S3Options(endpoint_url=s3_server.endpoint_url)))
    assert call("verify", f"{place}/{SWEEP}t0", *endpoint).exit_code == 0
    call("prune", f"{place}/{SWEEP}", "--keep-last", "1", "--keep-best", "0", "--yes", *endpoint)
    assert listed(place, *endpoint) == [("alone", 10), ("t0", 30), ("t1", 20)]
    call("fetch", place, "--to", tmp_path / "copy", *endpoint)
    assert call("verify", tmp_path / "copy").exit_code == 0


def test_help_comes_without_torch() -> None:
    code = "import sys; from tuneyard.launch.main import app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
