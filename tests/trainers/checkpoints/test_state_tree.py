import json
import math
import random
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tuneyard.trainers.checkpoints.state_tree import pack, unpack
from tuneyard.trainers.errors import CheckpointError


class Pair(NamedTuple):
    """A tuple with names, which a checkpoint would not give back as such."""

    x: int


def round_trip(tree: object) -> Any:
    tensors, skeleton = pack(tree)
    return unpack(tensors, json.loads(json.dumps(skeleton, allow_nan=False)))


@pytest.mark.parametrize(
    "tree",
    [
        None,
        True,
        1,
        1.0,
        0.1 + 0.2,
        2**127,
        "text",
        [],
        (),
        {},
        (1, [2, (3,)], {"a": ()}),
        {0: "int", "0": "str", True: 1.5, None: 2},
        {"float": "inf"},
        {"tuple": [1], "tensor": "x", "items": [[1, 2]]},
        [math.inf, -math.inf, -0.0, 5e-324],
        random.Random(7).getstate(),
    ],
)
def test_plain_values_come_back_with_their_types(tree: object) -> None:
    assert repr(round_trip(tree)) == repr(tree)


def test_nan_comes_back() -> None:
    assert math.isnan(round_trip({"loss": math.nan})["loss"])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_tensors_come_back(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.randint(0, 2, shape).to(dtype)
    back = round_trip([tensor])[0]
    assert back.dtype == dtype
    assert torch.equal(back, tensor)


def test_channels_last_comes_back_in_its_memory_format() -> None:
    tensor = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    tensors, skeleton = pack(tensor)
    back = unpack({name: value.contiguous() for name, value in tensors.items()}, skeleton)
    assert torch.equal(back, tensor)
    assert back.stride() == tensor.stride()


def test_numpy_arrays_and_scalars_come_back() -> None:
    frozen = np.arange(6, dtype=">i4").reshape(2, 3)[::-1]
    frozen.flags.writeable = False
    back = round_trip({"array": frozen, "scalar": np.float64(0.1), "zero_d": np.array(3)})
    assert isinstance(back["array"], np.ndarray)
    np.testing.assert_array_equal(back["array"], frozen)
    assert isinstance(back["scalar"], np.float64)
    assert back["scalar"] == 0.1
    assert isinstance(back["zero_d"], np.ndarray)
    assert back["zero_d"].shape == ()


def test_an_optimizer_takes_its_state_back() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.ones(3)
    optimizer.step()
    state = optimizer.state_dict()
    back = round_trip(state)
    assert back["state"].keys() == {0}
    assert back["param_groups"] == state["param_groups"]
    assert torch.equal(back["state"][0]["exp_avg"], state["state"][0]["exp_avg"])


def test_tensors_are_named_as_in_the_state_dict() -> None:
    tensors, _ = pack(torch.nn.Sequential(torch.nn.Linear(2, 2)).state_dict())
    assert set(tensors) == {"0.weight", "0.bias"}


def test_keys_that_look_alike_do_not_mix_up_their_tensors() -> None:
    tree = {0: torch.tensor(1), "0": torch.tensor(2), "a.b": torch.tensor(3), "a": {"b": torch.tensor(4)}}
    back = round_trip(tree)
    assert [int(back[0]), int(back["0"]), int(back["a.b"]), int(back["a"]["b"])] == [1, 2, 3, 4]


def test_the_name_that_safetensors_keeps_for_itself_is_not_used() -> None:
    tensors, _ = pack({"__metadata__": torch.tensor(1)})
    assert "__metadata__" not in tensors


def test_mappings_of_other_classes_come_back_as_dicts() -> None:
    assert type(round_trip(OrderedDict(a=1))) is dict


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        ({"a": [object()]}, r"object at a\.0"),
        ({"a": {(1, 2): 3}}, "dict key of type tuple at a"),
        (Pair(1), "Pair at its top"),
        ({"words": np.array(["a"])}, "dtype <U1 at words"),
        ({"t": torch.zeros(2, 2).to_sparse()}, "sparse"),
    ],
)
def test_what_cannot_be_saved_is_named_with_its_place(tree: object, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem):
        pack(tree)


@pytest.mark.parametrize("skeleton", [{"tensor": "gone"}, {"unknown": 1}, {"float": "many"}, {"items": [[1]]}])
def test_a_malformed_skeleton_is_a_checkpoint_error(skeleton: Any) -> None:
    with pytest.raises(CheckpointError, match="damaged"):
        unpack({}, skeleton)
