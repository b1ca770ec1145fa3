"""What runs are found, in which order, and what is said to differ among them."""

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tune.records import ACCURACY, store_at, write_big_sweep, write_run, write_sweep
from tests.tune.trial_records import write_part, write_rich_sweep
from tuneyard.cluster.seaweedfs import SeaweedServer
from tuneyard.trainers.errors import ConfigError, MissingKeyError, StoreError
from tuneyard.trainers.record import BestEpoch, Metric, read_run, read_sweep, write_record
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.store import Store, open_store
from tuneyard.tune.reports import run_folders
from tuneyard.tune.reports.comparison import Comparison, compare
from tuneyard.tune.reports.comparison_form import finite, to_json
from tuneyard.tune.reports.run_folders import find_runs

LOSS = Metric(name="val/loss", mode="min")


def ids(comparison: Comparison) -> list[str]:
    return [run.record.run_id for run in comparison.runs]


def test_runs_are_ordered_by_their_best_epoch_not_their_last(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "a/", [0.5, 0.6, 0.7])
    write_run(store, "b/", [0.5, 0.9, 0.2])
    comparison = compare([str(tmp_path)])
    assert ids(comparison) == ["b", "a"]
    best = comparison.runs[0].best(comparison.metric)
    assert best is not None
    assert (best.value, best.epoch, best.step) == (0.9, 2, 20)


def test_a_metric_with_mode_min_puts_the_lowest_first(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "a/", [0.5], metric=LOSS)
    write_run(store, "b/", [0.9], metric=LOSS)
    assert ids(compare([str(tmp_path)])) == ["b", "a"]
    assert ids(compare([str(tmp_path)], mode="max")) == ["a", "b"]


def test_nan_is_never_best_and_runs_without_a_value_are_last(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "a/", [], status="running")
    write_run(store, "b/", [math.nan, 0.3, math.inf])
    write_run(store, "c/", [math.nan], status="failed", error="diverged")
    write_run(store, "d/", [0.4])
    comparison = compare([str(tmp_path)])
    assert ids(comparison) == ["d", "b", "a", "c"]
    assert [run.best(comparison.metric) is None for run in comparison.runs] == [False, False, True, True]


def test_a_failed_run_is_never_the_best(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "a/", [0.9], status="failed", error="diverged")
    write_run(store, "b/", [0.4])
    write_run(store, "c/", [])
    assert ids(compare([str(tmp_path)])) == ["b", "a", "c"]


@pytest.mark.parametrize("target", ["sweep/t1", "sweep/t1/", "sweep/t1/run.json"])
def test_a_run_is_found_by_its_folder_or_its_record(tmp_path: Path, target: str) -> None:
    write_big_sweep(store_at(tmp_path), 3)
    (tmp_path / "sweep/t1").symlink_to(tmp_path / "sweep/t0001")
    assert ids(compare([f"{tmp_path}/{target}"])) == ["t0001"]


def test_relative_paths_and_file_uris_name_the_same_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_big_sweep(store_at(tmp_path / "my runs"), 3)
    monkeypatch.chdir(tmp_path)
    comparison = compare(["my runs", (tmp_path / "my runs" / "sweep").as_uri(), "my runs/sweep/t0001"])
    assert len(comparison.runs) == 3
    assert [sweep.sweep_id for sweep in comparison.sweeps] == ["sweep"]


def test_a_mistyped_folder_is_answered_with_the_nearest_one(tmp_path: Path) -> None:
    write_big_sweep(store_at(tmp_path / "runs" / "fashion"), 1)
    with pytest.raises(MissingKeyError, match=r"Did you mean 'fashion'\? In .*/runs there is: fashion\."):
        find_runs(str(tmp_path / "runs" / "fahsion"))


def test_a_folder_without_runs_is_answered_with_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(MissingKeyError, match=r"no run under .* there is: images"):
        find_runs(str(tmp_path))


def test_a_mistyped_s3_prefix_is_answered_with_the_nearest_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_big_sweep(store_at(tmp_path / "bucket" / "fashion"), 1)

    there = S3Options(endpoint_url="http://127.0.0.1:1", region="eu-west-1")

    def open_fake(uri: str, options: S3Options) -> Store:
        assert options == there
        return store_at(tmp_path / uri.removeprefix("s3://"))

    monkeypatch.setattr(run_folders, "open_store", open_fake)
    with pytest.raises(MissingKeyError, match=r"Did you mean 'fashion'\? In s3://bucket there is: fashion\."):
        find_runs("s3://bucket/fahsion", there)


def test_an_empty_bucket_is_said_to_hold_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folders, "open_store", lambda _uri, _options: store_at(tmp_path))
    with pytest.raises(MissingKeyError, match="there is: nothing"):
        find_runs("s3://bucket/")


