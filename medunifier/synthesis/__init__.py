"""Priors of image codes, and generation of images with them."""
