"""The same work side by side with a peer, in one run, as ratios. Results: docs/benchmarks.md."""
