"""Finding nuclei in whole frames: the network, its training, and how it is scored."""
