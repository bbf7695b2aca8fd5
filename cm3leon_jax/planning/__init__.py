"""Will it fit, how fast, how long: compiles the real training step for a TPU pod without the pod."""
