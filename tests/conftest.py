"""Eight fake CPU devices for every test, set before JAX is imported; caches away from the user's own."""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

_CACHE = tempfile.TemporaryDirectory(prefix="cm3leon_cache_")  # removed when the tests end
os.environ["CM3LEON_CACHE"] = _CACHE.name
