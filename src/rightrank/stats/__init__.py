"""What finished runs say: which rank, how sure that is, and what would make it surer. Knows numpy and scipy only."""
