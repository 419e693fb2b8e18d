"""Pictures drawn from real runs, for the README: ``python -m figures.gallery runs/wine runs/demo``."""
