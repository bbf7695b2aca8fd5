"""`cm3leon eval <kind>`: thin; each kind calls one function of evaluation/."""

import argparse
from typing import Callable


def _captions(kinds) -> Callable:
  parser = kinds.add_parser("captions", help="CIDEr-D, BLEU-1..4, ROUGE-L, and with Java METEOR and SPICE")
  parser.add_argument("--predictions", required=True, help="results.json: [{image_id, caption}]")
  parser.add_argument("--references", required=True, help="captions.json: COCO annotations, or paragraphs_v1.json")
  parser.add_argument("--split", default="", help="JSON list of the image ids to score; default: all of the references")
  parser.add_argument("--metrics", default="cider,bleu,rouge_l", help="also meteor, spice (need Java); default: %(default)s")
  parser.add_argument("--tokenizer", choices=["rules", "ptb"], default="rules", help="ptb: Stanford's, needs Java")
  _files(parser)

  def run(args) -> dict:
    from cm3leon_jax.evaluation import captions

    return captions.evaluate_captions(args.predictions, args.references, args.json, split=args.split,
                                      metrics=[name for name in args.metrics.split(",") if name],
                                      tokenizer=args.tokenizer, allow_missing=args.allow_missing)

  return run


def _fid(kinds) -> Callable:
  parser = kinds.add_parser("fid", help="Fréchet distance between two sets of pictures or features")
  parser.add_argument("--generated", required=True, help="folder of pictures, or .npz of `features` or of `mu` and `sigma`")
  parser.add_argument("--reference", required=True, help="the same")
  parser.add_argument("--weights", default="", help="InceptionV3 file of pytorch-fid, or `efficientnet-lite0`")
  parser.add_argument("--variant", default="pytorch-fid", choices=["pytorch-fid", "clean"],
                      help="whose resize InceptionV3 gets: pytorch-fid's, or clean-fid's (then the key is clean_fid)")
  parser.add_argument("--infinity", action="store_true", help="extrapolate the distance to infinitely many pictures")
  parser.add_argument("--nearest_k", type=int, default=5, metavar="K", help="neighbour of precision, recall, density, coverage (5)")
  parser.add_argument("--cache", default="", metavar="D",
                      help="folder that keeps features (CM3LEON_CACHE, or ~/.cache/cm3leon_jax/features)")
  parser.add_argument("--clip", default="", metavar="D", help="folder of a CLIP: also CMMD; without --weights, CMMD alone")
  _json(parser)

  def run(args) -> dict:
    from cm3leon_jax.evaluation import fid

    distances = {}
    if args.clip:
      from cm3leon_jax.evaluation import cmmd

      distances = cmmd.evaluate_cmmd(args.generated, args.reference, args.clip, args.json, cache=args.cache)
      if not args.weights:
        return distances
    result = distances | fid.evaluate_fid(args.generated, args.reference, args.weights, args.json, variant=args.variant,
                                          cache=args.cache, nearest_k=args.nearest_k, extrapolate=args.infinity)
    if args.clip and args.json:
      from cm3leon_jax.evaluation import files

      files.write_json(args.json, result)
    return result

  return run


def _vqa(kinds) -> Callable:
  parser = kinds.add_parser("vqa", help="accuracy on VQA, OK-VQA and VizWiz, official rules")
  parser.add_argument("--predictions", required=True, help="[{question_id, answer}]; of VizWiz [{image, answer}]")
  parser.add_argument("--references", required=True, help="the official annotations file; its form decides the rule")
  _files(parser)

  def run(args) -> dict:
    from cm3leon_jax.evaluation import vqa

    return vqa.evaluate_vqa(args.predictions, args.references, args.json, allow_missing=args.allow_missing)

  return run


def _run(kinds) -> Callable:
  parser = kinds.add_parser("run", help="a whole protocol: generate, re-rank, score, report; run again to go on")
  parser.add_argument("--gin_file", action="append", required=True, metavar="F", help="configs/evaluation/…; repeat to add")
  parser.add_argument("--checkpoint", required=True, metavar="C", help="a run folder, or a released checkpoint")
  parser.add_argument("--workdir", required=True, metavar="W", help="of this protocol and checkpoint alone")
  parser.add_argument("--index", default="", metavar="I", help="folder of the retrieval index; default: the checkpoint's own")
  parser.add_argument("--num_processes", type=int, default=1, metavar="N", help="that share the items, over one W")
  parser.add_argument("--process_id", type=int, default=0, metavar="I", help="0 … N-1; process 0 scores")
  parser.epilog = "--gin.NAME=VALUE overrides a binding, e.g. --gin.Protocol.limit=100"
  _files(parser)

  def run(args) -> dict:
    from cm3leon_jax import config
    from cm3leon_jax.evaluation import files
    from cm3leon_jax.evaluation.run import run as evaluation

    config.load(args.gin_file, args.gin_bindings)
    result = evaluation.run(config.configured("Protocol"), args.checkpoint, args.workdir,
                            operative=config.operative, index=args.index, process=args.process_id,
                            processes=args.num_processes, allow_missing=args.allow_missing)
    if args.json and result:
      files.write_json(args.json, result)
    return result

  return run


