"""Clinical features, encoding, stain normalisation, augmentation and pairing."""
