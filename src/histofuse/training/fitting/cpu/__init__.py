"""What makes training fast on CPUs."""
