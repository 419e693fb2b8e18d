"""What the command measures of a run, or of the weights of any model."""
