"""Layers and cells on plain arrays: parameters, states, tapes."""
