"""What holds the product to its word: measurements, recorded tables and what is scored on them. Not part of the package."""
