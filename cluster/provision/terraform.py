"""Terraform as a program: found, run in a folder, followed, and interrupted so that no state is lost.

Terraform runs in a session of its own and writes into a file, not into a pipe of ours: a closed terminal or the end of
this process lets it come to its end and keep the state.
"""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.private_files import make_private_folder
from tuneyard.cluster.provision.terraform_events import Events
from tuneyard.cluster.provision.terraform_plan import Plan, Resource, parse_plan, resources_of

OLDEST = (1, 11)
"""The version that has what the modules use: ephemeral values and write-only arguments."""
LOCAL_STATE = "terraform.tfstate"
LOCK_INFO = ".terraform.tfstate.lock.info"
GONE = "TUNEYARD_GONE"
"""The variable by which the modules' scripts know of nodes that are gone."""
POLL_S = 0.1


class TerraformError(ClusterError):
    """Terraform failed; the text has what it said.

    Attributes:
        existing: what was to be made and is there already: its address in Terraform, and its name in AWS.
    """

    def __init__(self, text: str, existing: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(text)
        self.existing = tuple(existing)


class TerraformInterruptedError(ClusterError):
    """Ctrl-C: Terraform ended what it had begun, and kept its state."""


class Terraform:
    """Terraform in one folder.

    Args:
        root: the root module, where it keeps its state.
        log: what it says while it plans and applies, in its machine-readable form; a file of mode 0600.
        say: called with each line of progress.
        gone: names of nodes on-prem that are gone for good: they are taken out without being asked to clean up.
    """

    def __init__(
        self, root: Path, *, log: Path | None = None, say: Callable[[str], None] | None = None,
        gone: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._root = root
        self._log = log
        self._say = say or (lambda line: None)
        self._environment = _environment() | {GONE: " ".join(gone)}

    def init(self) -> None:
        """Fetch the providers and modules that the root needs.

        Raises:
            TerraformError: it failed.
        """
        self._check_state_was_kept()
        self._follow(["init", "-json", "-input=false"])

    def plan(self, file: Path, *, variables: Path, destroy: bool = False) -> Plan:
        """Plan what `apply` of this file will do. The file is for its owner only: it has every value.

        Args:
            file: where the plan goes.
            variables: a JSON file with the values of the variables.
            destroy: plan the end of everything.

        Raises:
            TerraformError: it failed.
            TerraformInterruptedError: Ctrl-C.
        """
        self._follow([
            "plan", "-json", "-input=false", f"-out={file.absolute()}", f"-var-file={variables.absolute()}",
            *(["-destroy"] if destroy else []),
        ])  # fmt: skip
        file.chmod(0o600)
        return parse_plan(self._ask(["show", "-json", str(file.absolute())]))

    def apply(self, file: Path) -> None:
        """Do what was planned into the file.

        Raises:
            TerraformError: it failed; what it had made is in the state, and the next plan goes on from there.
            TerraformInterruptedError: Ctrl-C, which was passed on; this returned when Terraform had ended.
        """
        self._follow(["apply", "-json", "-input=false", str(file.absolute())])

    def output(self, name: str) -> Any:
        """The value of this output in the state, or None where the state has none.

        Raises:
            TerraformError: the folder is no root module, or its state cannot be read.
        """
        return json.loads(self._ask(["output", "-json"]) or "{}").get(name, {}).get("value")

    def resources(self) -> list[Resource]:
        """What the state has: the managed resources, with the values that they were made with.

        Raises:
            TerraformError: the state cannot be read.
        """
        return resources_of(json.loads(self._ask(["show", "-json"])).get("values", {}))

    def forget(self, addresses: Sequence[str]) -> None:
        """Take these resources out of the state: they stay, and are the user's from now on.

        Raises:
            TerraformError: the state cannot be written, or does not have them.
        """
        self._ask(["state", "rm", *addresses])

    def was_cut_off(self) -> bool:
        """Was an earlier run here killed? What it was making at that moment may be in no state."""
        return (self._root / LOCK_INFO).exists()

    def _check_state_was_kept(self) -> None:
        kept = self._root / "errored.tfstate"
        if kept.exists():
            raise TerraformError(
                f"An earlier run could not write its state, and left it in {kept}. Nothing is done before it counts "
                f"again. Run: cd {self._root} && terraform state push errored.tfstate && rm errored.tfstate"
            )

    def _ask(self, words: Sequence[str]) -> str:
        done = subprocess.run(
            [find_terraform(), *words], cwd=self._root, capture_output=True, text=True, check=False,
            env=self._environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode != 0:
            raise TerraformError(f"terraform {words[0]} in {self._root} failed: {_plain(done.stderr)}")
        return done.stdout

    def _follow(self, words: Sequence[str]) -> None:
        """Run a long command: show its progress, pass Ctrl-C on once, and wait for its end, come what may."""
        assert self._log is not None, "a command that changes things has a log"
        make_private_folder(self._log.parent)
        events = Events(self._say)
        with self._log.open("ab") as log, self._log.open("rb") as reader:
            self._log.chmod(0o600)
            reader.seek(0, os.SEEK_END)
            process = subprocess.Popen(
                [find_terraform(), *words], cwd=self._root, stdout=log, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True, umask=0o077, env=self._environment,
            )  # fmt: skip
            with self._interrupts(process) as interrupts:
                while process.poll() is None:
                    events.read(reader.read())
                    time.sleep(POLL_S)
                events.read(reader.read())
        if process.returncode != 0:
            raise self._error(words[0], process.returncode, events, interrupted=bool(interrupts))

    def _error(self, command: str, status: int, events: Events, *, interrupted: bool) -> ClusterError:
        # A plan that failed has said all; the folder of a cluster that was never made goes away with its log.
        where = f" All it said is in {self._log}." if command == "apply" else ""
        if status < 0:
            name = signal.Signals(-status).name
            return TerraformError(
                f"terraform {command} was killed by {name}. The state in {self._root} has what was made, but perhaps "
                f"not what was being made just then. Run the same again: it goes on from there.{where}"
            )
        if interrupted:
            return TerraformInterruptedError(
                f"terraform {command} was interrupted, and ended in order: its state has all that was made. "
                f"Run the same again to go on, or tuneyard down to end it.{where}"
            )
        return TerraformError(f"terraform {command} failed: {events.told(self._root)}{where}", events.existing())

    @contextmanager
    def _interrupts(self, process: "subprocess.Popen[bytes]") -> Iterator[list[int]]:
        """While this is open, the first Ctrl-C goes to Terraform; a second one there would lose its state."""
        seen: list[int] = []

        def passed_on(number: int, frame: FrameType | None) -> None:
            if not seen and process.poll() is None:
                process.send_signal(signal.SIGINT)
            seen.append(number)
            self._say(f"Interrupted: Terraform (process {process.pid}) ends what it has begun, and keeps its state …")

        if threading.current_thread() is not threading.main_thread():
            yield seen
            return
        before = signal.signal(signal.SIGINT, passed_on)
        try:
            yield seen
        finally:
            signal.signal(signal.SIGINT, before)


@functools.cache
def find_terraform() -> str:
    """The path of the program.

    Raises:
        ClusterError: it is not there, or too old.
    """
    path = shutil.which("terraform")
    if path is None:
        raise ClusterError(
            "terraform is not installed here. Get it from https://developer.hashicorp.com/terraform/install "
            f"({_dotted(OLDEST)} or newer), and put it on the PATH."
        )
    told = subprocess.run([path, "version", "-json"], capture_output=True, text=True, check=False, env=_environment())
    found = re.search(r'"terraform_version": *"(\d+)\.(\d+)', told.stdout)
    if found is None:
        raise ClusterError(f"{path} does not tell its version: {_plain(told.stderr or told.stdout)}")
    version = (int(found[1]), int(found[2]))
    if version < OLDEST:
        raise ClusterError(
            f"{path} is Terraform {_dotted(version)}, and the modules need {_dotted(OLDEST)} or newer. "
            "Get it from https://developer.hashicorp.com/terraform/install"
        )
    return path


def _environment() -> dict[str, str]:
    # Without questions, hints at commands to type, or a call to HashiCorp about newer versions.
    return {**os.environ, "TF_IN_AUTOMATION": "1", "TF_INPUT": "0", "CHECKPOINT_DISABLE": "1"}


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _plain(text: str) -> str:
    """What was said without colours and the frame that Terraform draws around errors."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╷╵]", " ", text).split())
