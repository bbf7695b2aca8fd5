"""An open, scale-out implementation of CM3Leon in JAX."""

__version__ = "0.1.0"
