"""MaxText's own training step, compiled for a TPU slice without a TPU; run by `pods.py` in a Python that has MaxText.

    pip install "maxtext[tpu]==0.2.5" jax==0.11.1 jaxlib==0.11.1 libtpu==0.0.46     # Python 3.12
    python benchmarks/maxtext_step.py OUT.hlo.txt key=value …

The overrides are those of MaxText's `train_compile`; `compiler_options=NAME:VALUE,…` go to the compiler. Writes the
optimised program, and prints its peak bytes as JSON.
"""

import json
import os
from pathlib import Path
import sys

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


def main(out: str, overrides: list[str]) -> None:
  import maxtext
  from maxtext.trainers.pre_train import train_compile

  compile_step = train_compile.jit_and_compile

  def kept(*args, **kwargs):
    compiled = compile_step(*args, **kwargs)
    Path(out).write_text(compiled.as_text(), encoding="utf-8")
    print(json.dumps({"peak_bytes": compiled.memory_analysis().peak_memory_in_bytes}))
    return compiled

  train_compile.jit_and_compile = kept
  train_compile.main(["train_compile", str(Path(maxtext.__file__).parent / "configs" / "base.yml"), *overrides])


if __name__ == "__main__":
  main(sys.argv[1], sys.argv[2:])
