"""Reads an experiment file with its overrides, and tells every mistake by the path of its key."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from tuneyard.trainers.config.data import S3Config
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.keeping import CheckpointConfig
from tuneyard.trainers.config.mistakes import describe
from tuneyard.trainers.config.search import Domain
from tuneyard.trainers.errors import ConfigError

Tree = dict[str, Any]


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read the YAML file at `path`, apply `key=value` overrides in order, and validate the whole.

    Raises ConfigError that lists every mistake found: the key's path, what was given, what is allowed.
    """
    tree = _read_yaml(path)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"Override {override!r} is not of the form key=value, such as optimizer.lr=0.01.")
        if not all(key.split(".")):
            raise ConfigError(f"Override {override!r} has an empty part in its key; write it like optimizer.lr=0.01.")
        set_path(tree, key, _parse_value(override, text))
    return validate(tree, where=str(path))


def with_overrides(experiment: Experiment, overrides: Mapping[str, Any]) -> Experiment:
    """The experiment with the values at these key paths replaced, validated anew; raises ConfigError."""
    tree = experiment.model_dump(mode="json", exclude_unset=True)
    for key, value in overrides.items():
        set_path(tree, key, value)
    return validate(tree, where=experiment.name)


def validate(tree: Tree, where: str) -> Experiment:
    """The experiment that this tree of plain values describes; `where` begins the error's text."""
    # A section that was left empty (`tracking:`, with all its lines commented out) reads as None: it has the defaults.
    tree = {key: value for key, value in tree.items() if value is not None}
    _flatten_space(tree)
    _mean_off(tree)
    _reach_data_alike(tree)
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        lines = describe(error, tree, Experiment)
        raise ConfigError(
            f"{where} has {_count(lines, 'mistake')}:\n" + "\n".join(f"  {line}" for line in lines)
        ) from None


def set_path(tree: Tree, path: str, value: Any) -> None:
    """Set the value at a dotted path; numbers are positions in lists. Missing sections are made; ConfigError otherwise.

    A key that holds dots itself, such as `optimizer.lr` in `tune.space`, is found as it stands.
    """
    parts = path.split(".")
    node: Any = tree
    done = 0
    while True:
        taken = _taken(node, parts[done:])
        here, key = ".".join(parts[: done + taken]), ".".join(parts[done : done + taken])
        place = key if isinstance(node, dict) else _position(node, key, here, path)
        done += taken
        if done == len(parts):
            node[place] = value
            return
        if isinstance(node, dict) and node.get(key) is None:
            # Also where a section was left empty (`comet:`), which reads as None.
            node[key] = {}
        node = node[place]


def _taken(node: Any, parts: list[str]) -> int:
    """How many parts of the path make the next key: those of the longest key that `node` has, or one."""
    lengths = range(len(parts), 1, -1) if isinstance(node, dict) else ()
    return next((length for length in lengths if ".".join(parts[:length]) in node), 1)


def _position(node: Any, part: str, here: str, path: str) -> int:
    if not isinstance(node, list):
        raise ConfigError(f"Override {path}: {here} lies inside a plain value ({node!r}), which has no keys.")
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(
            f"Override {path}: {here} must be a position from 0 to {len(node) - 1} in a list; given {part!r}."
        )
    return int(part)


def _read_yaml(path: Path) -> Tree:
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except FileNotFoundError:
        raise ConfigError(f"There is no experiment file {path}. `tuneyard init DIR` makes a starter project.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must hold keys and values (name:, data:, ...), but holds a {type(loaded).__name__}.")
    return {str(key): value for key, value in loaded.items()}


def _parse_value(override: str, text: str) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.create(f"value: {text}"), resolve=True)["value"]  # type: ignore[index,call-overload]
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"Override {override!r}: the value is not valid YAML: {error}") from error


def _flatten_space(tree: Tree) -> None:
    """Let `tune.space` be written nested too: {optimizer: {lr: …}} means the same as {optimizer.lr: …}."""
    tune = tree.get("tune")
    space = tune.get("space") if isinstance(tune, dict) else None
    if isinstance(tune, dict) and isinstance(space, dict):
        tune["space"] = dict(_domains(space, ""))


def _mean_off(tree: Tree) -> None:
    """YAML reads the bare word `off` as false; under `tracking.comet.mode` the word is meant."""
    tracking = tree.get("tracking")
    comet = tracking.get("comet") if isinstance(tracking, dict) else None
    if isinstance(comet, dict) and comet.get("mode") is False:
        comet["mode"] = "off"


def _reach_data_alike(tree: Tree) -> None:
    """Data in S3 are reached as the checkpoints are, but for what `data.s3` says: mostly both lie in one place."""
    data, checkpoint = tree.get("data"), tree.get("checkpoint")
    if not (isinstance(data, dict) and isinstance(checkpoint, dict) and "s3://" in str(data.get("source"))):
        return
    given = data.get("s3") or {}
    if isinstance(given, dict):
        both = CheckpointConfig.model_fields.keys() & S3Config.model_fields.keys()
        data["s3"] = {key: checkpoint[key] for key in sorted(both) if key in checkpoint} | given


def _domains(space: Mapping[Any, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in space.items():
        nested = isinstance(value, dict) and value and not any(name in Domain.model_fields for name in value)
        if nested and all(isinstance(inner, dict) for inner in value.values()):
            found += _domains(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def _count(lines: Sequence[str], what: str) -> str:
    return f"{len(lines)} {what}{'s' if len(lines) != 1 else ''}"
