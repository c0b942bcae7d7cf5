"""The phantom: procedural radiographs and their reports, written in the layouts of real data sets."""
