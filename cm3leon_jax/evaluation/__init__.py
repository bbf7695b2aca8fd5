"""Metrics, each a file of its own; protocols that join them; the report page."""
