"""Metrics on arrays and texts, with bootstrap confidence intervals."""
