"""One module per implementation that bench_peers compares; each gives `open_adapter`."""
