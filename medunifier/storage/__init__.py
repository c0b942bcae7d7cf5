"""Storage formats: typed Parquet tables, image parts and memory-mapped rows. Imports no stage and no model."""
