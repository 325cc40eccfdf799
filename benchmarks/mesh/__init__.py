"""A mesh without a server, as real processes: messages, failures, a model's way, and what an idle member takes."""
