"""Turns pydantic's errors into sentences: the key's path, what was given, what is allowed, the nearest valid name."""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tuneyard.trainers.errors import nearest

_KINDS = {
    "int_type": "a whole number", "float_type": "a number", "string_type": "text", "bool_type": "true or false",
    "list_type": "a list", "dict_type": "keys and values", "model_type": "keys and values",
}  # fmt: skip


def describe(error: ValidationError, tree: dict[str, Any], model: type[BaseModel]) -> list[str]:
    """One line for each mistaken key of `tree`, in the file's order."""
    by_path: dict[str, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_path.setdefault(".".join(_real_path(detail, tree)), []).append(detail)
    # Of a choice between kinds ("auto, or a section"), only the kind that was meant is told: the one looked into.
    deepest = [path for path in by_path if not any(other.startswith(f"{path}.") for other in by_path)]
    return [_sentence(path, by_path[path], model) for path in deepest]


def _real_path(detail: ErrorDetails, tree: Any) -> list[str]:
    """The error's location without the names of union members that pydantic puts in between."""
    parts: list[str] = []
    node = tree
    for place, part in enumerate(detail["loc"]):
        in_list = isinstance(node, list) and isinstance(part, int) and part < len(node)
        if in_list or (isinstance(node, dict) and part in node):
            node = node[part]
        elif not (detail["type"] == "missing" and place == len(detail["loc"]) - 1):
            continue
        parts.append(str(part))
    return parts


def _sentence(path: str, details: list[ErrorDetails], model: type[BaseModel]) -> str:
    first = details[0]
    if first["type"] == "extra_forbidden":
        parent, _, key = path.rpartition(".")
        return f"{path}: unknown key.{_allowed_keys(key, _model_at(parent, model))}"
    if first["type"] == "missing":
        return f"{path}: missing; this key must be given."
    if first["type"] == "value_error":
        text = str(first["ctx"]["error"]) if "ctx" in first else first["msg"]
        return f"{path or 'the experiment'}: {text}."
    allowed = " or ".join(dict.fromkeys(_allowed(detail) for detail in details))
    literals = [value for detail in details for value in _literal_values(detail)]
    near = nearest(str(first["input"]), literals) if isinstance(first["input"], str) else None
    guess = f" Did you mean {near!r}?" if near else ""
    return f"{path}: given {first['input']!r}; allowed: {allowed}.{guess}"


def _allowed(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    if detail["type"] == "literal_error":
        return str(context["expected"])
    if detail["type"] == "string_pattern_mismatch":
        return "letters, digits, '.', '_' and '-', beginning with a letter or digit, 64 at most"
    if detail["type"] in _KINDS:
        return _KINDS[detail["type"]]
    if detail["type"] in ("too_short", "too_long"):
        bound = f"at least {context['min_length']}" if "min_length" in context else f"at most {context['max_length']}"
        return f"{bound} item(s)"
    return detail["msg"].removeprefix("Input should be ").replace("greater than or equal to", "at least")


def _literal_values(detail: ErrorDetails) -> list[str]:
    if detail["type"] != "literal_error":
        return []
    return [part.strip("' ") for part in str(detail.get("ctx", {}).get("expected", "")).replace(" or ", ",").split(",")]


def _allowed_keys(key: str, section: type[BaseModel] | None) -> str:
    if section is None:
        return ""
    names = list(section.model_fields)
    near = nearest(key, names)
    guess = f" Did you mean {near!r}?" if near else ""
    return f"{guess} Allowed: {', '.join(names)}."


def _model_at(path: str, model: type[BaseModel]) -> type[BaseModel] | None:
    """The model that holds the keys below `path`; a mapping's entries (tune.space) are passed through."""
    current: type[BaseModel] | None = model
    inside_mapping = False
    for part in path.split(".") if path else []:
        if current is None:
            return None
        field = current.model_fields.get(part)
        if field is None:
            # The name of an entry in a mapping, which may itself hold dots.
            if not inside_mapping:
                return None
            continue
        inside_mapping = any(get_origin(kind) is dict for kind in _members(field.annotation))
        current = next((found for found in _models(field.annotation)), None)
    return current


def _members(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    for kind in _members(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind
        elif get_origin(kind) not in (None, Literal):
            for inner in get_args(kind):
                yield from _models(inner)
