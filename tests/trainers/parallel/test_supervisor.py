"""Which of several workers' ends is told as the cause of a loss."""

import pytest

from tuneyard.trainers.parallel.orders import Answer
from tuneyard.trainers.parallel.supervisor import Loss, Outcome

DONE = Answer(how="done")
ECHO = Answer(how="failed", kind="RuntimeError", text="RuntimeError: gloo: connection closed", link=True)
LUCK = Answer(how="failed", kind="RuntimeError", text="RuntimeError: out of luck")


def loss_of(
    answers: dict[int, Answer] | None = None, statuses: dict[int, int] | None = None, hung: list[int] | None = None
) -> Loss | None:
    outcome = Outcome(answers or {}, statuses or {}, hung or [], late=False, asked=False, step=7, noticed_ns=1)
    return outcome.loss(3, 5.0, lambda rank: f"said by {rank}")


def test_no_loss_where_all_are_done() -> None:
    assert loss_of({0: DONE, 1: DONE, 2: DONE}) is None


@pytest.mark.parametrize(
    ("answers", "statuses", "hung", "rank", "kind"),
    [
        pytest.param({0: ECHO, 2: ECHO}, {1: -9}, [], 1, "was ended by SIGKILL", id="a kill and its echoes"),
        pytest.param({}, {2: -9, 1: -9, 0: 1}, [], 1, "was ended by SIGKILL", id="the first of those that were killed"),
        pytest.param({0: ECHO, 1: LUCK, 2: ECHO}, {}, [], 1, "RuntimeError: out of luck", id="an error and its echoes"),
        pytest.param({0: ECHO, 1: ECHO}, {}, [], 0, "RuntimeError", id="echoes alone"),
        pytest.param({0: ECHO}, {1: -9}, [1], 1, "hung", id="a hang, ended by us"),
        pytest.param({}, {0: -9, 1: -9}, [0, 1], None, "hung", id="a hang of all"),
    ],
)
def test_the_cause_is_told_and_not_its_echo(
    answers: dict[int, Answer], statuses: dict[int, int], hung: list[int], rank: int | None, kind: str
) -> None:
    loss = loss_of(answers, statuses, hung)
    assert loss is not None
    assert (loss.rank, loss.kind, loss.step) == (rank, kind, 7)


@pytest.mark.parametrize(("answer", "cause"), [(DONE, False), (ECHO, False), (LUCK, True)])
def test_only_who_failed_by_itself_is_not_kept(answer: Answer, cause: bool) -> None:
    assert answer.is_cause == cause
