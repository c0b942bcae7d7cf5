"""Data sets: their layouts on disk, the preparation of their tables, and image decoding. Imports no model."""
