"""Each kind of mistake in one key: its path, what was given, what is allowed, the nearest valid name."""

from typing import Any

import pytest

from tuneyard.trainers.config.loading import set_path, validate
from tuneyard.trainers.errors import ConfigError


def told(**changes: Any) -> list[str]:
    """The lines about an experiment with these values, keys written with `__` for the dot."""
    tree: dict[str, Any] = {"name": "x", "data": {"source": "digits"}}
    for key, value in changes.items():
        set_path(tree, key.replace("__", "."), value)
    with pytest.raises(ConfigError) as caught:
        validate(tree, where="x.yaml")
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"optmizer__lr": 1}, "optmizer: unknown key. Did you mean 'optimizer'? Allowed: name, task, data, model,"),
        ({"data__validation__splt": 0.1}, "data.validation.splt: unknown key. Did you mean 'split'? Allowed: split,"),
        ({"train__epochs": "ten"}, "train.epochs: given 'ten'; allowed: a whole number."),
        ({"train__epochs": 3.0}, "train.epochs: given 3.0; allowed: a whole number."),
        ({"train__epochs": True}, "train.epochs: given True; allowed: a whole number."),
        ({"train__channels_last": "yes"}, "train.channels_last: given 'yes'; allowed: true or false."),
        ({"name": 7}, "name: given 7; allowed: text."),
        ({"name": "a/b"}, "name: given 'a/b'; allowed: letters, digits, '.', '_' and '-'"),
        ({"train": 3}, "train: given 3; allowed: keys and values."),
        ({"data__augment": "Blur"}, "data.augment: given 'Blur'; allowed: a list."),
        ({"data__augment": [3]}, "data.augment.0: given 3; allowed: text or keys and values."),
        (
            {"train__precision": "fp15"},
            "train.precision: given 'fp15'; allowed: 'fp32', 'bf16' or 'fp16'. Did you mean",
        ),
        ({"resources__workers": "two"}, "resources.workers: given 'two'; allowed: 'auto' or a whole number."),
        ({"resources__workers": 0}, "resources.workers: given 0; allowed: 'auto' or at least 1."),
        ({"data__normalize": {"mean": [0.5]}}, "data.normalize.std: missing; this key must be given."),
        ({"data__normalize": "none"}, "data.normalize: given 'none'; allowed: 'auto' or keys and values."),
        ({"data__classes": ["a"]}, "data.classes: given ['a']; allowed: at least 2 item(s)."),
        ({"data__image_size": 3}, "data.image_size: given 3; allowed: at least 4."),
        ({"data__validation__split": 1.0}, "data.validation.split: given 1.0; allowed: less than 1."),
        ({"data__validation": {"split": 0.1, "folds": 5}}, "data.validation: give either `split` or `folds` (or"),
        (
            {"data__validation": {"folds": 3, "fold": 3}},
            "data.validation: `fold` is 3, but 3 folds are counted 0 to 2.",
        ),
        ({"data__validation__by": "group"}, "data.validation: `by: group` needs `group_column`"),
        ({"tune": {}}, "tune.space: missing; this key must be given."),
        ({"tune": {"space": {}}}, "tune.space: given {}; allowed: at least 1 item(s)."),
        (
            {"tune__space__train__seed": {"choise": [1]}},
            "tune.space.train.seed.choise: unknown key. Did you mean 'choice'",
        ),
        ({"tune__space__train__seed": {"uniform": [2, 1]}}, "tune.space.train.seed: uniform: the low end 2.0 must be"),
        (
            {"tune__space__train__seed": {"uniform": ["a", 1]}},
            "tune.space.train.seed.uniform.0: given 'a'; allowed: a num",
        ),
        (
            {"tune__space__train__seed": {"loguniform": [0, 1]}},
            "tune.space.train.seed: loguniform: the low end must be",
        ),
        ({"tune__space__a": {"choice": [1], "randint": [1, 2]}}, "tune.space.a: give exactly one of uniform,"),
    ],
)
def test_one_mistake_makes_one_line(changes: dict[str, Any], line: str) -> None:
    lines = told(**changes)
    assert len(lines) == 1
    assert lines[0].startswith(line)


def test_mistakes_come_in_the_order_of_the_experiment() -> None:
    lines = told(train__epochs=0, optimizer__lr="x", zzz=1)
    assert [line.split(":")[0] for line in lines] == ["optimizer.lr", "train.epochs", "zzz"]
