"""The sections of params.yaml: each parameter with its type, limits, unit and one sentence."""
