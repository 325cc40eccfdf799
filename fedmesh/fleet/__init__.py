"""A fleet of real devices: each is a process of its own with its own key, ledger and data, reached over a transport."""
