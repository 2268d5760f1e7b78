"""Run directories: what they hold, how it is kept whole, and what can be asked of runs that are done."""
