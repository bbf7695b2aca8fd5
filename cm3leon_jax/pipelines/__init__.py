"""The offline jobs as Apache Beam pipelines: tokenize, embed, index, neighbours."""
