"""What `tuneyard checkpoints list`, `verify`, `fetch` and `export` do; `app.py` has their options."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tuneyard.cluster.amounts import counted, size_text
from tuneyard.launch.checkpoints.runs import CheckpointRun, checkpoint_runs, only_run
from tuneyard.launch.checkpoints.table import Row, as_row, count_own_bytes, render, say
from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.checkpoints.files import Found
from tuneyard.trainers.checkpoints.manifest import Manifest
from tuneyard.trainers.errors import CheckpointError, MissingKeyError
from tuneyard.trainers.stores.file_store import FileStore
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.store import Store

Which = str | int
"""Which checkpoint of a run: "best", "last", or that of a step."""

_RECORD_FILES = ("run.json", "metrics.jsonl", "git.diff", "predictions.npz")


def list_command(targets: Sequence[str], options: S3Options, *, as_json: bool) -> None:
    """Print a row for each checkpoint."""
    rows: list[Row] = []
    for run in checkpoint_runs(targets, options):
        found = run.found()
        best = run.best(found)
        rows += [
            as_row(run.label, entry, run.files.uri(entry[0].key), best=entry == best, last=entry == found[-1])
            for entry in found
        ]
    count_own_bytes(rows)
    if as_json:
        say(json.dumps([row.as_json() for row in rows], indent=1))
    else:
        render(rows, Console(highlight=False))


def verify_command(targets: Sequence[str], options: S3Options, *, newest_only: bool) -> int:
    """Read every blob of the checkpoints and compare it with its digest; 1 where one is damaged, else 0."""
    status = 0
    for run in checkpoint_runs(targets, options):
        status |= _verify(run, newest_only=newest_only)
    return status


def fetch_command(targets: Sequence[str], options: S3Options, *, folder: Path, which: Which | None) -> None:
    """Copy checkpoints, all of each run's or one, into a folder that is laid out like any store."""
    goal = FileStore(folder)
    for run in checkpoint_runs(targets, options):
        chosen = run.found() if which is None else [choose(run, which)]
        home = _home_of(run)
        _copy_record(run, goal, home)
        sizes = [run.upkeep.fetch(place.step, goal, home.prefix, home.blob_prefix) for place, _ in chosen]
        say(f"{run.label}: {counted(len(chosen), 'checkpoint')}, {size_text(sum(sizes))} -> {folder / home.prefix}")


def export_command(
    target: str, options: S3Options, *, folder: Path, which: Which, averaged: bool | None, project: Path
) -> None:
    """Write the weights and what they are of, for other libraries."""
    from tuneyard.trainers.checkpoints.export import Source, export  # it imports torch's networks

    run = only_run(target, options)
    place, manifest = choose(run, which)
    part = _weights_part(run, manifest, averaged)
    weights = Checkpoints(run.store, run.prefix, run.blob_prefix).load_parts([part], step=place.step)[part]
    source = Source(run.record, place.step, manifest.epoch, part, project.absolute())
    paths = export(source, weights, folder)
    kind = "averaged weights" if part == "average" else "weights"
    say(f"{run.label}, step {place.step}: {kind} -> {', '.join(map(str, paths))}")


def choose(run: CheckpointRun, which: Which) -> Found:
    """One of the run's checkpoints; CheckpointError where there is none such."""
    found = run.found()
    if not found:
        raise CheckpointError(f"checkpoints: run {run.label} has none under {run.files.uri('checkpoints/')}.")
    if isinstance(which, int):
        chosen = next((entry for entry in found if entry[0].step == which), None)
    else:
        chosen = found[-1] if which == "last" else run.best(found)
    if chosen is None:
        what = f"of step {which}" if isinstance(which, int) else "with a metric (take --last instead)"
        steps = ", ".join(str(place.step) for place, _ in found)
        raise CheckpointError(f"checkpoints: run {run.label} has none {what}. Saved steps: {steps}.")
    return chosen


def _verify(run: CheckpointRun, *, newest_only: bool) -> int:
    newest = run.files.places()[-1:]
    verdicts = []
    for verdict in run.upkeep.verify(newest[0].step if newest_only and newest else None):
        verdicts.append(verdict)
        say(f"{run.label}, step {verdict.step}: {'; '.join(verdict.problems) or 'whole'}")
    if not verdicts:
        say(f"{run.label}: no checkpoints")
    if not any(verdict.problems for verdict in verdicts):
        return 0
    whole = next((verdict.step for verdict in verdicts if not verdict.problems), None)
    if whole is not None:
        say(f"{run.label}: DAMAGED. Step {whole} is the newest that is whole: a resume goes on from it.")
    else:
        say(f"{run.label}: DAMAGED. None of those read is whole: restore their files from a copy, or train it anew.")
    return 1


@dataclass(frozen=True, slots=True)
class _Home:
    """Where a run goes: its manifests and its record below `prefix`, its blobs below `blob_prefix`."""

    prefix: str
    blob_prefix: str


def _home_of(run: CheckpointRun) -> _Home:
    """As `TrialSpec` has it, so that the folder serves as `checkpoint.store`."""
    record = run.record
    shared = f"{record.name}/{record.sweep_id}/" if record.sweep_id else f"{record.name}/{record.run_id}/"
    return _Home(f"{record.name}/{record.sweep_id}/{record.run_id}/" if record.sweep_id else shared, shared)


def _copy_record(run: CheckpointRun, goal: Store, home: _Home) -> None:
    """The run's record, metrics and whatever else it keeps beside its checkpoints."""
    for name in _RECORD_FILES:
        try:
            goal.put(home.prefix + name, run.store.get(run.prefix + name))
        except MissingKeyError:
            continue


def _weights_part(run: CheckpointRun, manifest: Manifest, averaged: bool | None) -> str:
    has_average = "average" in manifest.parts
    if averaged and not has_average:
        raise CheckpointError(
            f"export: run {run.label} has no averaged weights: train.ema_epochs was not set. Leave --averaged out."
        )
    return "average" if has_average and averaged is not False else "model"
