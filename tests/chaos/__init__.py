"""Random faults against a real cluster, and an independent judge of what became of its jobs."""