def _contamination(kinds) -> Callable:
  parser = kinds.add_parser("contamination", help="evaluation pictures and captions found in the index and the corpus")
  parser.add_argument("--gin_file", action="append", required=True, metavar="F", help="configs/evaluation/…; its items")
  parser.add_argument("--index", required=True, metavar="I", help="folder of the retrieval index, with its documents beside it")
  parser.add_argument("--corpus", default="", metavar="D", help="D/corpus, to compare with the training pictures' pixels too")
  parser.add_argument("--cosine", type=float, default=0.97, metavar="C", help="of CLIP, from which pictures are near (0.97)")
  parser.add_argument("--out", default="", metavar="P", help="a PNG of the most similar pairs")
  parser.epilog = "--gin.NAME=VALUE overrides a binding, e.g. --gin.Protocol.limit=100"
  _json(parser)

  def run(args) -> dict:
    from cm3leon_jax import config
    from cm3leon_jax.evaluation import contamination_report

    config.load(args.gin_file, args.gin_bindings)
    return contamination_report.evaluate_contamination(config.configured("Protocol").items, args.index, args.corpus,
                                                       args.json, args.out, cosine=args.cosine)

  return run


def _visdial(kinds) -> Callable:
  parser = kinds.add_parser("visdial", help="NDCG of ranked answers; with the dialogues also MRR, R@1/5/10, mean rank")
  parser.add_argument("--predictions", required=True, help="[{image_id, round_id, ranks}], as the challenge's server takes")
  parser.add_argument("--references", required=True, help="dense annotations: [{image_id, round_id, gt_relevance}]")
  parser.add_argument("--dialogs", default="", help="visdial_1.0_val.json: score the given answer of every round too")
  _files(parser)

  def run(args) -> dict:
    from cm3leon_jax.evaluation import visdial

    return visdial.evaluate_visdial(args.predictions, args.references, args.json, dialogs=args.dialogs,
                                    allow_missing=args.allow_missing)

  return run


def _scienceqa(kinds) -> Callable:
  parser = kinds.add_parser("scienceqa", help="share of right choices, with the breakdown of the official table")
  parser.add_argument("--predictions", required=True, help="{question id: number, letter or text}")
  parser.add_argument("--references", required=True, help="the official problems.json")
  parser.add_argument("--split", default="test", help="which of its problems (%(default)s)")
  _files(parser)

  def run(args) -> dict:
    from cm3leon_jax.evaluation import scienceqa

    return scienceqa.evaluate_scienceqa(args.predictions, args.references, args.json, split=args.split,
                                        allow_missing=args.allow_missing)

  return run


def _json(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--json", default="", metavar="O", help="where the numbers go")


def _files(parser: argparse.ArgumentParser) -> None:
  """Flags of every kind that compares answers with a file of references."""
  parser.add_argument("--allow_missing", action="store_true", help="score what is there, and say the share in the result")
  _json(parser)


def _compare(kinds) -> Callable:
  parser = kinds.add_parser("compare", help="two or more results of `eval run`: may they be compared, and how they differ")
  parser.add_argument("results", nargs="+", metavar="W", help="workdirs, or their result.json; the first is the baseline")
  parser.add_argument("--html", default="", metavar="F", help="a page that shows them side by side")
  parser.add_argument("--force", action="store_true", help="the differences of results that are not comparable too")
  _json(parser)

  def run(args) -> dict:
    from cm3leon_jax.evaluation.run import compare

    return compare.compare(args.results, args.json, args.html, args.force)

  return run


KINDS = (_captions, _fid, _vqa, _visdial, _scienceqa, _run, _contamination, _compare)


def add(sub):
  """The verb's parser, and the function that runs it."""
  parser = sub.add_parser("eval", help="metrics on files: captions, pictures, answers")
  kinds = parser.add_subparsers(dest="kind", required=True)
  runs = {make.__name__.removeprefix("_"): make(kinds) for make in KINDS}

  def run(args) -> None:
    from cm3leon_jax.evaluation import files

    if args.json:
      files.check_writable(args.json)
    for key, value in runs[args.kind](args).items():
      print(f"{key}\t{value}")

  return parser, run
