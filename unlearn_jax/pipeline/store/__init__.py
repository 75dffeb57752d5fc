"""Storage: artifacts, locks, hosts and content keys."""
