"""Losses: the contrastive loss and its local blocks, supervised losses, and losses on pseudo-labels."""
