"""Maps of image networks, and tests of them."""
