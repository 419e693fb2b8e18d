"""Pictures of results. Nothing here computes; nothing here imports torch."""
