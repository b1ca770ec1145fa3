"""Numbers that processes take: each once, each above those before, and who holds them can be told."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tuneyard.trainers.claims import Claims, Holder
from tuneyard.trainers.stores.file_store import FileStore
from tuneyard.trainers.stores.store import Bytes


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(FileStore(tmp_path), "run/claims/")


def holder_of(claims: Claims, number: int) -> Holder:
    holder = claims.holder(number)
    assert holder is not None
    return holder


def test_numbers_go_up_and_never_come_again(claims: Claims) -> None:
    assert [claims.take(claims.look()) for _ in range(3)] == [1, 2, 3]
    claims.drop(1, set())
    claims.drop(2, set())
    assert claims.take(claims.look()) == 4


def test_of_many_takers_each_gets_a_number_of_its_own(claims: Claims) -> None:
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: claims.take({}), range(16)))
    assert sorted(taken) == list(range(1, 17))


def test_a_claim_whose_answer_was_lost_is_known_as_ones_own(tmp_path: Path) -> None:
    class Forgetful(FileStore):
        def create(self, key: str, data: Bytes, *, sha256: bytes | None = None) -> bool:
            super().create(key, data, sha256=sha256)
            return False

    assert Claims(Forgetful(tmp_path), "c/").take({}) == 1
    assert not Claims(Forgetful(tmp_path), "c/").try_to_take(1)


def test_marks_are_seen_and_read(claims: Claims) -> None:
    number = claims.take({})
    claims.mark(number, "from", b"{}")
    assert claims.look() == {1: {"from"}}
    assert claims.read_mark(1, "from") == b"{}"
    claims.drop(1, {"from"})
    assert claims.look() == {}


def test_a_holder_lives_as_long_as_its_process(claims: Claims, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from tuneyard.trainers.claims import Claims;"
    code += "from tuneyard.trainers.stores.file_store import FileStore;"
    code += "Claims(FileStore(Path(sys.argv[1])), 'run/claims/').take({}); print('taken', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], **pipes) as other:  # type: ignore[call-overload]
        other.stdout.readline()
        holder = holder_of(claims, 1)
        assert (holder.pid, holder.state(), holder.is_this_process) == (other.pid, "lives", False)
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert holder.state() == "gone", "a zombie does nothing any more"
    assert holder.state() == "gone"


def test_another_process_with_the_same_number_is_not_the_holder(claims: Claims) -> None:
    claims.take({})
    mine = holder_of(claims, 1)
    assert mine.is_this_process
    assert mine.model_copy(update={"began": mine.began - 1}).state() == "gone"


@pytest.mark.parametrize("machine", ["another boot pid:[1]", ""])
def test_of_another_machine_nothing_is_known(claims: Claims, machine: str) -> None:
    claims.take({})
    holder = holder_of(claims, 1).model_copy(update={"machine": machine})
    assert holder.state() == "elsewhere"
    assert not holder.is_this_process
