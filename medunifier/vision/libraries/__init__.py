"""Image encoders by the library that they come from; each module loads one kind, and imports its library alone."""
