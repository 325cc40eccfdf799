"""A federation, simulated or deployed: scenario, data, public start, task and strategy, and the judge of its models."""
