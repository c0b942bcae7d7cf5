"""Planning and running the stages of dvc.yaml; knows nothing about data or models.

Snakemake plans and dispatches, DVC caches and records. Snakemake never sees a stage's real files: it tracks
one stamp per stage (.state/stamps), and DVC alone says which stamps still hold (`plan`).
"""
