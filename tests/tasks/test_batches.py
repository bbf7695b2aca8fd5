import numpy as np

from cm3leon_jax.tasks import batches
from task_samples import VOCABULARY


def test_shift_and_weights():
  image = int(VOCABULARY.image_start)
  windows = {
      "tokens": np.array([[1, 5, image, 1, 6, image, 0]], np.int32),
      "segment_ids": np.array([[1, 1, 1, 2, 2, 1, 0]], np.int32),  # the sixth is a tail of the first sample
      "positions": np.array([[0, 1, 2, 0, 1, 3, 0]], np.int32),
      "loss_weights": np.array([[1, 1, 2, 1, 1, 1, 1]], np.float32),
  }
  batch = batches.to_batch(windows)
  assert tuple(batch) == batches.FEATURES
  np.testing.assert_array_equal(batch["inputs"], [[1, 5, image, 1, 6, image]])
  np.testing.assert_array_equal(batch["targets"], [[5, image, 1, 6, image, 0]])
  # Not across samples (third, fifth), not padding (sixth).
  np.testing.assert_array_equal(batch["loss_weights"], [[1, 2, 0, 1, 0, 0]])
  np.testing.assert_array_equal(batch["segment_ids"], [[1, 1, 1, 2, 2, 1]])
  np.testing.assert_array_equal(batch["positions"], [[0, 1, 2, 0, 1, 3]])
