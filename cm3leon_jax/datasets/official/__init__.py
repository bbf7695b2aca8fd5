"""Readers of evaluation sets in their official files; each gives `items.Item`s."""
