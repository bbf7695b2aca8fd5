"""`cm3leon <verb>`: thin; each verb calls one function of one folder.

Exit codes: 0 done; 1 the input was wrong (one sentence on stderr; `--debug` shows the
traceback); 75 saved on preemption, run again to go on.
"""

import argparse
import glob
import logging
import os
import sys
from typing import Callable, Sequence

from cm3leon_jax import cli_eval, cli_weights
from cm3leon_jax.errors import InputError

Run = Callable[[argparse.Namespace], int | None]


def _gin_flags(parser: argparse.ArgumentParser, required: bool = True) -> None:
  parser.add_argument("--gin_file", action="append", required=required, default=[], metavar="F",
                      help="a run file; repeat to add more (shipped ones: configs/runs/…)")
  parser.epilog = "--gin.NAME=VALUE overrides a binding, e.g. --gin.train.steps=10"


def _demo(sub) -> Run:
  parser = sub.add_parser("demo", help="the quickstart: from drawings to a page of generated pictures")
  parser.add_argument("--workdir", required=True, help="everything is written here; run again to go on")
  parser.add_argument("--quick", action="store_true", help="every stage in a few minutes; the pictures are poor")
  parser.add_argument("--fresh", action="store_true", help="train tokenizers and CLIP too, instead of the shipped ones")
  parser.add_argument("--until", default="", metavar="STAGE", help="stop after this stage")

  def run(args):
    from cm3leon_jax.demo import stages

    stages.run(args.workdir, quick=args.quick, fresh=args.fresh, until=args.until)

  return parser, run


def _train(sub) -> Run:
  parser = sub.add_parser("train", help="pretraining or supervised fine-tuning")
  _gin_flags(parser)
  parser.add_argument("--workdir", required=True, help="checkpoints, metrics.jsonl and TensorBoard go here")
  parser.add_argument("--data", default="", metavar="D", help="folder made by `cm3leon data build`; default: gin's train.data")
  parser.add_argument("--profile_steps", default="", metavar="A:B", help="trace steps A to B into WORKDIR/profile")
  several = parser.add_argument_group("several processes", "by these three, or --distributed where the cluster is known")
  several.add_argument("--coordinator", default="", metavar="HOST:PORT", help="where process 0 listens")
  several.add_argument("--num_processes", type=int, metavar="N")
  several.add_argument("--process_id", type=int, metavar="I", help="0 … N-1")
  several.add_argument("--distributed", action="store_true", help="find the others: TPU pods, SLURM, GKE, Open MPI")

  def run(args):
    from cm3leon_jax.sharding import processes

    with processes.joined(args.coordinator, args.num_processes, args.process_id, args.distributed):
      from cm3leon_jax import config, train  # after joining: nothing may ask JAX for its devices before

      config.load(args.gin_file, args.gin_bindings)
      return train.main(args.workdir, data=args.data, profile_steps=args.profile_steps)

  return parser, run


def _generate(sub) -> Run:
  parser = sub.add_parser("generate", help="pictures from text, text from pictures, infills, edits")
  parser.add_argument("--checkpoint", required=True, metavar="C", help="a run folder, or a released checkpoint")
  parser.add_argument("--task", required=True, choices=["text_to_image", "image_to_text", "vqa", "infill", "edit"])
  parser.add_argument("--text", default="", help="prompt, question or edit instruction")
  parser.add_argument("--prompts", default="", metavar="F", help="a file with one prompt a line, instead of --text")
  parser.add_argument("--image", default="", metavar="P", help="an input picture")
  parser.add_argument("--region", default="", metavar="x0,y0,x1,y1", help="pixels to fill in")
  parser.add_argument("--docs", type=int, default=0, metavar="K", help="retrieved documents to condition on")
  parser.add_argument("--index", default="", metavar="I", help="folder of the retrieval index; default: the checkpoint's own")
  parser.add_argument("--candidates", type=int, default=1, metavar="N", help="samples per prompt, best first by CLIP")
  parser.add_argument("--guidance", type=float, metavar="S", help="classifier-free guidance scale; default: the task's")
  parser.add_argument("--temperature", type=float, help="default: the task's")
  parser.add_argument("--top_p", type=float, help="default: the task's")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--jacobi", type=int, default=0, metavar="W",
                      help="guess and check W image tokens a forward pass, e.g. 16: the same pictures in fewer passes")
  parser.add_argument("--out", required=True, metavar="D", help="folder for PNGs and generations.jsonl")

  def run(args):
    from cm3leon_jax import generate

    fields = {k: v for k, v in vars(args).items() if k not in ("debug", "gin_bindings", "verb", "run")}
    generate.generate(**fields)

  return parser, run


def _data(sub) -> Run:
  parser = sub.add_parser("data", help="the offline pipelines")
  parser.add_argument("stage", choices=["corpus", "tokenize", "embed", "index", "neighbours", "windows", "build",
                                         "examples", "mixture"],
                      help="`build` runs all that is not there yet; `examples` and `mixture` make fine-tuning data")
  _gin_flags(parser)
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--beam", action="append", default=[], metavar="FLAG", help="a flag for Beam, e.g. --beam=--runner=…")

  def run(args):
    from cm3leon_jax import config

    config.load(args.gin_file, args.gin_bindings)
    bound = "SFT" if args.stage in ("examples", "mixture") else "Pipelines"
    config.configured(bound).run(args.stage, args.workdir, args.beam)

  return parser, run


