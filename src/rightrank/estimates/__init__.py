"""What can be said without training: ``rightrank estimate`` and ``rightrank check``."""
