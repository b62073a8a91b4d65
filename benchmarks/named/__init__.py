"""Named things beside what one would use otherwise: `python -m benchmarks.named`."""
