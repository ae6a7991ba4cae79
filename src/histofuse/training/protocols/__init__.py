"""Ways to train again: by fold, as the paper did, on shuffled data."""
