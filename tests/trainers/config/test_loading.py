"""The experiment file and its overrides: what is read, and how each mistake is told."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.loading import load_experiment, set_path, validate, with_overrides
from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.stores.s3_options import S3Options

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))
SWEEP = """
name: sweep
data: {source: digits, augment: [{HorizontalFlip: {p: 0.5}}]}
tracking:
tune:
  space:
    optimizer.lr: {loguniform: [1.0e-4, 1.0e-2]}
    train: {batch_size: {choice: [8, 16]}}
"""


def load(folder: Path, text: str, *overrides: str) -> Experiment:
    path = folder / "experiment.yaml"
    path.write_text(text)
    return load_experiment(path, overrides)


def refusal(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides)
    return str(caught.value)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_schema_for_editors_accepts_every_example(path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text()), Experiment.model_json_schema())


def test_the_schema_for_editors_knows_a_mistake() -> None:
    with pytest.raises(jsonschema.ValidationError, match="'sourc' was unexpected"):
        jsonschema.validate({"name": "x", "data": {"source": "a", "sourc": "b"}}, Experiment.model_json_schema())


def test_a_nested_search_space_means_the_same_as_a_dotted_one(tmp_path: Path) -> None:
    tune = load(tmp_path, SWEEP).tune
    assert tune is not None
    assert {key: domain.values for key, domain in tune.space.items()} == {
        "optimizer.lr": [1e-4, 1e-2],
        "train.batch_size": [8, 16],
    }


def test_a_section_that_was_left_empty_has_its_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, SWEEP).tracking.comet.mode == "auto"


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("optimizer.lr=1e-2", "optimizer.lr", 0.01),
        ("data.source=csv:a.csv", "data.source", "csv:a.csv"),
        ("train.clip_norm=null", "train.clip_norm", None),
        ("model.args.width=8", "model.args", {"width": 8}),
        ("data.augment=[]", "data.augment", []),
        ("data.augment.0.HorizontalFlip.p=0.25", "data.augment", [{"HorizontalFlip": {"p": 0.25}}]),
        ("tracking.comet.mode=off", "tracking.comet.mode", "off"),
        ("checkpoint.store=s3://bucket/prefix=1", "checkpoint.store", "s3://bucket/prefix=1"),
    ],
)
def test_an_override_replaces_one_value(override: str, path: str, expected: Any, tmp_path: Path) -> None:
    value: Any = load(tmp_path, SWEEP, override)
    for part in path.split("."):
        value = getattr(value, part)
    assert value == expected


@pytest.mark.parametrize(
    ("override", "key", "values"),
    [
        ("tune.space.optimizer.lr.loguniform.0=1e-5", "optimizer.lr", [1e-5, 1e-2]),
        ("tune.space.optimizer.lr={uniform: [0.1, 0.2]}", "optimizer.lr", [0.1, 0.2]),
        ("tune.space.train.batch_size.choice.1=32", "train.batch_size", [8, 32]),
        ("tune.space.optimizer.weight_decay={choice: [0.1]}", "optimizer.weight_decay", [0.1]),
    ],
)
def test_an_override_reaches_into_the_search_space(override: str, key: str, values: list[Any], tmp_path: Path) -> None:
    tune = load(tmp_path, SWEEP, override).tune
    assert tune is not None
    assert tune.space[key].values == values


def test_of_two_overrides_the_later_wins(tmp_path: Path) -> None:
    assert load(tmp_path, SWEEP, "train.seed=1", "train.seed=2").train.seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lrr=1", "optimizer.lrr: unknown key. Did you mean 'lr'? Allowed: name, lr,"),
        ("optimizer.lr=fast", "optimizer.lr: given 'fast'; allowed: a number."),
        ("train", "Override 'train' is not of the form key=value"),
        ("=1", "Override '=1' is not of the form key=value"),
        ("optimizer..lr=1", "has an empty part in its key"),
        ("name=[a", "Override 'name=[a': the value is not valid YAML"),
        ("name=${nothing}", "Interpolation key 'nothing' not found"),
        ("data.augment.3=Blur", "data.augment.3 must be a position from 0 to 0 in a list; given '3'"),
        ("data.augment.last=Blur", "data.augment.last must be a position from 0 to 0 in a list; given 'last'"),
        ("data.source.path=x", "data.source.path lies inside a plain value ('digits')"),
        ("tune.space.optimizer.lr.loguniform.2=1", "must be a position from 0 to 1 in a list; given '2'"),
        (
            "tune.space.optimizer.lr={logunifrm: [1, 2]}",
            "optimizer.lr.logunifrm: unknown key. Did you mean 'loguniform'",
        ),
    ],
)
def test_a_mistaken_override_is_told(override: str, message: str, tmp_path: Path) -> None:
    assert message in refusal(tmp_path, SWEEP, override)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "name: missing; this key must be given"),
        ("- name", "must hold keys and values (name:, data:, ...), but holds a list"),
        ("name: [", "is not valid YAML"),
        ("name: a\nname: b\n", "found duplicate key name"),
        ("name: a\ndata:\n", "data: missing; this key must be given"),
        ("name: a\ndata: {source: digits}\n1: 2\n", "1: unknown key"),
    ],
)
def test_a_file_that_is_no_experiment_is_told(text: str, message: str, tmp_path: Path) -> None:
    assert message in refusal(tmp_path, text)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no experiment file .*none\.yaml. `tuneyard init DIR` makes"):
        load_experiment(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read: .*Is a directory"):
        load_experiment(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.yaml cannot be read"):
        load_experiment(tmp_path / "binary.yaml")


def test_every_mistake_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, "name: a b\ndata: {source: 3}\ntrain: {epochs: 0}\n")
    assert "experiment.yaml has 3 mistakes:\n  name: " in message
    assert "\n  data.source: given 3; allowed: text." in message
    assert "\n  train.epochs: given 0; allowed: at least 1." in message


def test_overrides_of_a_trial_leave_the_experiment_as_it_was(tmp_path: Path) -> None:
    experiment = load(tmp_path, SWEEP)
    changed = with_overrides(experiment, {"optimizer.lr": 0.5, "data.augment.0.HorizontalFlip.p": 0.1})
    assert (changed.optimizer.lr, experiment.optimizer.lr) == (0.5, 1e-3)
    assert experiment.data.augment == [{"HorizontalFlip": {"p": 0.5}}]
    assert with_overrides(changed, {}) == changed


def test_a_trial_cannot_be_given_what_a_file_cannot(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"sweep has 1 mistake:\n  optimizer\.lr: given -1; allowed: greater than 0\."
    ):
        with_overrides(load(tmp_path, SWEEP), {"optimizer.lr": -1})


def test_set_path_makes_the_sections_that_are_missing() -> None:
    tree: dict[str, Any] = {"a": None}
    set_path(tree, "a.b.c", 1)
    assert tree == {"a": {"b": {"c": 1}}}


def test_an_experiment_survives_json(tmp_path: Path) -> None:
    experiment = load(tmp_path, SWEEP)
    assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment
    assert validate(experiment.model_dump(mode="json"), where="again") == experiment


DATA_IN_S3 = """
name: far
data: {source: s3://bucket/images, s3: {region: null, deadline_s: 5}}
checkpoint: {store: s3://bucket/runs, endpoint_url: http://h:1, region: eu-west-1, profile: team, ca_bundle: /ca.pem}
"""


def test_data_in_s3_are_reached_as_checkpoints_but_for_what_is_said(tmp_path: Path) -> None:
    experiment = load(tmp_path, DATA_IN_S3)
    expected = S3Options("http://h:1", None, "team", None, "/ca.pem", 5.0, section="data.s3")
    assert experiment.data.s3_options == expected
    assert with_overrides(experiment, {}).data.s3_options == expected
    other = load(tmp_path, DATA_IN_S3, "data.s3.endpoint_url=null", "data.s3.anonymous=true")
    assert (other.data.s3_options.endpoint_url, other.data.s3_options.anonymous) == (None, True)


def test_data_elsewhere_have_nothing_to_do_with_the_store(tmp_path: Path) -> None:
    assert load(tmp_path, DATA_IN_S3, "data.source=digits", "data.s3=null").data.s3 is None
