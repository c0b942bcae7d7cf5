"""MedUnifier in transformers' form: configuration, model, image processor, processor."""
