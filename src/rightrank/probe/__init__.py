"""The probe: what to measure next, at what price, and the table of what was measured."""
