"""Where packs of configurations are trained."""
