"""A training state as named tensors and a JSON skeleton, and back: no pickle.

The skeleton is plain JSON. Scalars, strings, None and lists stand for themselves; every JSON object is a tag:

    {"float": "inf"}                          a float that JSON cannot hold (inf, -inf, nan)
    {"tuple": [...]}                          a tuple
    {"dict": {...}}                           a dict whose keys are all strings
    {"items": [[key, value], ...]}            any other dict
    {"tensor": NAME, "memory": "channels_last"}   a tensor; `memory` only where it is not plain
    {"array": NAME}, {"scalar": NAME}         a numpy array, a numpy scalar
"""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch

from tuneyard.trainers.errors import CheckpointError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_MEMORY_FORMATS = {"channels_last": torch.channels_last, "channels_last_3d": torch.channels_last_3d}
_SUPPORTED = "dict, list, tuple, int, float, bool, str, None, torch.Tensor, numpy arrays and scalars"


def pack(tree: object) -> tuple[dict[str, torch.Tensor], Json]:
    """Split `tree` into its tensors, named by their place in it, and a skeleton of the rest.

    The tensors are detached but not copied. A mapping of any class comes back as a dict. Two tensors that share their
    memory come back as two tensors with equal values. Raises `CheckpointError` for a value of any other kind.
    """
    tensors: dict[str, torch.Tensor] = {}
    return tensors, _encode(tree, (), tensors)


def unpack(tensors: Mapping[str, torch.Tensor], skeleton: Json) -> Any:
    """The tree that `pack` was given; channels-last tensors get their memory format again.

    Raises `CheckpointError` where the skeleton is malformed or names a tensor that is not there.
    """
    try:
        return _decode(skeleton, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint: its skeleton does not fit its tensors ({error!r}); it is damaged."
        ) from error


def memory_name(tensor: torch.Tensor) -> str:
    """The memory format in which `tensor` lies without holes, where that is not the plain one: "channels_last", say."""
    if not tensor.is_contiguous():
        for name, memory in _MEMORY_FORMATS.items():
            if tensor.dim() == {"channels_last": 4, "channels_last_3d": 5}[name]:
                return name if tensor.is_contiguous(memory_format=memory) else ""
    return ""


def encode_float(value: float) -> Json:
    """`value` in strict JSON, which has no inf and no nan."""
    return float(value) if math.isfinite(value) else {"float": repr(float(value))}


def _encode(value: object, path: tuple[object, ...], tensors: dict[str, torch.Tensor]) -> Json:
    if value is None or type(value) in (bool, int, str):
        return value  # type: ignore[return-value]  # mypy does not narrow by `type(...) in`
    if type(value) is float:
        return encode_float(value)
    if isinstance(value, torch.Tensor):
        return _encode_tensor(value, path, tensors)
    if isinstance(value, np.ndarray | np.generic):
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {kind: _add(tensors, path, _from_numpy(np.asarray(value), path))}
    if isinstance(value, Mapping):
        return _encode_mapping(value, path, tensors)
    if type(value) in (list, tuple):
        nodes = [_encode(item, (*path, index), tensors) for index, item in enumerate(value)]  # type: ignore[arg-type, var-annotated]
        return nodes if type(value) is list else {"tuple": nodes}
    raise _unsupported(path, type(value).__qualname__)


def _encode_mapping(value: Mapping[Any, Any], path: tuple[object, ...], tensors: dict[str, torch.Tensor]) -> Json:
    nodes = [(key, _encode(item, (*path, key), tensors)) for key, item in value.items()]
    if all(type(key) is str for key, _ in nodes):
        return {"dict": dict(nodes)}
    for key, _ in nodes:
        if type(key) not in (str, int, float, bool, type(None)):
            raise _unsupported(path, f"a dict key of type {type(key).__qualname__}")
    return {"items": [[_encode(key, path, tensors), node] for key, node in nodes]}


def _encode_tensor(value: torch.Tensor, path: tuple[object, ...], tensors: dict[str, torch.Tensor]) -> Json:
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise _unsupported(path, f"a tensor of layout {value.layout} on {value.device}")
    memory = memory_name(value)
    node: dict[str, Json] = {"tensor": _add(tensors, path, value.detach())}
    return node | {"memory": memory} if memory else node


def _from_numpy(array: np.ndarray[Any, Any], path: tuple[object, ...]) -> torch.Tensor:
    # A copy: torch takes no read-only arrays, no negative strides, and no foreign byte order.
    native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)
    try:
        return torch.from_numpy(native)
    except TypeError as error:
        raise _unsupported(path, f"a numpy array of dtype {array.dtype}") from error


def _add(tensors: dict[str, torch.Tensor], path: tuple[object, ...], tensor: torch.Tensor) -> str:
    # Names are what any other reader of the file sees, so they are those of the state dict: layer1.0.conv1.weight.
    plain = ".".join(map(str, path)) or "value"
    name, count = plain, 1
    while name in tensors or name == "__metadata__":  # the keys 0 and "0" look alike
        count += 1
        name = f"{plain}#{count}"
    tensors[name] = tensor
    return name


def _unsupported(path: tuple[object, ...], given: str) -> CheckpointError:
    place = ".".join(map(str, path)) or "its top"
    return CheckpointError(f"checkpoint: the state holds {given} at {place}. Allowed: {_SUPPORTED}.")


def _decode(node: Json, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(node, list):
        return [_decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    match node:
        case {"dict": dict(entries)}:
            return {key: _decode(item, tensors) for key, item in entries.items()}
        case {"tuple": list(items)}:
            return tuple(_decode(item, tensors) for item in items)
        case {"items": list(pairs)}:
            return dict(_decode(pair, tensors) for pair in pairs)
        case {"float": str(text)}:
            return float(text)
    return _decode_tensor(node, tensors)


def _decode_tensor(node: dict[str, Json], tensors: Mapping[str, torch.Tensor]) -> Any:
    match node:
        case {"tensor": str(name), "memory": str(memory)}:
            return tensors[name].contiguous(memory_format=_MEMORY_FORMATS[memory])
        case {"tensor": str(name)}:
            return tensors[name]
        case {"array": str(name)}:
            return tensors[name].numpy()
        case {"scalar": str(name)}:
            return tensors[name].numpy()[()]
    raise ValueError(f"unknown tag in {sorted(node)}")
