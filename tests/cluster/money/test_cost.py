import datetime
from pathlib import Path
from typing import Any

import pytest

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Group, Inventory, Node, Token
from tuneyard.cluster.money.cost import offers, paybacks, quote
from tuneyard.cluster.money.machines import Fleet, Part, fleet_of_inventory, fleet_of_plan, named_machines
from tuneyard.cluster.money.prices import HOURS_PER_MONTH, PriceTable, price_table
from tuneyard.cluster.provision.terraform_plan import Plan, Resource

TABLE = PriceTable.model_validate({
    "as_of": "2026-01-01", "source": "ours, us-east-1", "currency": "USD", "spot_share": 0.5,
    "machines": [
        {"name": "small", "cores": 2, "memory_gib": 8, "on_demand": 0.1},
        {"name": "gpu", "cores": 8, "memory_gib": 32, "gpus": 1, "gpu": "L4", "gpu_gib": 24, "on_demand": 1.0},
        {
            "name": "box", "cores": 64, "memory_gib": 512, "gpus": 8, "gpu": "A100", "gpu_gib": 40,
            "on_demand": 24.0, "spot": 8.0,
        },
    ],
    "around": {
        "disk_gb_month": 0.073, "nat_hour": 0.05, "nat_gb": 0.045, "endpoint_hour": 0.01, "address_hour": 0.005,
        "bucket_gb_month": 0.02,
    },
    "electricity": {"kwh": 0.2, "cooling": 1.5},
    "purchases": [
        {"name": "server", "gpus": 8, "gpu": "A100", "gpu_gib": 40, "price": 66000, "watts": 10000, "like": "box"},
        {"name": "desk", "gpus": 1, "gpu": "L4", "gpu_gib": 24, "price": 4000, "watts": 400, "like": "gpu"},
        {"name": "heater", "gpus": 1, "gpu": "L4", "gpu_gib": 24, "price": 100, "watts": 5000, "like": "gpu"},
    ],
    "own": [{"node": "lab-*", "watts": 1000}, {"node": "*", "watts": 0, "price": 35040, "years": 4}],
})  # fmt: skip


def test_a_quote_sums_machines_by_the_hour() -> None:
    made = quote(Fleet((Part("head", ("small",), 1), Part("big", ("box",), 2, on_demand_percent=25))), TABLE)
    assert [line.hour for line in made.lines] == [0.1, 2 * (0.25 * 24 + 0.75 * 8)]
    assert made.hour == pytest.approx(24.1)
    assert made.on_demand == pytest.approx(48.1)
    assert made.spot == pytest.approx(16.1), "a head is never on spot"
    assert made.idle == pytest.approx(0.1)
    assert [line.detail for line in made.lines] == ["small", "box, 75% spot"]


def test_what_is_around_the_machines_is_in_it() -> None:
    made = quote(Fleet((), "eu-central-1", disk_gb=1000, nat_gateways=1, endpoints=3, addresses=1), TABLE)
    assert [line.hour for line in made.lines] == pytest.approx([73 / HOURS_PER_MONTH, 0.05, 0.03, 0.005, 0.0])
    assert made.idle == made.hour
    assert made.notes == ("the prices are of ours, us-east-1; in eu-central-1 they differ, often by 5 to 30 % more",)
    assert quote(Fleet((), "us-east-1"), TABLE).notes == ()


def test_a_machine_without_a_price_is_told_and_a_dearer_one_too() -> None:
    made = quote(Fleet((Part("a", ("gpu", "new", "box"), 2), Part("b", ("new",), 1))), TABLE)
    assert [line.hour for line in made.lines] == [2.0, None]
    assert made.notes == (
        "workers a: with box instead, 48.00 an hour on demand",
        "workers b: no price for new; give them with --prices FILE",
    )


def test_own_machines_cost_power_and_their_purchase_over_the_years() -> None:
    made = quote(Fleet((Part("workers", (), 2, nodes=("lab-1", "other")),)), TABLE)
    assert made.hour == pytest.approx(1000 / 1000 * 1.5 * 0.2 + 35040 / (4 * 8760))
    plain = TABLE.model_copy(update={"own": []})
    (note,) = quote(Fleet((Part("workers", (), 1, nodes=("lab-1",)),)), plain).notes
    assert "what your own machines cost is not known" in note


def test_gpu_hours_cost_by_the_gpu() -> None:
    cheap, dear = offers(TABLE, 100.0)
    assert (cheap.machine.name, cheap.gpu_hour, cheap.total, cheap.total_spot) == ("gpu", 1.0, 100.0, 50.0)
    assert (dear.machine.name, dear.gpu_hour, dear.gpu_hour_spot, dear.total) == ("box", 3.0, 1.0, 300.0)
    assert [one.machine.name for one in offers(TABLE, None, ["box"])] == ["box"]
    assert offers(TABLE, None)[0].total is None


def test_buying_pays_after_the_hours_that_save_its_price() -> None:
    server, desk, heater = paybacks(TABLE, 800.0)
    assert server.running_hour == pytest.approx(3.0)
    assert server.hours == pytest.approx(66000 / (24 - 3))
    assert server.hours_spot == pytest.approx(66000 / (8 - 3))
    assert server.total == pytest.approx(100 * 3.0)
    assert desk.hours == pytest.approx(4000 / (1 - 0.12))
    assert heater.hours is None, "its power costs more than renting"


