"""A run on a Cloud TPU slice, through queued resources: asked for, waited for, installed, started, followed.

    python launch/tpu_queued_resource.py up NAME --zone=Z --accelerator_type=v5litepod-256 --spot -- cm3leon train …

| verb | does |
|---|---|
| up | create, then run; machines that are taken away (--spot) are asked for again |
| create | asks for the machines and waits for them |
| run | copies this checkout's last commit, installs it, starts the command on every host, follows host 0 |
| logs | follows host 0 of a run |
| stop | SIGTERM on every host: the run saves its state and ends with exit code 75; `up` and `run` end with it |
| delete | gives the machines back |

The run does not hang on this terminal: after Ctrl-C, or a lost connection, `logs` shows it again. Exit codes of `up`,
`run` and `logs`: the run's own; 75 when it was preempted and may start no more (--retries).
"""

import argparse
import shlex
import sys
import time
from typing import Sequence

import commands
from commands import PREEMPTED, InputError, say

ARCHIVE = "build/cm3leon_jax.tar.gz"
ON_WORKER = ["python3", "launch/on_worker.py"]
# A run that goes on keeps its files. Else what an earlier copy left is removed, but for its .venv.
INSTALL = ("{ ! test -e cm3leon_jax/launch/on_worker.py || python3 cm3leon_jax/launch/on_worker.py idle; } && "
           "mkdir -p cm3leon_jax && cd cm3leon_jax && "
           "find . -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} + && "
           "tar -xzf ../cm3leon_jax.tar.gz && bash launch/install_on_worker.sh")
RUNTIMES = {"v5litepod": "v2-alpha-tpuv5-lite", "v5p": "v2-alpha-tpuv5", "v6e": "v2-alpha-tpuv6e",
            "v4": "tpu-ubuntu2204-base"}
GONE = ("SUSPENDING", "SUSPENDED", "FAILED")  # states of machines that were taken away, or never came
FAILED, STOPPED = 99, 98  # of `on_worker.py verdict`
LOST = 255  # ssh's own exit code: the connection, not the run
POLL_SECONDS = 30
LOST_IN_A_ROW = 20  # times POLL_SECONDS without a connection although the machines are not known to be gone


def parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(prog="launch/tpu_queued_resource.py", description=__doc__.splitlines()[0],
                                   usage="%(prog)s VERB NAME --zone=Z [flags] -- cm3leon train …",
                                   epilog="The table of the verbs stands at the top of the script.")
  parser.add_argument("verb", choices=list(VERBS))
  parser.add_argument("name", metavar="NAME", help="of the queued resource, and of its one node")
  parser.add_argument("--zone", required=True)
  parser.add_argument("--project", default="", help="default: gcloud's own")
  parser.add_argument("--accelerator_type", default="", metavar="T", help="e.g. v5litepod-256 or v5p-128 (up, create)")
  parser.add_argument("--runtime_version", default="", metavar="V", help="default: by the accelerator type")
  kind = parser.add_mutually_exclusive_group()
  kind.add_argument("--spot", action="store_true", help="cheaper, may be taken away at any time")
  kind.add_argument("--reserved", action="store_true", help="from your reservation")
  parser.add_argument("--create_flag", action="append", default=[], metavar="FLAG",
                      help="one more flag of `gcloud … create`, e.g. --create_flag=--network=N; repeat")
  parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable of the run; repeat")
  parser.add_argument("--retries", type=int, default=100, metavar="R", help="how often to start again once preempted")
  commands.add_common(parser)
  return parser.parse_args(argv)


class Slice:
  """The machines, as gcloud commands."""

  def __init__(self, args: argparse.Namespace):
    self.args = args
    self.shell = commands.Shell(args.dry_run)
    self.place = [f"--zone={args.zone}", *([f"--project={args.project}"] if args.project else [])]

  def queued(self, verb: str, *flags: str) -> list[str]:
    return ["gcloud", "compute", "tpus", "queued-resources", verb, self.args.name, *self.place, *flags]

  def ssh(self, script: str, worker: str = "all") -> list[str]:
    """`script` is a whole command line for the remote shell: build it with `remote`."""
    return ["gcloud", "compute", "tpus", "tpu-vm", "ssh", self.args.name, *self.place, f"--worker={worker}",
            f"--command={script}"]

  def describe(self) -> list[str]:
    return self.queued("describe", "--format=value(state.state)")

  def state(self) -> str:
    """ACTIVE, SUSPENDED, …; empty when there is no such queued resource, or gcloud cannot say."""
    return self.shell.read(self.describe())[1]

  def create(self) -> None:
    args = self.args
    if not args.accelerator_type:
      raise InputError(f"{args.verb}: --accelerator_type is missing, e.g. v5litepod-256")
    runtime = args.runtime_version or RUNTIMES.get(args.accelerator_type.rpartition("-")[0])
    if not runtime:
      raise InputError(f"--accelerator_type={args.accelerator_type}: no runtime is known; give --runtime_version")
    tier = ["--spot"] if args.spot else ["--reserved"] if args.reserved else []
    check(self.shell.run(self.queued("create", f"--node-id={args.name}", f"--accelerator-type={args.accelerator_type}",
                                     f"--runtime-version={runtime}", *tier, *args.create_flag)), "create")

  def wait(self) -> None:
    """Until the machines are there: minutes, or days in a full zone."""
    if self.shell.dry_run:
      self.shell.run(self.describe(), note=f"every {POLL_SECONDS} s, until ACTIVE")
      return
    shown = ""
    while (state := self.state()) != "ACTIVE":
      if state in GONE:
        raise InputError(f"{self.args.name} is {state}; `{shlex.join(self.queued('describe'))}` says why; delete it, "
                         "and ask again")
      if state != shown:
        say(f"{self.args.name} is {state or 'not there'}; waiting")
        shown = state
      time.sleep(POLL_SECONDS)

  def delete(self) -> int:
    return self.shell.run(self.queued("delete", "--force", "--quiet"))

  def install(self) -> int:
    """Copies the checkout's last commit to every host and installs it there; the first exit code that is not 0."""
    scp = ["gcloud", "compute", "tpus", "tpu-vm", "scp", ARCHIVE, f"{self.args.name}:", *self.place, "--worker=all"]
    if not self.shell.dry_run:
      (commands.ROOT / ARCHIVE).parent.mkdir(exist_ok=True)
      if self.shell.read(["git", "-C", str(commands.ROOT), "status", "--porcelain"])[1]:
        say("what is not committed does not travel: the last commit runs")
    archive = ["git", "archive", "--format=tar.gz", f"--output={ARCHIVE}", "HEAD"]
    return (self.shell.run(archive, cwd=commands.ROOT) or self.shell.run(scp, cwd=commands.ROOT)
            or self.shell.run(self.ssh(INSTALL)))

  def start(self, replace: bool) -> int:
    """Starts the command on every host; `replace` ends what is left of the start before."""
    words = [*ON_WORKER, "start", *(["--replace"] if replace else []), "--",
             *commands.with_environment(in_checkout(commands.distributed(self.args.command)),
                                        commands.parse_environment(self.args.env))]
    return self.shell.run(self.ssh(remote(words)))

  def follow(self, note: str = "") -> int:
    return self.shell.run(self.ssh(remote([*ON_WORKER, "follow"]), worker="0"), note=note)

  def verdict(self) -> int:
    """FAILED when a host failed by itself (its log is shown), STOPPED after `stop`: no reason to start again."""
    return self.shell.run(self.ssh(remote([*ON_WORKER, "verdict"])))

  def stop(self) -> int:
    return self.shell.run(self.ssh(remote([*ON_WORKER, "stop"])))


