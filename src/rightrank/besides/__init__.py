"""What is measured besides the held-out loss: the person's own measure, and what the model forgets."""
