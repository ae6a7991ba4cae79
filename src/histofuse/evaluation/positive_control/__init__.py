"""Whether fusion gains where there is something to gain: docs/positive_control.md."""
