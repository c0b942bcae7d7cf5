"""The pipeline's stages, one file each: read parameters, call the library, write and log."""

from medunifier.stage import set_library_defaults

set_library_defaults()  # before a stage's imports load torch, which reads them once
