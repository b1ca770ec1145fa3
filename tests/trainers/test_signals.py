"""The first signal is a wish, the second SIGINT an order; afterwards all is as before."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from tuneyard.trainers.signals import StopSignals

TWO_SIGNALS = """
import os, signal, sys
from tuneyard.trainers.signals import StopSignals
with StopSignals():
    os.kill(os.getpid(), signal.{first})
    os.kill(os.getpid(), signal.{second})
    print("still here")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_only_noted_and_answered(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    with StopSignals("Stopping.") as signals:
        assert not signals.asked()
        os.kill(os.getpid(), number)
        assert signals.asked()
        assert signals.received is number
    assert capfd.readouterr().err == "\nStopping.\n"


def test_the_handlers_from_before_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignals():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_an_empty_message_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with StopSignals(""):
        os.kill(os.getpid(), signal.SIGTERM)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("first", "second", "status", "text"),
    [("SIGINT", "SIGINT", 130, ""), ("SIGTERM", "SIGINT", 130, ""), ("SIGINT", "SIGTERM", 0, "still here\n")],
)
def test_a_second_sigint_leaves_at_once(first: str, second: str, status: int, text: str) -> None:
    code = TWO_SIGNALS.format(first=first, second=second)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (status, text)
    assert ("Leaving at once" in done.stderr) is (status == 130)


def test_outside_the_main_thread_it_does_nothing() -> None:
    seen: list[bool] = []

    def work() -> None:
        with StopSignals() as signals:
            seen.append(signals.asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


LATE = """
import os, signal, threading
from tuneyard.trainers.signals import Deadline, StopSignals
with StopSignals("", lambda: Deadline({within_s}, lambda: "step 8 is durable")):
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait({work_s})
print("saved")
"""


def test_who_cannot_save_in_time_leaves_with_last_words() -> None:
    code = LATE.format(within_s=0.2, work_s=30)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nstep 8 is durable\n")


def test_who_saves_in_time_leaves_as_ever() -> None:
    code = LATE.format(within_s=20, work_s=0.01)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15)
    assert (done.returncode, done.stdout, done.stderr) == (0, "saved\n", "")
