"""Faults that no server can be made to show by itself."""
