"""Runs one import or export and prints how far its resident memory rose, in bytes, as the last line:

    python tests/weights/measure_memory.py export|import FORMAT FROM TO SHARD_SIZE
"""

from pathlib import Path
import sys


def now() -> int:
  """Resident bytes."""
  return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def highest() -> int:
  """The most resident bytes since the mark was reset."""
  line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
  return int(line.split()[1]) * 1024


def main(verb: str, layout: str, source: str, out: str, shard_size: str) -> None:
  from cm3leon_jax.weights import exporter, importer

  Path("/proc/self/clear_refs").write_text("5")  # the mark starts from here, behind the imports
  before = now()
  if verb == "export":
    exporter.export(source, out, layout, shard_size=shard_size)
  else:
    importer.import_(source, out, layout)
  print(highest() - before)


if __name__ == "__main__":
  main(*sys.argv[1:])
