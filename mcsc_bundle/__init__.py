"""What ships inside every packed bundle: plan, transforms, networks, losses, methods, trainer, inference, metrics, report."""

__version__ = "0.1.0"
