"""State to bytes and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raycl.errors import TornFile
from raycl.trial.checkpoint import TENSORS, decode, encode

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
states = st.dictionaries(
    st.text() | st.integers(),
    st.recursive(
        scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner), max_leaves=12
    ),
)


@settings(deadline=None)  # a busy machine is no failure
@given(states)
def test_nested_state_comes_back_as_it_went(state: dict[Any, Any]) -> None:
    assert decode(encode(state)) == state


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float32, torch.float64, torch.bfloat16])
def test_tensors_keep_type_shape_and_bits(dtype: torch.dtype) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    back = decode(encode({"a": [tensor, tensor[:, ::2]], 3: torch.empty(0, 4)}))
    assert back["a"][0].dtype == dtype
    assert torch.equal(back["a"][0], tensor)
    assert torch.equal(back["a"][1], tensor[:, ::2])
    assert back[3].shape == (0, 4)


def test_arrays_come_back_as_arrays() -> None:
    back = decode(encode({"rows": np.arange(4)[::2]}))
    assert isinstance(back["rows"], np.ndarray)
    assert back["rows"].tolist() == [0, 2]


def test_two_names_for_one_tensor_are_stored_as_two() -> None:
    weight = torch.ones(3)
    files = encode({"network": weight, "teacher": weight})
    back = decode(files)
    back["network"].zero_()
    assert back["teacher"].tolist() == [1, 1, 1]


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="tensors, arrays, numbers"):
        encode({"a": object()})
    with pytest.raises(TypeError, match="keys"):
        encode({(1, 2): 3})


def test_a_torn_checkpoint_says_so() -> None:
    files = encode({"a": torch.ones(100)})
    with pytest.raises(TornFile):
        decode({**files, TENSORS: files[TENSORS][:-10]})
    with pytest.raises(TornFile):
        decode({TENSORS: files[TENSORS]})
