"""What is written equals, byte for byte, what the safetensors library writes."""

import io

import numpy as np
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cache.format.safetensors_writer import Tensor, write_safetensors

DTYPES = ["?", "u1", "i1", "<i2", "<u2", "<f2", "<i4", "<u4", "<f4", "<f8", "<i8", "<u8"]

TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(TENSORS)
def test_the_bytes_are_the_librarys(tensors: dict[str, np.ndarray]) -> None:
    file = io.BytesIO()
    write_safetensors(file, {name: Tensor.of(array) for name, array in tensors.items()})
    assert file.getvalue() == safetensors.numpy.save(tensors)


def test_an_array_that_is_not_contiguous_or_big_endian_is_written_by_value() -> None:
    file = io.BytesIO()
    tensors = {"a": np.arange(12).reshape(3, 4).T, "b": np.arange(3, dtype=">i4")}
    write_safetensors(file, {name: Tensor.of(array) for name, array in tensors.items()})
    read = safetensors.numpy.load(file.getvalue())
    assert all(np.array_equal(read[name], tensors[name]) for name in tensors)
