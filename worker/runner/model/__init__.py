"""A model as its layers: what they may say, which shapes they make, what ends them."""
