"""Loss landscapes: objectives over one flat vector, and what is measured on them."""
