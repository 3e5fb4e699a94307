"""Grids of runs, their resumable runner, and the store of what they found."""
