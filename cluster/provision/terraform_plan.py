"""Terraform's plan and state in its JSON form, as far as we read them: what is made, and with which values."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Action = Literal["create", "update", "replace", "delete"]
_ACTIONS: dict[tuple[str, ...], Action] = {
    ("create",): "create",
    ("update",): "update",
    ("delete",): "delete",
    ("delete", "create"): "replace",
    ("create", "delete"): "replace",
}


@dataclass(frozen=True, slots=True)
class Resource:
    """A managed resource with its values; what is known only after the apply is not among them."""

    address: str
    type: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one resource."""

    address: str
    type: str
    action: Action


@dataclass(frozen=True, slots=True)
class Plan:
    """What an apply will do.

    Attributes:
        resources: all that will be there afterwards.
        outputs: the values of the outputs afterwards, as far as they are known before.
        outputs_change: some will be others than now, though perhaps no resource will.
    """

    changes: tuple[Change, ...]
    resources: tuple[Resource, ...]
    outputs: dict[str, Any]
    outputs_change: bool

    @property
    def empty(self) -> bool:
        """Nothing will happen."""
        return not self.changes and not self.outputs_change

    def counts(self, action: Action) -> dict[str, int]:
        """How many resources of each type this happens to, by type."""
        return dict(sorted(Counter(change.type for change in self.changes if change.action == action).items()))


def parse_plan(text: str) -> Plan:
    """The plan that `terraform show -json FILE` printed."""
    told = json.loads(text)
    changes = tuple(
        Change(one["address"], one["type"], _ACTIONS[tuple(one["change"]["actions"])])
        for one in told.get("resource_changes", [])
        if one["mode"] == "managed" and tuple(one["change"]["actions"]) in _ACTIONS
    )
    outputs = told.get("output_changes", {})
    return Plan(
        changes, tuple(resources_of(told.get("planned_values", {}))),
        {name: change.get("after") for name, change in outputs.items()},
        any(change["actions"] != ["no-op"] for change in outputs.values()),
    )  # fmt: skip


def resources_of(values: dict[str, Any]) -> list[Resource]:
    """The managed resources of all modules, from a `values` or `planned_values` object."""
    return [
        Resource(one["address"], one["type"], one.get("values", {}))
        for module in _modules(values.get("root_module", {}))
        for one in module.get("resources", [])
        if one["mode"] == "managed"
    ]


def _modules(module: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield module
    for child in module.get("child_modules", []):
        yield from _modules(child)
