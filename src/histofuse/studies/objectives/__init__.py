"""What a trial of a study measures."""
