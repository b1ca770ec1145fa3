"""From a name to an object: the built-in ones and those of the user's own file."""

from pathlib import Path

import pytest

from tuneyard.trainers.classification import Classification
from tuneyard.trainers.config.training import TrainConfig
from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.names import is_user_reference, load_object, load_user_object
from tuneyard.trainers.tasks import task_class

FOCAL = """
from tuneyard.trainers.classification import Classification

class Focal(Classification):
    def loss(self, outputs, labels):
        return outputs.sum()

class Half:
    primary = None
    def loss(self, outputs, labels): ...
"""


def write(folder: Path, text: str, name: str = "task.py") -> None:
    (folder / name).write_text(text)


def test_a_built_in_object_is_imported_by_its_name() -> None:
    assert load_object("tuneyard.trainers.classification:Classification") is Classification


@pytest.mark.parametrize(("name", "expected"), [("task.py:f", True), ("sub/task.py:f", True), ("timm/resnet", False)])
def test_a_reference_into_a_file_is_seen_as_one(name: str, expected: bool) -> None:
    assert is_user_reference(name) is expected


def test_an_object_of_a_file_in_a_folder_below(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    write(tmp_path, "answer = 42", "parts/task.py")
    assert load_user_object(tmp_path, "parts/task.py:answer") == 42


def test_a_file_is_imported_once_and_again_after_an_edit(tmp_path: Path) -> None:
    write(tmp_path, "thing = object()")
    first = load_user_object(tmp_path, "task.py:thing")
    assert load_user_object(tmp_path, "task.py:thing") is first
    write(tmp_path, "thing = 2")
    assert load_user_object(tmp_path, "task.py:thing") == 2


def test_files_of_the_same_name_in_two_projects_do_not_collide(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "import pathlib\nhere = pathlib.Path(__file__).parent.name")
    assert [load_user_object(tmp_path / name, "task.py:here") for name in ("one", "two")] == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "reference", "message"),
    [
        ("x = 1", "taks.py:x", r"taks\.py does not exist. File: 'taks\.py' is not known. Did you mean 'task\.py'"),
        ("x = 1", "no/task.py:x", r"does not exist. There is no Python file in .*no\."),
        ("model = 1", "task.py:modle", r"has no such object. Name: 'modle' is not known. Did you mean 'model'"),
        ("1 / 0", "task.py:x", r"task\.py fails when imported: ZeroDivisionError: division by zero"),
        ("def f(:", "task.py:f", r"task\.py fails when imported: SyntaxError"),
        ("import not_there", "task.py:f", r"fails when imported: ModuleNotFoundError: No module named 'not_there'"),
    ],
)
def test_a_file_that_does_not_do(text: str, reference: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, text)
    with pytest.raises(ConfigError, match=message):
        load_user_object(tmp_path, reference)


def test_a_file_that_failed_is_tried_again(tmp_path: Path) -> None:
    write(tmp_path, "import pathlib\nx = pathlib.Path(__file__).with_name('data').read_text()")
    with pytest.raises(ConfigError, match="FileNotFoundError"):
        load_user_object(tmp_path, "task.py:x")
    (tmp_path / "data").write_text("here")
    assert load_user_object(tmp_path, "task.py:x") == "here"


def test_a_task_of_the_users_own(tmp_path: Path) -> None:
    write(tmp_path, FOCAL)
    task = task_class("task.py:Focal", tmp_path)(["a", "b", "c"], TrainConfig())
    assert task.outputs == 3
    assert "val/macro_f1" in task.metric_names()


def test_the_built_in_task(tmp_path: Path) -> None:
    assert task_class("classification", tmp_path) is Classification


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clasification", r"task: 'clasification' is not known. Did you mean 'classification'\?"),
        ("task.py:Half", r"task: task\.py:Half lacks outputs, metric_names, losses, .*Derive it from"),
    ],
)
def test_a_task_that_is_none(name: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, FOCAL)
    with pytest.raises(ConfigError, match=message):
        task_class(name, tmp_path)
