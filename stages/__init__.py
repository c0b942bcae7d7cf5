"""The pipeline's stages, one file each: read parameters, call the library, write and log."""

import gc

from medunifier.runtime.compiler import import_compiler_late
from medunifier.stage import set_library_defaults

set_library_defaults()  # before a stage's imports load torch, which reads them once
import_compiler_late()
# Importing torch and transformers makes a million objects, none of them garbage: the collector would search them in
# vain for half a second.
gc.set_threshold(10_000)
