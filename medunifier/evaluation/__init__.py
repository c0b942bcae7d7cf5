"""Evaluation of trained models: loading, images and texts to embeddings, classification, retrieval, reports."""