def test_a_damaged_record_does_not_hide_the_others(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "a/", [0.5])
    store.put("b/run.json", b'{"run_id": 3')
    comparison = compare([str(tmp_path)])
    assert ids(comparison) == ["a"]
    assert "b/run.json is damaged" in comparison.unreadable[0]


def test_nothing_but_damaged_records_is_an_error(tmp_path: Path) -> None:
    store_at(tmp_path).put("b/run.json", b"{")
    with pytest.raises(StoreError, match=r"b/run\.json is damaged"):
        compare([str(tmp_path)])


def test_a_sweep_whose_trials_have_not_begun_has_no_runs(tmp_path: Path) -> None:
    write_sweep(store_at(tmp_path), "sweep/", [], metric=LOSS)
    comparison = compare([str(tmp_path)])
    assert (comparison.runs, comparison.metric, comparison.name) == ((), LOSS, "fashion")


def test_swept_keys_come_first_and_the_store_and_the_search_are_left_out(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(
        store, "s/a/", [0.5], overrides={"optimizer.lr": 0.1}, settings={"checkpoint.store": "x", "tune.trials": 3}
    )
    write_run(store, "s/b/", [0.6], overrides={"optimizer.lr": 0.1}, settings={"model.args": {"width": 8}})
    comparison = compare([str(tmp_path)])
    assert comparison.differing == ("optimizer.lr", "model.args.width")
    assert [run.setting("model.args.width") for run in comparison.runs] == [8, None]


def test_a_key_that_is_a_word_here_and_a_section_there_is_told_once(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "a/", [0.5], settings={"data.normalize": "auto"})
    write_run(store, "b/", [0.6], settings={"data.normalize": {"mean": [0.5], "std": [0.2]}})
    assert compare([str(tmp_path)]).differing == ("data.normalize",)


def test_seeds_are_told_only_where_nothing_else_differs(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "alone/a/", [0.5], settings={"train.seed": 1})
    write_run(store, "alone/b/", [0.6], settings={"train.seed": 2})
    write_run(store, "both/a/", [0.5], settings={"train.seed": 1})
    write_run(store, "both/b/", [0.6], settings={"train.seed": 2, "train.batch_size": 64})
    assert compare([str(tmp_path / "alone")]).differing == ("train.seed",)
    assert compare([str(tmp_path / "both")]).differing == ("train.batch_size",)


def test_an_unknown_metric_is_answered_with_the_nearest(tmp_path: Path) -> None:
    write_run(store_at(tmp_path), "a/", [0.5])
    with pytest.raises(ConfigError, match="Did you mean 'val/accuracy'"):
        compare([str(tmp_path)], metric="val/acuracy")


@pytest.mark.parametrize(("name", "mode"), [("train/loss", "min"), ("epoch_s", "min"), ("train/accuracy", "max")])
def test_the_mode_of_a_metric_that_no_run_was_made_for_follows_its_name(tmp_path: Path, name: str, mode: str) -> None:
    write_run(store_at(tmp_path), "a/", [0.5])
    assert compare([str(tmp_path)], metric=name).metric.mode == mode


def test_runs_made_for_different_metrics_need_a_choice(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "a/", [0.5])
    write_run(store, "b/", [0.6], metric=LOSS)
    with pytest.raises(ConfigError, match=r"val/accuracy \(max, 1 runs\), val/loss \(min, 1 runs\)"):
        compare([str(tmp_path)])
    assert compare([str(tmp_path)], metric="val/loss").metric == LOSS


def test_different_data_is_a_reason_for_caution(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "a/", [0.5])
    assert compare([str(tmp_path)]).cautions == ()
    write_run(store, "b/", [0.6], fingerprint="other")
    assert "2 different data sets" in compare([str(tmp_path)]).cautions[0]


def test_different_validation_samples_and_different_code_are_reasons_for_caution(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "a/", [0.5], settings={"data.validation.seed": 1})
    write_run(store, "b/", [0.6], commit="another", dirty=True)
    validation, commits, changes = compare([str(tmp_path)]).cautions
    assert "validated on different samples" in validation
    assert "2 different commits" in commits
    assert "uncommitted changes" in changes


def test_a_record_whose_metrics_are_gone_still_has_its_best_epoch(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "a/", [])
    kept = read_run(store, "a/").model_copy(update={"best": BestEpoch(value=0.8, epoch=3, step=30)})
    write_record(store, "a/", kept)
    assert compare([str(tmp_path)]).runs[0].best(ACCURACY) == kept.best
    assert compare([str(tmp_path)], metric="val/loss").runs[0].best(LOSS) is None


@pytest.mark.s3
def test_a_sweep_in_s3_is_read_with_its_checkpoints(s3_server: SeaweedServer) -> None:
    uri = "s3://tests/compare/fashion"
    options = S3Options(endpoint_url=s3_server.endpoint_url, region="us-east-1")
    store = open_store(uri, options)
    write_big_sweep(store, 5)
    comparison = compare([f"{uri}/"], options=options)
    assert sorted(ids(comparison)) == ["t0000", "t0001", "t0002", "t0003", "t0004"]
    assert comparison.runs[0].checkpoint(comparison.metric) == f"{uri}/sweep/t0001/checkpoints/0000000120"


def test_the_best_checkpoint_is_the_best_of_those_still_kept(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "a/", [0.5, 0.9, 0.7, 0.6], checkpoints=[30, 40])
    comparison = compare([str(tmp_path)])
    assert comparison.runs[0].checkpoint(comparison.metric) == f"{store.uri}/a/checkpoints/0000000030"


def test_a_checkpoint_without_a_manifest_does_not_exist(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "a/", [0.5])
    store.put("a/checkpoints/0000000010/leftover", b"")
    comparison = compare([str(tmp_path)])
    assert comparison.runs[0].checkpoint(comparison.metric) is None


def test_runs_of_the_same_id_in_two_sweeps_get_their_sweeps_name(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "one/t1/", [0.5])
    write_run(store, "two/t1/", [0.6])
    assert compare([str(tmp_path)]).labels == ("two/t1", "one/t1")


def test_short_labels_leave_out_the_words_that_all_share(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "20261121-fashion-0001/", [0.6])
    assert compare([str(tmp_path)]).short_labels == ("20261121-fashion-0001",)
    write_run(store, "20261121-fashion-0002/", [0.5])
    assert compare([str(tmp_path)]).short_labels == ("…0001", "…0002")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("Traceback (most recent call last):\n  File x\nValueError: bad\n", "ValueError: bad"),
        ("The loss became NaN.\nLower the learning rate.", "The loss became NaN."),
        (None, None),
    ],
)
def test_the_cause_is_one_line_of_the_error(tmp_path: Path, error: str | None, cause: str | None) -> None:
    write_run(store_at(tmp_path), "a/", [], status="failed", error=error)
    assert compare([str(tmp_path)]).runs[0].cause == cause


