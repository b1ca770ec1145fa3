"""From a name in the experiment file to an object: literal `module:attribute` tables, and the user's own
`file.py:attribute`.
"""

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from tuneyard.trainers.errors import ConfigError, choose_from


def load_object(reference: str) -> Any:
    """The object that `module:attribute` names; the module is imported now, not before."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def is_user_reference(name: str) -> bool:
    """Does `name` look like `task.py:attribute`?"""
    return ".py:" in name


def load_user_object(project_dir: Path, reference: str) -> Any:
    """The object that `file.py:attribute` names, with the file looked for from `project_dir`.

    Raises ConfigError where the file or the attribute is missing, or the file fails when it is imported.
    """
    file_name, _, attribute = reference.rpartition(":")
    path = (project_dir / file_name).resolve()
    if not path.is_file():
        others = [found.name for found in path.parent.glob("*.py")] if path.parent.is_dir() else []
        hint = choose_from("File", path.name, others) if others else f"There is no Python file in {path.parent}."
        raise ConfigError(f"{reference}: {path} does not exist. {hint}")
    module = _import_file(path)
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(f"{reference}: {path} has no such object. {choose_from('Name', attribute, public)}")
    return getattr(module, attribute)


def _import_file(path: Path) -> ModuleType:
    # Named by path and content: a kept worker sees an edited file, and two projects' task.py do not collide.
    digest = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]
    name = f"tuneyard_user_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} cannot be imported: is it a Python file?")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        # The user's own code may raise anything; its text and place are what helps.
        del sys.modules[name]
        raise ConfigError(f"{path} fails when imported: {type(error).__name__}: {error}") from error
    return module
