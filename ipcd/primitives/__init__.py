"""What the daemon keeps by name, for any process of any node: queues, locks, values, ..."""