def remote(words: Sequence[str]) -> str:
  """A command line for the shell at the other end of ssh, run in the copied checkout."""
  return f"cd cm3leon_jax && {shlex.join(words)}"


def in_checkout(command: Sequence[str]) -> list[str]:
  """`cm3leon` and `python` are those of the environment that was installed beside the code."""
  return [f".venv/bin/{command[0]}" if command[0] in ("cm3leon", "python") else command[0], *command[1:]]


def check(code: int, what: str) -> None:
  if code:
    raise InputError(f"{what} failed with exit code {code}; the reason stands above")


def settled(machines: Slice) -> str:
  """The state of the machines, a moment later: of those that are being taken away it is out of date at first."""
  time.sleep(POLL_SECONDS)
  return machines.state()


def watch(machines: Slice) -> int:
  """Follows a run until it ends or its machines do. A lost connection is taken up again.

  Returns:
    The exit code of host 0; 1 when another host failed; STOPPED after `stop`; PREEMPTED when all may start again, also
    because the machines were taken away or a signal killed the process of host 0.
  """
  for _ in range(LOST_IN_A_ROW):
    code = machines.follow()
    if code == 0:
      return code
    if code == PREEMPTED or 128 < code < LOST:
      return {FAILED: 1, STOPPED: STOPPED}.get(machines.verdict(), PREEMPTED)
    state = settled(machines)
    if state in GONE:
      return PREEMPTED
    if state == "ACTIVE" and code != LOST:
      return code
    say("no connection; once more")
  return LOST


def replace(machines: Slice) -> None:
  """Other machines for those that were taken away."""
  while machines.state() == "SUSPENDING":
    time.sleep(POLL_SECONDS)
  check(machines.delete(), "delete")
  machines.create()
  machines.wait()


def run(machines: Slice, again: bool) -> int:
  """Installs, starts and follows; again and again as long as it is preempted and --retries allows.

  Args:
    machines: there, and idle.
    again: whether machines that were taken away are deleted and asked for again.
  """
  retries = machines.args.retries
  if machines.shell.dry_run:
    machines.install()
    machines.start(replace=False)
    gone = "; if the machines are gone: delete, create, and all that follows" if again else ""
    machines.follow(note=f"on exit code {PREEMPTED}: verdict on all, start --replace, follow; {retries} times{gone}")
    return 0
  check(machines.install(), "install")
  check(machines.start(replace=False), "start")
  code = watch(machines)
  for retry in range(retries):
    if code != PREEMPTED:
      break
    say(f"preempted; start {retry + 2} of at most {retries + 1}")
    if settled(machines) in GONE:
      if not again:
        say("the machines are gone; `delete`, then `up`, asks for them again, and the run goes on from its checkpoint")
        break
      replace(machines)
      check(machines.install(), "install")
    # A start that fails is tried once more, as a preemption: the machines may just be going.
    code = watch(machines) if machines.start(replace=True) == 0 else PREEMPTED
  return PREEMPTED if code == STOPPED else code


def need_command(machines: Slice) -> None:
  """Before anything is asked for: a mistake here must not cost machines."""
  commands.need_command(machines.args.command)
  commands.parse_environment(machines.args.env)


def up(machines: Slice) -> int:
  need_command(machines)
  create(machines)
  return run(machines, again=True)


def create(machines: Slice) -> int:
  machines.create()
  machines.wait()
  return 0


def run_here(machines: Slice) -> int:
  need_command(machines)
  return run(machines, again=False)


VERBS = {"up": up, "create": create, "run": run_here, "logs": Slice.follow, "stop": Slice.stop, "delete": Slice.delete}


def run_verb(args: argparse.Namespace) -> int:
  return VERBS[args.verb](Slice(args))


if __name__ == "__main__":
  sys.exit(commands.main(parse, run_verb))
