"""Functions with plain keywords that return a `Method`, for the registry."""
