"""Runs of one shape share their compiled steps: compiling is most of these tests' time."""

import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
  names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
  before = {name: getattr(jax.config, name) for name in names}
  for name, value in zip(names, (str(tmp_path_factory.mktemp("compiled")), 0)):
    jax.config.update(name, value)
  yield
  for name, value in before.items():
    jax.config.update(name, value)
