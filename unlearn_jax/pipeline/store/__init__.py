"""What is stored: artifacts, locks, hosts and content keys."""
