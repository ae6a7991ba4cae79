"""Methods of fusion at patient level, one file each, behind one interface."""
