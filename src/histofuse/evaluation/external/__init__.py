"""How a model does on another data set, and how far that lies from the one it learnt from."""
