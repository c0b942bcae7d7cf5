"""Pre-training: pairs of image and report, the four losses, augmentation, and the start from BERT."""
