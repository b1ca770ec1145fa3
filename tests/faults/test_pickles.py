"""A malicious pickle in the bucket, wherever something of ours would lie: nothing is ever unpickled."""

import io
import pickle
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.faults.harness import BASIC, Place, stop_in_epoch_2, train_with
from tests.trainers.runs import make_spec
from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.checkpoints.collector import Collector
from tuneyard.trainers.checkpoints.upkeep import Upkeep
from tuneyard.trainers.errors import TuneyardError
from tuneyard.trainers.predictions import read_predictions
from tuneyard.trainers.record import read_metrics, read_run
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import open_store

KEEPING = {**BASIC, "data.validation": {"split": 0.2, "predictions": True}}
KINDS = ["blobs", "checkpoints", "claims", "metrics.jsonl", "predictions.npz", "run.json"]
LISTS = [f"{kind}/{'0' * 32}.json" for kind in ("pending", "condemned")]


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return (Path.touch, (self._canary,))


def as_pickle(thing: Malicious) -> bytes:
    return pickle.dumps(thing)


def as_torch(thing: Malicious) -> bytes:
    out = io.BytesIO()
    torch.save({"model": thing}, out)
    return out.getvalue()


def as_npz(thing: Malicious) -> bytes:
    out = io.BytesIO()
    names = ("indices", "probabilities", "labels", "step")
    np.savez(out, allow_pickle=True, **{name: np.array([thing], dtype=object) for name in names})
    return out.getvalue()


FORMS = {"pickle": as_pickle, "torch": as_torch, "npz": as_npz}


@pytest.mark.parametrize("form", FORMS)
def test_the_canary_would_sing(form: str, tmp_path: Path) -> None:
    data = io.BytesIO(FORMS[form](Malicious(tmp_path / "canary")))
    if form == "pickle":
        pickle.load(data)
    elif form == "torch":
        torch.load(data, weights_only=False)
    else:
        np.load(data, allow_pickle=True)["step"]
    assert (tmp_path / "canary").exists()


def readers(spec: TrialSpec, place: Place) -> Iterable[Callable[[], object]]:
    """All that reads a run: its resume first."""
    store, prefix = place.store, place.prefix
    return (
        lambda: train_with(spec),
        lambda: Checkpoints(store, prefix).load(),
        lambda: list(Upkeep(store, prefix).verify()),
        lambda: Collector(store, prefix).preview(),
        lambda: read_run(store, prefix),
        lambda: read_metrics(store, prefix),
        lambda: read_predictions(store, prefix),
    )


@pytest.mark.parametrize("form", FORMS)
def test_nothing_from_a_bucket_is_unpickled(form: str, folder: Path, tmp_path: Path) -> None:
    spec = stop_in_epoch_2(make_spec(folder, KEEPING, store_uri=tmp_path.as_uri()))
    place = Place(open_store(spec.store_uri), spec.prefix, spec.blob_prefix)
    canary = tmp_path / "canary"
    payload = FORMS[form](Malicious(canary))
    whole = {key: place.store.get(key) for key in place.store.keys(place.prefix)}
    lies_in = {kind: [key for key in whole if key.startswith(place.prefix + kind)] for kind in KINDS}
    assert all(lies_in.values())
    assert sum(map(len, lies_in.values())) == len(whole), "and there is nothing else"
    for keys in (*lies_in.values(), list(whole), *([place.prefix + key] for key in LISTS)):
        for key in keys:
            place.store.put(key, payload)
        for read in readers(spec, place):
            with suppress(TuneyardError):
                read()
        for key in place.store.keys(place.prefix):
            place.store.delete(key)
        for key, data in whole.items():
            place.store.put(key, data)
    assert not canary.exists()
    assert train_with(spec).status == "completed"
