"""The price table: it is whole, and GPUs are found by the names that the driver gives them."""

import datetime

import pytest

from tuneyard.cluster.money.prices import price_of, price_table, priced_gpus


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        ("Tesla T4", "g4dn.xlarge"),
        ("NVIDIA A10G", "g5.xlarge"),
        ("NVIDIA L4", "g6.xlarge"),
        ("NVIDIA L40S", "g6e.xlarge"),
        ("Tesla V100-SXM2-16GB", "p3.2xlarge"),
        ("NVIDIA A100-SXM4-40GB", "p4d.24xlarge"),
        ("NVIDIA A100-SXM4-80GB", "p4de.24xlarge"),
        ("NVIDIA A100 80GB PCIe", "p4de.24xlarge"),
        ("NVIDIA H100 80GB HBM3", "p5.48xlarge"),
        ("NVIDIA H200", "p5en.48xlarge"),
    ],
)
def test_a_gpu_is_found_by_its_own_name(name: str, machine: str) -> None:
    price = price_of(name)
    assert price is not None
    assert price.source == f"AWS list prices, us-east-1, {machine}"
    assert price.gpu_hour > price.cpu_hour > 0


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 3090", "NVIDIA L40", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", ""])
def test_another_gpu_has_no_price(name: str) -> None:
    assert price_of(name) is None


def test_without_a_gpu_a_core_has_its_price() -> None:
    price = price_of(None)
    assert price is not None
    assert price.gpu_hour == 0.0
    assert 0.01 < price.cpu_hour < 0.2


@pytest.mark.parametrize("name", [None, *priced_gpus()])
def test_spot_is_cheaper_and_says_so(name: str | None) -> None:
    full, spot = price_of(name), price_of(name, spot=True)
    assert full is not None
    assert spot is not None
    assert spot.cpu_hour < full.cpu_hour
    assert spot.gpu_hour < full.gpu_hour or name is None
    assert spot.source == f"{full.source} on spot"


def test_the_table_says_what_day_it_is_from() -> None:
    assert price_table().as_of > datetime.date(2026, 1, 1)
    assert price_table().currency == "USD"
