"""Measurements of the project itself: speed, memory, null studies, quantisation."""
