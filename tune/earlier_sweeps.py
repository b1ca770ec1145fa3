"""`--warm-start`: what the trials of other sweeps have to say to a new one's searcher."""

import logging

from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.errors import ConfigError, MissingKeyError
from tuneyard.trainers.record import Metric, read_sweep
from tuneyard.trainers.stores.store import Store, open_store
from tuneyard.tune.history import fill_beside, read_earlier, read_trials
from tuneyard.tune.search.searcher import Tried
from tuneyard.tune.space import fits

log = logging.getLogger(__name__)


def learn_from(sweep: str, experiment: Experiment, store: Store) -> list[Tried]:
    """The trials of another sweep that fit the space, by this experiment's metric.

    sweep: an id of this experiment's sweeps in its store, or a folder or URI of any sweep. Keys that the other sweep
    did not search have the value that its experiment gave them. Raises ConfigError where there is no such sweep, and
    where nothing of it fits; StoreError where it is damaged.
    """
    config = experiment.tune
    assert config is not None, "check_experiment has refused this"
    place, prefix = _find(sweep, experiment, store)
    try:
        name = read_sweep(place, prefix).name
    except MissingKeyError:
        raise ConfigError(
            f"--warm-start {sweep}: there is no sweep at {place.uri}/{prefix}. Give the id of a sweep of "
            f"{experiment.name}, or the folder or URI that `tuneyard tune` names when it begins."
        ) from None
    metric = Metric(name=config.metric, mode=config.mode)
    trials = read_trials(place, prefix, experiment, metric)
    fill_beside(trials, {run.record.run_id: run.record for run in read_earlier(place, prefix)}, config)
    tried = [trial.tried(config) for trial in trials]
    fitting = [one for one in tried if one.values and fits(config.space, one.overrides)]
    if not fitting:
        raise ConfigError(
            f"--warm-start {sweep}: none of its {len(trials)} trials fits this sweep: each lacks a value for "
            f"{config.metric}, or has values outside tune.space. Widen the space, or leave it out."
        )
    log.warning("warm start: %d of %d trials of %s/%s fit", len(fitting), len(trials), name, sweep)
    return fitting


def _find(sweep: str, experiment: Experiment, store: Store) -> tuple[Store, str]:
    if "/" not in sweep:
        return store, f"{experiment.name}/{sweep}/"
    checkpoint = experiment.checkpoint
    return open_store(sweep.rstrip("/"), checkpoint.s3_options), ""
