"""seqio tasks: samples from documents, packing, the CM3 objective, windows and batches."""
