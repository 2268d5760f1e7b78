"""What a person sees: the terminal (``terminal.py``) and the page (``page.py``), from a recommendation alone, without torch."""
