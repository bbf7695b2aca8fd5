"""A run on TPU slices of a GKE cluster: launch/gke_jobset.yaml filled in and applied.

    python launch/gke_jobset.py NAME --image=I --accelerator=tpu-v5-lite-podslice --topology=16x16 --bucket=B \\
        -- cm3leon train …

`--dry_run` prints the manifest, which `kubectl apply --filename=-` would get. Restarts are the JobSet's: exit code 75
and lost nodes start it again, exit codes 1 and 2 end it.
"""

import argparse
import math
import re
import sys
from typing import Sequence

import commands
from commands import InputError

MANIFEST = commands.ROOT / "launch" / "gke_jobset.yaml"


def parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(prog="launch/gke_jobset.py", description=__doc__.splitlines()[0],
                                   usage="%(prog)s NAME --image=I --accelerator=A --topology=T --bucket=B -- CMD…")
  parser.add_argument("name", metavar="NAME", help="of the JobSet: lower-case letters, digits and -")
  parser.add_argument("--image", required=True, help="built from launch/Dockerfile with ACCELERATOR=tpu")
  parser.add_argument("--accelerator", required=True, metavar="A",
                      help="the node pool's, e.g. tpu-v5-lite-podslice, tpu-v5p-slice, tpu-v6e-slice")
  parser.add_argument("--topology", required=True, metavar="T", help="of one slice, e.g. 16x16 or 4x4x4")
  parser.add_argument("--bucket", required=True, metavar="B",
                      help="a bucket whose files the run sees, read-only, below /gcs")
  parser.add_argument("--service_account", default="default", metavar="K",
                      help="of Kubernetes, with access to the bucket")
  parser.add_argument("--chips_per_host", type=int, default=4)
  parser.add_argument("--slices", type=int, default=1)
  parser.add_argument("--spot", action="store_true", help="on a node pool of Spot VMs")
  parser.add_argument("--namespace", default="", help="default: that of kubectl's context")
  parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable of the run; repeat")
  parser.add_argument("--max_restarts", type=int, default=100)
  commands.add_common(parser)
  return parser.parse_args(argv)


def _yaml():
  try:
    import yaml
  except ImportError as error:
    raise InputError("PyYAML is missing: run this with .venv/bin/python (make setup)") from error
  return yaml


def hosts(topology: str, chips_per_host: int) -> int:
  """Hosts of a slice: 16x16 with 4 chips a host has 64."""
  if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", topology):
    raise InputError(f"--topology={topology}: give the chips of each dimension, e.g. 16x16 or 4x4x4")
  chips = math.prod(map(int, topology.split("x")))
  if chips_per_host < 1 or chips % chips_per_host:
    raise InputError(f"--topology={topology}: its {chips} chips are no whole number of hosts of {chips_per_host} "
                     "(--chips_per_host)")
  return chips // chips_per_host


def manifest(args: argparse.Namespace) -> dict:
  """The JobSet. The template is parsed and its fields are set, so no value can become anything but a value."""
  jobset = _yaml().safe_load(MANIFEST.read_text(encoding="utf-8"))
  jobset["metadata"]["name"] = args.name
  jobset["spec"]["failurePolicy"]["maxRestarts"] = args.max_restarts
  replicated = jobset["spec"]["replicatedJobs"][0]
  replicated["replicas"] = args.slices
  job = replicated["template"]["spec"]
  job["parallelism"] = job["completions"] = hosts(args.topology, args.chips_per_host)
  pod = job["template"]["spec"]
  pod["nodeSelector"] = {"cloud.google.com/gke-tpu-accelerator": args.accelerator,
                         "cloud.google.com/gke-tpu-topology": args.topology,
                         **({"cloud.google.com/gke-spot": "true"} if args.spot else {})}
  pod["serviceAccountName"] = args.service_account
  pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] = args.bucket
  container = pod["containers"][0]
  # Kubernetes itself expands $(NAME) in a command and in variables; $$ stands for one $.
  literal = lambda text: text.replace("$", "$$")
  container["image"] = args.image
  container["command"] = [literal(word) for word in commands.distributed(args.command)]
  variables = commands.parse_environment(args.env)
  if variables:
    container["env"] = [{"name": name, "value": literal(value)} for name, value in variables.items()]
  container["resources"]["limits"]["google.com/tpu"] = args.chips_per_host
  return jobset


def run(args: argparse.Namespace) -> int:
  if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", args.name):
    raise InputError(f"{args.name}: Kubernetes wants a name of lower-case letters, digits and -, at most 40 long")
  commands.need_command(args.command)
  if args.slices < 1 or args.max_restarts < 0:
    raise InputError("--slices must be at least 1, --max_restarts at least 0")
  text = _yaml().safe_dump(manifest(args), sort_keys=False, width=120)
  namespace = [f"--namespace={args.namespace}"] if args.namespace else []
  apply = ["kubectl", "apply", *namespace, "--filename=-"]
  if args.dry_run:
    print("# ", end="")
    commands.Shell(dry_run=True).run(apply)
    print(text, end="")
    return 0
  return commands.Shell(dry_run=False).run(apply, stdin=text)


if __name__ == "__main__":
  sys.exit(commands.main(parse, run))
