"""What Terraform says with `-json`, one object to a line, as lines of progress and as errors.

Source: developer.hashicorp.com/terraform/internals/machine-readable-ui.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

_DONE = {"create": "created", "update": "changed", "delete": "destroyed", "replace": "replaced", "read": "read"}
_DOING = {"create": "creating", "update": "changing", "delete": "destroying", "replace": "replacing", "read": "reading"}
_KEPT_WORDS = 10
_BY_NAME = ("aws_autoscaling_group", "aws_placement_group")
"""Things with fixed names, by which `terraform import` knows them, too; others have ids of their own there."""
_EXISTS = re.compile(r"creating [^(]*\(([^)\s]+)\).*(?:already ?exists|duplicate)", re.IGNORECASE)
_LOCKED = "Error acquiring the state lock"


class Events:
    """The events of one command, read as they come.

    Args:
        say: called with each line of progress.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._rest = b""
        self._errors: list[dict[str, Any]] = []
        self._words: list[str] = []

    def read(self, data: bytes) -> None:
        """Take what came; an unfinished last line waits for its end."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if isinstance(event, dict):
                self._take(event)
            elif line.strip():
                # A crash of Terraform or of a provider is told in plain words.
                self._words = [*self._words, line.decode(errors="replace").strip()][-_KEPT_WORDS:]

    def told(self, root: Path) -> str:
        """Why it failed, in its own words, and for a lock what to do."""
        for error in self._errors:
            if error["summary"] == _LOCKED:
                return _lock(error.get("detail", ""), root)
        said = list(dict.fromkeys(_sentence(error) for error in self._errors))
        return "\n".join(said) or " ".join(self._words) or "it did not say why."

    def existing(self) -> list[tuple[str, str]]:
        """What was to be made and is there already: its address here, and its name there."""
        found = [(error.get("address"), _EXISTS.search(_sentence(error))) for error in self._errors]
        return [
            (address, name[1])
            for address, name in found
            if address and name and any(f".{kind}." in f".{address}" for kind in _BY_NAME)
        ]

    def _take(self, event: dict[str, Any]) -> None:
        diagnostic = event.get("diagnostic")
        if diagnostic is not None and diagnostic["severity"] == "error":
            self._errors.append(diagnostic)
        line = _progress(event)
        if line:
            self._say(line)


def _progress(event: dict[str, Any]) -> str | None:
    hook = event.get("hook", {})
    place = hook.get("resource", {}).get("addr", "").replace("module.", "").replace(".terraform_data.", " ")
    match event.get("type"):
        case "apply_start":
            return f"{place}: {_DOING.get(hook['action'], hook['action'])} …"
        case "apply_progress":
            return f"{place}: still {_DOING.get(hook['action'], hook['action'])} … {hook['elapsed_seconds']:g} s"
        case "apply_complete":
            return f"{place}: {_DONE.get(hook['action'], hook['action'])} after {hook['elapsed_seconds']:g} s"
        case "apply_errored":
            return f"{place}: failed after {hook['elapsed_seconds']:g} s"
        case "provision_progress":
            # Its first words are the command itself, which tells a user nothing.
            told = hook.get("output", "").strip()
            return f"{place}: {told}" if told and not told.startswith('Executing: ["') else None
        case "diagnostic" if event["diagnostic"]["severity"] == "warning":
            return f"Warning: {_sentence(event['diagnostic'])}"
    return None


def _sentence(diagnostic: dict[str, Any]) -> str:
    summary, detail = diagnostic["summary"].rstrip("."), " ".join(diagnostic.get("detail", "").split())
    where = diagnostic.get("range") or {}
    line = f"{where['filename']}:{where['start']['line']}" if where else ""
    place = f"{diagnostic.get('address') or line}: ".removeprefix(": ")
    return f"{place}{summary}. {detail}".strip() if detail else f"{place}{summary}."


def _lock(detail: str, root: Path) -> str:
    """Locally the lock ends with the process that holds it; only a remote backend can keep one that nobody holds."""
    info = dict(re.findall(r"^\s*(ID|Who|Operation|Created): +(.+)$", detail, re.MULTILINE))
    doing = info.get("Operation", "").removeprefix("OperationType").lower() or "another command"
    return (
        f"the cluster is locked: {info.get('Who', 'somebody')} runs {doing} on it since {info.get('Created', '?')}. "
        "Wait for its end, then run the same again. If nobody does any more (state in a remote backend, and a machine "
        f"that went away): cd {root} && terraform force-unlock {info.get('ID', 'ID')}."
    )
