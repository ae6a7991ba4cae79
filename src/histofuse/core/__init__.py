"""Ids, errors, seeding, atomic files, table contracts and bundles."""
