"""A list of stages to trained weights, over transformers.Trainer and Accelerate."""
