"""What is known before anything is measured: recorded runs, published rules, cards' published rates. Pure; numbers lie in JSON beside."""
