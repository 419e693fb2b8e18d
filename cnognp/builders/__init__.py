"""Functions with plain keywords that return a `Method`; ``cnognp.methods`` lists them by name."""
