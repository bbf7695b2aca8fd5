"""The whole of an evaluation protocol: generate, score, report, compare."""
