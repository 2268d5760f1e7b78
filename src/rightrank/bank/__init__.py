"""The adapter bank: K adapters over one frozen base, trained and judged at once."""
