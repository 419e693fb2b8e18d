"""Pictures of real runs: ``python -m figures.gallery runs/wine runs/demo`` draws them."""