def test_speed_is_the_median_and_an_unfinished_runs_time_the_sum_of_its_epochs(tmp_path: Path) -> None:
    write_run(store_at(tmp_path), "a/", [0.1, 0.2, 0.3, math.nan], status="running")
    (run,) = compare([str(tmp_path)]).runs
    assert (run.images_per_s, run.train_s) == (2500.0, 8.0)


def test_json_is_strict_and_holds_the_settings_that_differ(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "s/a/", [0.5, math.nan], overrides={"optimizer.lr": 0.1})
    write_run(store, "s/b/", [], overrides={"optimizer.lr": 0.2}, status="failed", error="no memory")
    form = json.loads(json.dumps(to_json(compare([str(tmp_path)])), allow_nan=False))
    assert form["metric"] == {"name": "val/accuracy", "mode": "max"}
    assert [run["settings"] for run in form["runs"]] == [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}]
    assert form["runs"][0]["last"]["val/accuracy"] is None
    assert (form["runs"][1]["best"], form["runs"][1]["cause"]) == (None, "no memory")
    assert form["log_keys"] == ["optimizer.lr"]


def test_finite_reaches_into_lists_and_dicts() -> None:
    assert finite({"a": [1.0, math.nan, {"b": -math.inf}], "c": "nan"}) == {"a": [1.0, None, {"b": None}], "c": "nan"}


def test_the_module_loads_neither_ray_nor_torch() -> None:
    slow = "{'ray', 'torch', 'boto3', 'numpy'}"
    code = f"import sys, tuneyard.tune.reports.comparison; print(*sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_folds_of_a_trial_are_one_row_with_their_mean_and_spread(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    for fold, accuracy in enumerate([0.5, 0.6, 0.7, 0.8, 0.9]):
        write_part(store, "s/", "0001", {"fold": fold}, [0.1, accuracy])
    (trial,) = compare([str(tmp_path)]).trials
    assert trial.value(ACCURACY) == pytest.approx(0.7)
    assert trial.std(ACCURACY) == pytest.approx(statistics.stdev([0.5, 0.6, 0.7, 0.8, 0.9]))
    assert (trial.status, trial.wanted, trial.train_s) == ("completed", 5, 20.0)
    assert trial.curve("val/accuracy") == pytest.approx([0.1, 0.7])
    assert trial.uri == f"{store.uri}/s/0001"