def test_named_machines_are_counted_and_mistakes_told() -> None:
    assert named_machines(["small", "box=4"], TABLE, spot=True).parts == (
        Part("small", ("small",), 1, 0), Part("box", ("box",), 4, 0),
    )  # fmt: skip
    with pytest.raises(ClusterError, match=r"'boxx' is not in the price table. Did you mean 'box'\?"):
        named_machines(["boxx"], TABLE)
    with pytest.raises(ClusterError, match="'many' is no number of machines"):
        named_machines(["box=many"], TABLE)


def test_an_inventory_has_its_machines() -> None:
    cloud = Inventory(
        name="c", kind="aws", version="1", head=Node(name="head", address="10.0.0.1"), head_machine="small",
        groups=[Group(name="a", machines=["gpu"], count=3, gpus=1, on_demand_percent=0)], token=Token(),
        python="p", folder="f", region="us-east-1",
    )  # fmt: skip
    assert fleet_of_inventory(cloud).parts == (
        Part("head", ("small",), 1, 100, ("head",)), Part("a", ("gpu",), 3, 0),
    )  # fmt: skip
    workers = [Node(name=name, address=f"10.0.0.{index}") for index, name in enumerate(("w1", "w2"), 2)]
    lab = cloud.model_copy(
        update={"kind": "onprem", "head_machine": None, "groups": [], "workers": workers, "region": None}
    )
    assert fleet_of_inventory(lab).parts == (
        Part("head", (), 1, 100, ("head",)), Part("workers", (), 2, 100, ("w1", "w2")),
    )  # fmt: skip


def group(name: str, machines: list[str], count: int, percent: int, disk_gb: int) -> list[Resource]:
    def at(kind: str, values: dict[str, Any]) -> Resource:
        return Resource(f'module.workers["{name}"].{kind}.this', kind, values)

    policy = {
        "launch_template": [{"override": [{"instance_type": one} for one in machines]}],
        "instances_distribution": [{"on_demand_percentage_above_base_capacity": percent}],
    }
    return [
        at("aws_launch_template", {"block_device_mappings": [{"ebs": [{"volume_size": disk_gb}]}]}),
        at("aws_autoscaling_group", {"desired_capacity": count, "mixed_instances_policy": [policy]}),
    ]


def test_a_plan_has_the_machines_and_what_is_around_them() -> None:
    head = {"instance_type": "small", "root_block_device": [{"volume_size": 30}]}
    resources = [
        Resource("module.head.aws_instance.head", "aws_instance", head),
        Resource("module.head.aws_ebs_volume.data", "aws_ebs_volume", {"size": 100}),
        *group("a", ["gpu", "box"], 4, 0, 150),
        *group("b", ["box"], 1, 100, 200),
        Resource('module.network[0].aws_nat_gateway.out["one"]', "aws_nat_gateway", {}),
        Resource('module.network[0].aws_eip.nat["one"]', "aws_eip", {}),
        Resource("module.network[0].aws_vpc_endpoint.s3", "aws_vpc_endpoint", {"vpc_endpoint_type": "Gateway"}),
        Resource('x.aws_vpc_endpoint.service["ssm"]', "aws_vpc_endpoint", {"vpc_endpoint_type": "Interface"}),
        Resource('x.aws_subnet.nodes["a"]', "aws_subnet", {"availability_zone": "za"}),
        Resource('x.aws_subnet.nodes["b"]', "aws_subnet", {"availability_zone": "zb"}),
    ]  # fmt: skip
    fleet = fleet_of_plan(Plan((), tuple(resources), {}, outputs_change=False), "us-east-1")
    assert fleet == Fleet(
        (Part("head", ("small",), 1), Part("a", ("gpu", "box"), 4, 0), Part("b", ("box",), 1, 100)),
        "us-east-1", disk_gb=30 + 100 + 4 * 150 + 200, nat_gateways=1, endpoints=2, addresses=1,
    )  # fmt: skip


def test_our_own_table_is_whole() -> None:
    table = price_table()
    assert {one.like for one in table.purchases} <= {one.name for one in table.machines}
    assert len({one.name for one in table.machines}) == len(table.machines)
    for machine in table.machines:
        assert table.hour(machine, spot=True) < machine.on_demand
        assert bool(machine.gpus) == bool(machine.gpu) == bool(machine.gpu_gib)
    for entry in table.gpus:
        rented = table.machine(entry.machine)
        assert rented is not None
        assert rented.on_demand / rented.gpus == pytest.approx(entry.on_demand, rel=0.01)


def test_an_old_table_says_so() -> None:
    assert TABLE.age_warning(datetime.date(2026, 6, 30)) is None
    warning = TABLE.age_warning(datetime.date(2026, 9, 1))
    assert warning is not None
    assert "8 months old" in warning


def test_a_users_price_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    with pytest.raises(ClusterError, match=r"cannot be read"):
        price_table(path)
    path.write_text("as_of: 2026-01-01\nsource: us\nmachines: [{name: a, cores: 0}]\n")
    with pytest.raises(ClusterError, match=r"currency: field required; machines.0.cores: input should be greater"):
        price_table(tmp_path / "prices.yaml")