def _search(sub) -> Run:
  parser = sub.add_parser("search", help="what the retriever finds, as text and as a picture")
  parser.add_argument("--index", required=True, metavar="I")
  query = parser.add_mutually_exclusive_group(required=True)
  query.add_argument("--text", default="")
  query.add_argument("--image", default="", metavar="P")
  parser.add_argument("-k", type=int, default=8)
  parser.add_argument("--out", default="", metavar="PNG", help="contact sheet of what was found")
  parser.add_argument("--explain", action="store_true", help="which candidates the selection rules dropped, and why")

  def run(args):
    from cm3leon_jax.retrieval import search

    search.main(args.index, text=args.text, image=args.image, k=args.k, out=args.out, explain=args.explain)

  return parser, run


def _plan(sub) -> Run:
  parser = sub.add_parser("plan", help="will it fit, how fast, how long: compiles the training step for a TPU slice, without one")
  _gin_flags(parser)
  parser.add_argument("--topology", required=True, metavar="T", help="a TPU slice, e.g. v5e:16x16, or GPU nodes, e.g. h100:32x8")
  parser.add_argument("--analytic", action="store_true", help="from shapes alone, in seconds; for GPUs the only way")
  parser.add_argument("--search", action="store_true", help="try remat policies, rows at once and tensor axes")
  parser.add_argument("--hlo", default="", metavar="F", help="where the compiled program's text goes")
  parser.add_argument("--json", default="", metavar="O", help="where the figures go")

  def run(args):
    from cm3leon_jax import config, plan

    config.load(args.gin_file, args.gin_bindings)
    plan.main(args.topology, args.json, analytic=args.analytic, search=args.search, hlo=args.hlo)

  return parser, run


def _inspect(sub) -> Run:
  parser = sub.add_parser("inspect", help="shows any record between two boxes")
  kinds = parser.add_subparsers(dest="kind", required=True)
  task = kinds.add_parser("task", help="real examples of a task or mixture, readable")
  task.add_argument("name", metavar="NAME", help="task or mixture, e.g. emoji_retrieval_pretrain")
  task.add_argument("--workdir", required=True, help="folder made by `cm3leon data build` or by the demo")
  task.add_argument("-n", type=int, default=3, help="examples")
  task.add_argument("--seed", type=int, default=0)
  task.add_argument("--out", default="", metavar="D", help="folder for the pictures")
  _gin_flags(task, required=False)
  mixture = kinds.add_parser("mixture", help="a fine-tuning mixture before training: rows, tokens, repetitions, masks")
  _gin_flags(mixture)
  mixture.add_argument("--workdir", required=True, help="folder made by `cm3leon data examples`")
  corpus = kinds.add_parser("corpus", help="a corpus' card: counts, what was left out and why, captions, a contact sheet")
  corpus.add_argument("--workdir", required=True, help="folder in which `cm3leon data corpus` or the demo made it")
  corpus.add_argument("-n", type=int, default=36, help="pictures on the sheet")
  corpus.add_argument("--out", default="", metavar="D", help="folder for corpus.md and corpus.png; default: workdir/corpus_card")
  checkpoint = kinds.add_parser("checkpoint", help="sizes, step and tokenizers of a checkpoint")
  checkpoint.add_argument("checkpoint", metavar="C")
  shardings = kinds.add_parser("shardings", help="where every array of a run lies on its mesh, and its bytes a device")
  _gin_flags(shardings)
  shardings.add_argument("--devices", type=int, required=True, metavar="N")
  items = kinds.add_parser("items", help="what a protocol asks: items of an evaluation set, with their pictures")
  _gin_flags(items, required=False)
  items.add_argument("--reader", default="", metavar="NAME", help="e.g. CocoKarpathy; default: the gin file's Protocol.items")
  items.add_argument("-n", type=int, default=5, help="items shown")
  items.add_argument("--out", default="", metavar="D", help="folder for items.png, a contact sheet")
  config_ = kinds.add_parser("config", help="a gin file with everything it includes, as it would run")
  _gin_flags(config_)

  def run(args):
    from cm3leon_jax import inspection

    getattr(inspection, args.kind)(args)

  return parser, run


VERBS = {"demo": _demo, "train": _train, "generate": _generate, "eval": cli_eval.add, "data": _data, "search": _search,
         "inspect": _inspect, "plan": _plan, "import": cli_weights.add_import, "export": cli_weights.add_export}


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, Run]]:
  parser = argparse.ArgumentParser(prog="cm3leon", description=__doc__.splitlines()[0])
  parser.add_argument("--debug", action="store_true", help="show the traceback of an input error")
  sub = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
  runs = {}
  for name, make in VERBS.items():
    _, runs[name] = make(sub)
  return parser, runs


def main(argv: Sequence[str] | None = None) -> int:
  """Entry point of the `cm3leon` command; returns the exit code."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # libraries' warnings are for our developers, not for users
  logging.getLogger().setLevel(logging.ERROR)
  if not any(glob.glob(device) for device in ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia[0-9]*")):
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # else JAX looks for a TPU through libtpu, slowly and loudly
  argv = list(sys.argv[1:] if argv is None else argv)
  debug = "--debug" in argv
  bindings = [a.removeprefix("--gin.") for a in argv if a.startswith("--gin.")]
  parser, runs = build_parser()
  args = parser.parse_args([a for a in argv if a != "--debug" and not a.startswith("--gin.")])
  if bindings and "gin_file" not in vars(args):
    parser.error(f"--gin.{bindings[0]}: `cm3leon {args.verb}` reads no gin file")
  args.gin_bindings = bindings
  try:
    return runs[args.verb](args) or 0
  except InputError as error:
    if debug:
      raise
    print(f"cm3leon: {error}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print("\ncm3leon: stopped; what was finished is kept, run the same command to go on", file=sys.stderr)
    return 130


if __name__ == "__main__":
  sys.exit(main())
