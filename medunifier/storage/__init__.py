"""How data lie on disk: typed Parquet tables, image parts, feature shards. Knows no stage and no model."""
