"""What a person sees while a run trains: a bar in a terminal, plain lines elsewhere, nothing inside a sweep."""

import time
from collections.abc import Mapping

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_LINES = 10.0


class Silent:
    """Shows nothing."""

    def epoch_begins(self, epoch: int, steps: int, start: int) -> None:
        """Nothing."""

    def step_done(self, images: int, loss: torch.Tensor) -> None:
        """Nothing."""

    def epoch_ended(self, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Shown:
    """A bar (in a terminal) or a line every few seconds, with loss, images/s and the time left of the whole run.

    The heading comes with the first epoch, when all that could be refused has been looked at. The loss is fetched from
    the device at most twice a second, so that looking at it does not slow the steps.
    """

    def __init__(self, epochs: int, heading: str, console: Console | None = None) -> None:
        self._epochs = epochs
        self._heading = heading
        self._console = console or Console(highlight=False)
        self._bar = _bar(self._console) if self._console.is_terminal else None
        self._task = self._bar.add_task("", total=1.0, loss="", speed="", left="") if self._bar else None
        self._looked = self._printed = self._began = time.monotonic()
        self._images = self._done = self._steps = self._epoch = 0
        self._trained_s = 0.0
        self._trained_steps = 0

    def epoch_begins(self, epoch: int, steps: int, start: int) -> None:
        """Epoch counted from 0, of `steps` steps, `start` of which were done before."""
        self._epoch, self._steps, self._done, self._images = epoch, steps, start, 0
        if self._heading:
            self._console.print(self._heading, soft_wrap=True)
            self._heading = ""
        self._began = self._looked = self._printed = time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.start()
            text = f"epoch {epoch + 1}/{self._epochs}"
            self._bar.update(self._task, description=text, total=steps, completed=start, loss="", speed="", left="")

    def step_done(self, images: int, loss: torch.Tensor) -> None:
        """A step over `images` images."""
        self._images += images
        self._done += 1
        self._trained_steps += 1
        now = time.monotonic()
        if now - self._looked < SECONDS_BETWEEN_LOOKS:
            return
        self._looked = now
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                completed=self._done,
                loss=f"loss {float(loss):.4f}",
                speed=self._speed(now),
                left=self._left(now),
            )
        elif now - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = now
            place = f"epoch {self._epoch + 1}/{self._epochs}, step {self._done}/{self._steps}"
            self._console.print(
                f"{place}: loss {float(loss):.4f}, {self._speed(now)}, {self._left(now)}", soft_wrap=True
            )

    def epoch_ended(self, metrics: Mapping[str, float]) -> None:
        """The epoch's row of metrics, validation included."""
        self._trained_s += time.monotonic() - self._began
        if self._bar is not None:
            self._bar.stop()
        self._console.print(epoch_line(metrics, self._epochs), soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was found."""
        if self._bar is not None:
            self._bar.stop()

    def _speed(self, now: float) -> str:
        return f"{self._images / max(now - self._began, 1e-9):,.0f} images/s"

    def _left(self, now: float) -> str:
        steps_left = self._steps * self._epochs - self._steps * self._epoch - self._done
        spent = self._trained_s + now - self._began
        seconds = round(steps_left * spent / max(self._trained_steps, 1))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"


def epoch_line(metrics: Mapping[str, float], epochs: int) -> str:
    """One finished epoch in one line."""
    shown = [f"{name} {value:.4f}" for name, value in metrics.items() if "/" in name]
    rest = f"lr {metrics['lr']:.3g}  {metrics['images_per_s']:,.0f} images/s  {metrics['epoch_s']:.1f} s"
    return f"epoch {metrics['epoch']:g}/{epochs}  " + "  ".join(shown) + "  " + rest


def _bar(console: Console) -> Progress:
    columns = [
        TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"), TextColumn("{task.fields[speed]}"), TextColumn("{task.fields[left]}"),
    ]  # fmt: skip
    return Progress(*columns, console=console, transient=True)
