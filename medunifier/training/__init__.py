"""The training loop and its parts: recipe, optimizer, batch order, checkpoints, throughput, interruption."""
