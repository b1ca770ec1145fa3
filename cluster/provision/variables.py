"""The variables of a root module: which there are, and the values that a user gives them.

Read from the module's own variables.tf as text; whether a value is of the right type and range Terraform itself says.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import yaml

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.nearest import allowed_instead

_BLOCK = re.compile(r'^variable\s+"(?P<name>[A-Za-z0-9_-]+)"\s*\{\n(?P<body>.*?)^\}', re.MULTILINE | re.DOTALL)
_LINE = re.compile(r'^\s*description\s*=\s*"(?P<text>(?:[^"\\]|\\.)*)"', re.MULTILINE)
_HEREDOC = re.compile(r"^\s*description\s*=\s*<<-?(?P<end>\w+)\n(?P<text>.*?)^\s*(?P=end)$", re.MULTILINE | re.DOTALL)
_TYPE = re.compile(r"^  type\s*=\s*(?P<type>[a-z]+)", re.MULTILINE)
_DEFAULT = re.compile(r"^  default\s*=\s*(?P<value>.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of a module. `type` is the outermost word of its type; `default` is None where one must be given."""

    name: str
    type: str
    description: str
    default: str | None


def declared(root: Path) -> dict[str, Variable]:
    """The variables of the module in this folder, in their order."""
    found = {}
    for block in _BLOCK.finditer((root / "variables.tf").read_text()):
        body = block["body"]
        line, heredoc, kind = _LINE.search(body), _HEREDOC.search(body), _TYPE.search(body)
        text = dedent(heredoc["text"]).strip() if heredoc else line["text"].replace('\\"', '"') if line else ""
        default = _DEFAULT.search(body)
        found[block["name"]] = Variable(
            block["name"], kind["type"] if kind else "any", text, _short(default["value"].strip()) if default else None
        )
    return found


def read_values(path: Path) -> dict[str, Any]:
    """The values of a YAML or JSON file.

    Raises:
        ClusterError: it cannot be read, or is no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ClusterError(f"The file {path} cannot be read: {error}. Values are given as KEY=VALUE.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ClusterError(f"The file {path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ClusterError(f"The file {path} has no keys: it needs lines such as `workers: 4`.")
    return {str(key): value for key, value in values.items()}


def changed(values: Mapping[str, Any], words: Sequence[str], variables: Mapping[str, Variable]) -> dict[str, Any]:
    """The values after `KEY=VALUE` words; `a.b=1` changes one entry of a map, and `KEY=null` goes back to the default.

    Raises:
        ClusterError: a word has no value, or goes into what is no map.
    """
    result = dict(values)
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ClusterError(f"{word!r} is neither a file nor KEY=VALUE, such as workers=8.")
        *places, last = key.split(".")
        known = variables.get(key)
        # Text stays as it was typed: 1.10 is not 1.1, and no is not false.
        value = text if known is not None and known.type == "string" and text != "null" else _parsed(word, text)
        node = result
        for place in places:
            inner = node.get(place) or {}
            if not isinstance(inner, dict):
                raise ClusterError(f"{word!r}: {place} is {inner!r} and not a map, so that it has no {last!r}.")
            node[place] = node = dict(inner)
        if value is None:
            node.pop(last, None)
        else:
            node[last] = value
    return result


def check_names(values: Mapping[str, Any], variables: Mapping[str, Variable]) -> None:
    """Refuse what is no variable of the module.

    Raises:
        ClusterError: with the nearest name, and all of them.
    """
    for name in values:
        if name not in variables:
            raise ClusterError(f"Variable {name!r} is not known. {allowed_instead(name, variables)}")


def _short(expression: str) -> str:
    """A default of several lines by its first."""
    return (
        f"{expression}…}}"
        if expression.endswith("{")
        else f"{expression}…]"
        if expression.endswith("[")
        else expression
    )


def _parsed(word: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ClusterError(f"{word!r}: the value is not YAML: {error}") from error
