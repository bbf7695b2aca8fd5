"""Weights from and to public layouts."""
