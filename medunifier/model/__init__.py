"""The trainable network: Q-Former, text head, image generator, report decoding. Reads no files."""
