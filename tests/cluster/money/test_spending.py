import datetime
from pathlib import Path

import pytest

from tests.cluster.money.test_cost import TABLE
from tuneyard.cluster.aws import Activity, Instance
from tuneyard.cluster.inventory import Group, Inventory, Node, Token
from tuneyard.cluster.money.machines import Fleet, Part
from tuneyard.cluster.money.spending import Span, machine_spans, mark, read_marks, running_fleet, spent

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
CLOUD = Inventory(
    name="c", kind="aws", version="1", head=Node(name="head", address="10.0.0.1"), head_machine="small", token=Token(),
    groups=[Group(name="a", machines=["box"], count=3, on_demand_percent=50, autoscaling_group="asg-a")],
    python="p", folder="f",
)  # fmt: skip


def after(hours: float) -> datetime.datetime:
    return START + datetime.timedelta(hours=hours)


def instance(
    name: str, state: str, *, ended: float | None = None, spot: bool = False, group: str | None = "asg-a"
) -> Instance:
    end = None if ended is None else after(ended)
    return Instance(name, "box" if group else "small", state, after(1), end, spot, group, None)


def test_machines_cost_while_they_run() -> None:
    spans = [
        Span("small", after(0), None, 1.0),
        Span("box", after(1), after(3), 0.0),
        Span("new", after(0), after(1), 1.0),
    ]
    found = spent(spans, [], TABLE, after(10))
    assert found.money == pytest.approx(10 * 0.1 + 2 * 8.0)
    assert found.machine_hours == pytest.approx(13.0)
    assert found.unpriced == ("new",)
    assert found.since == START


def test_what_aws_forgot_is_in_the_groups_activities() -> None:
    instances = [
        instance("i-1", "running", group=None), instance("i-2", "terminated", ended=2, spot=True),
        instance("i-3", "running"),
    ]  # fmt: skip
    done = [
        Activity("asg-a", "i-0", True, after(-5)), Activity("asg-a", "i-0", False, after(-2)),
        Activity("asg-a", "i-2", True, after(1)), Activity("asg-a", "i-2", False, after(1.5)),
        Activity("other", "i-9", True, after(0)),
    ]  # fmt: skip
    assert machine_spans(instances, done, CLOUD) == [
        Span("small", after(1), None, 1.0), Span("box", after(1), after(1.5), 0.0), Span("box", after(1), None, 1.0),
        Span("box", after(-5), after(-2), 0.5),
    ]  # fmt: skip


def test_the_ledger_has_what_no_cloud_tells(tmp_path: Path) -> None:
    mark(tmp_path, Fleet((Part("workers", (), 2, nodes=("lab-1", "lab-2")),)), after(0))
    mark(tmp_path, Fleet((Part("workers", (), 1, nodes=("lab-1",)),), nat_gateways=1), after(2))
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"time": "2026-')  # cut off
    marks = read_marks(tmp_path)
    assert [one.nodes for one in marks] == [["lab-1", "lab-2"], ["lab-1"]]
    found = spent([], marks, TABLE, after(5))
    assert found.money == pytest.approx(2 * 2 * 0.3 + 3 * (0.3 + 0.05))
    assert found.machine_hours == pytest.approx(2 * 2 + 3 * 1)


def test_machines_for_hire_are_not_in_the_ledger(tmp_path: Path) -> None:
    mark(tmp_path, Fleet((Part("head", ("small",), 1), Part("a", ("box",), 9)), disk_gb=100), START)
    (line,) = read_marks(tmp_path)
    assert (line.nodes, line.disk_gb) == ([], 100)


def test_only_what_runs_costs_now() -> None:
    instances = [
        instance("i-1", "running", group=None), instance("i-2", "terminated"), instance("i-3", "running"),
        instance("i-4", "pending"), instance("i-5", "running", spot=True), instance("i-6", "stopped", group=None),
    ]  # fmt: skip
    fleet = running_fleet(instances, CLOUD, Fleet((), None, 100))
    assert fleet.parts == (Part("a", ("box",), 2, 100), Part("a", ("box",), 1, 0), Part("head", ("small",), 1, 100))
    assert fleet.disk_gb == 100
