"""What trains a model: `base` says what a trainer is, `choice` which one a job gets."""
