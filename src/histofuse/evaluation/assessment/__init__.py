"""Whether probabilities can be used: calibration, decisions, prediction sets, subgroups."""
