"""`cm3leon import` and `cm3leon export`: thin; each format calls one function of weights/."""

_IMPORTS = ("opt", "chameleon", "metaseq", "clip", "vqgan")
_EXPORTS = ("opt", "chameleon")


def add_import(sub):
  """The verb's parser, and the function that runs it."""
  parser = sub.add_parser("import", help="weights in a public layout → a checkpoint of ours")
  parser.add_argument("--format", required=True, choices=_IMPORTS, help="the layout of --source")
  parser.add_argument("--source", required=True, metavar="S", help="the public model: its folder, or file")
  parser.add_argument("--out", required=True, metavar="D", help="folder to write; run again to go on after a kill")
  parser.add_argument("--like", default="", metavar="M", help="a folder with model.json, whose vocabulary, layout and "
                      "tokenizers the model has; not needed for what export wrote")
  parser.add_argument("--vocabulary", default="", metavar="F", help="clip only: the vocabulary file of the text encoder")
  parser.add_argument("--activation", default="", metavar="A", help="clip only: quick_gelu or gelu, where no file says")
  parser.add_argument("--image_size", type=int, default=256, metavar="N", help="vqgan only: pixels a side of the pictures")

  def run(args) -> None:
    if args.format == "clip":
      from cm3leon_jax.weights import clip

      _show(clip.import_clip(args.source, args.out, vocabulary=args.vocabulary, activation=args.activation))
    elif args.format == "vqgan":
      from cm3leon_jax.weights import vqgan

      _show(vqgan.import_vqgan(args.source, args.out, args.image_size))
    elif args.format == "metaseq":
      from cm3leon_jax.weights import metaseq

      metaseq.import_metaseq(args.source, args.out, args.like)
    else:
      from cm3leon_jax.weights import importer

      importer.import_(args.source, args.out, args.format, like=args.like)

  return parser, run


def _show(fields: dict) -> None:
  for key, value in fields.items():
    print(f"{key}\t{value}")


def add_export(sub):
  """The verb's parser, and the function that runs it."""
  parser = sub.add_parser("export", help="a checkpoint of ours → weights in a public layout")
  parser.add_argument("--format", required=True, choices=_EXPORTS, help="the layout to write")
  parser.add_argument("--checkpoint", required=True, metavar="C", help="a run folder, or a released checkpoint")
  parser.add_argument("--out", required=True, metavar="D", help="folder to write; run again to go on after a kill")
  parser.add_argument("--dtype", default="", choices=["", "float32", "float16", "bfloat16"], help="default: as stored")
  parser.add_argument("--shard_size", default="5GB", metavar="N", help="the most bytes of a file: 5GB, 500MB, …")

  def run(args) -> None:
    from cm3leon_jax.weights import exporter

    exporter.export(args.checkpoint, args.out, args.format, dtype=args.dtype, shard_size=args.shard_size)

  return parser, run
