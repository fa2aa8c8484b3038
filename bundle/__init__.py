"""After training: a run folder becomes a MONAI bundle that others can use (``python -m bundle``)."""
