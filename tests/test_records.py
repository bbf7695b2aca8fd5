import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import msgpack
import numpy as np
import pytest

from cm3leon_jax import records
from cm3leon_jax.errors import InputError

arrays = hnp.arrays(st.sampled_from([np.int32, np.float16, np.float32, np.uint8]), hnp.array_shapes(max_dims=3, min_side=0))


@hypothesis.given(st.dictionaries(st.text(max_size=8), st.one_of(st.text(), st.integers(-2**40, 2**40), st.binary(), arrays)))
def test_a_record_comes_back_as_it_was(record):
  back = records.decode(records.encode(record))
  assert back.keys() == record.keys()
  for key, value in record.items():
    if isinstance(value, np.ndarray):
      assert back[key].dtype == value.dtype
      np.testing.assert_array_equal(back[key], value)
    else:
      assert back[key] == value


def test_rows_across_shards_in_the_order_asked(tmp_path):
  for shard, rows in enumerate([[0, 1, 2], [], [3, 4]]):
    assert records.write_shard(tmp_path / records.shard_name("x", shard, 3), ({"i": i} for i in rows)) == len(rows)
  reader = records.Reader(tmp_path, "x")
  assert len(reader) == 5 and [r["i"] for r in reader] == [0, 1, 2, 3, 4]
  assert [r["i"] for r in reader.rows([4, 0, 3, 0])] == [4, 0, 3, 0]
  assert reader[2]["i"] == 2 and [r["i"] for r in reader[1:4]] == [1, 2, 3]
  with pytest.raises(IndexError, match="of 5"):
    reader.rows([5])


def test_foreign_data_is_refused(tmp_path):
  with pytest.raises(InputError, match="no y-"):
    records.Reader(tmp_path, "y")
  with pytest.raises(ValueError, match="extension 9"):
    records.decode(msgpack.packb({"a": msgpack.ExtType(9, b"")}))
  with pytest.raises(TypeError, match="cannot be a set"):
    records.encode({"a": {1}})