def test_a_few_lucky_folds_do_not_beat_a_whole_trial(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    for fold in range(5):
        write_part(store, "s/", "0001", {"fold": fold}, [0.6])
    for fold in range(2):
        write_part(store, "s/", "0002", {"fold": fold}, [0.9])
    comparison = compare([str(tmp_path)])
    assert comparison.labels == ("0001", "0002")
    assert [trial.status for trial in comparison.trials] == ["completed", "stopped"]
    assert comparison.statuses == {"completed": 1, "stopped": 1}


def test_folds_to_come_make_a_trial_of_a_running_sweep_paused(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_part(store, "sweep/", "0001", {"fold": 0}, [0.6], overrides={"optimizer.lr": 0.1})
    write_sweep(store, "sweep/", ["0001-fold0"])
    assert compare([str(tmp_path)]).trials[0].status == "stopped"
    write_record(store, "sweep/", read_sweep(store, "sweep/").model_copy(update={"status": "running"}))
    assert compare([str(tmp_path)]).trials[0].status == "paused"


def test_a_failed_fold_fails_its_trial_and_a_failed_seed_does_not(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_part(store, "s/", "0001", {"fold": 0}, [0.6])
    write_part(store, "s/", "0001", {"fold": 1}, [0.7], status="failed")
    write_part(store, "s/", "0002", {}, [0.5])
    write_part(store, "s/", "0002", {"seed": 1}, [0.4], status="failed")
    whole, broken = compare([str(tmp_path)]).trials
    assert (whole.status, broken.status) == ("completed", "failed")
    assert broken.failed is not None
    assert broken.failed.cause == "ValueError: bad"


def test_seeds_confirm_a_trial_and_do_not_change_its_value(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_part(store, "s/", "0001", {}, [0.8], checkpoints=[10])
    for seed in (1, 2, 3):
        write_part(store, "s/", "0001", {"seed": seed}, [0.9])
    (trial,) = compare([str(tmp_path)]).trials
    assert (trial.value(ACCURACY), trial.std(ACCURACY), len(trial.confirming)) == (0.8, None, 3)
    assert trial.checkpoint(ACCURACY) == f"{store.uri}/s/0001/checkpoints/0000000010"


def test_seeds_of_which_the_trial_itself_is_not_there_are_averaged(tmp_path: Path) -> None:
    for seed, accuracy in ((1, 0.8), (2, 0.9)):
        write_part(store_at(tmp_path), "s/", "0001", {"seed": seed}, [accuracy])
    (trial,) = compare([str(tmp_path)]).trials
    assert trial.value(ACCURACY) == pytest.approx(0.85)


def test_what_makes_the_parts_is_not_said_to_differ_between_trials(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    for trial, lr in (("0001", 0.1), ("0002", 0.2)):
        for fold in range(3):
            write_part(store, "s/", trial, {"fold": fold}, [0.5], overrides={"optimizer.lr": lr})
        write_part(store, "s/", trial, {"seed": 7}, [0.5], overrides={"optimizer.lr": lr})
    comparison = compare([str(tmp_path)])
    assert comparison.differing == ("optimizer.lr",)
    assert comparison.cautions == ()


def test_trials_of_one_id_in_two_sweeps_stay_apart(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    for sweep in ("one", "two"):
        for fold in range(2):
            write_part(store, f"{sweep}/", "0001", {"fold": fold}, [0.5])
    assert compare([str(tmp_path)]).labels == ("one/0001", "two/0001")


def test_one_fold_given_alone_is_called_by_its_own_id(tmp_path: Path) -> None:
    write_part(store_at(tmp_path), "s/", "0001", {"fold": 3}, [0.5])
    assert compare([f"{tmp_path}/s/0001-fold3"]).labels == ("0001-fold3",)


def test_json_has_every_run_and_every_trial(tmp_path: Path) -> None:
    write_rich_sweep(store_at(tmp_path), 4)
    form = json.loads(json.dumps(to_json(compare([str(tmp_path)])), allow_nan=False))
    first = form["trials"][0]
    assert (first["label"], first["folds"], first["pareto"], len(first["runs"])) == ("0000", [5, 5], True, 10)
    parts = [form["runs"][place] for place in first["runs"]]
    assert [run["part"] for run in parts[:5]] == [{"fold": fold} for fold in range(5)]
    assert [run["confirming"] for run in parts] == [False] * 5 + [True] * 5
    assert {run["trial"] for run in parts} == {0}
    assert first["value"] == pytest.approx(statistics.fmean(run["best"]["value"] for run in parts[:5]))
    assert form["objectives"] == [{"name": "images_per_s", "mode": "max"}]
    assert first["objectives"] == {"images_per_s": 6000.0}
    (sweep,) = form["sweeps"]
    assert sweep["confirmation"]["verdict"]["winner"] == "0000"
    assert (sweep["spent"]["gpu_hours"], sweep["currency"]) == (2.5, "USD")
    assert "tune.budget.gpu_hours" in sweep["ended_by"]
