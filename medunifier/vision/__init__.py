"""Image features: the frozen encoder, cached shards, features computed on the fly."""
