"""Training: state, optimizer, loss, step, loop, checkpoints, metrics."""
